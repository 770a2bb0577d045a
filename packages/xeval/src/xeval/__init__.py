"""The judge: fine-tune a model on one language, score it on every other, with intervals and costs."""

from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

from xeval.compare import Comparison, TaskComparison, compare
from xeval.cost import Cost, append_cost, cost, read_costs, with_costs
from xeval.errors import XevalError
from xeval.folder import DataSet
from xeval.items import Items, read_items
from xeval.protocol import Protocol
from xeval.report import markdown, page, write_plots, write_report
from xeval.results import Result, append_result, append_results, read_results
from xeval.source import LocalFolder, open_source
from xeval.summary import Estimate, Summary, Table, summarise
from xeval.task import FrozenTask, TunedTask
from xeval.tasks import task_of

if TYPE_CHECKING:
    from xeval.running import run
    from xeval.scoring import score
    from xeval.tuned import TunedModel, read_tuned
    from xeval.tuning import tune

__all__ = [
    "Comparison",
    "Cost",
    "DataSet",
    "Estimate",
    "FrozenTask",
    "Items",
    "LocalFolder",
    "Protocol",
    "Result",
    "Summary",
    "Table",
    "TaskComparison",
    "TunedModel",
    "TunedTask",
    "XevalError",
    "__version__",
    "append_cost",
    "append_result",
    "append_results",
    "compare",
    "cost",
    "markdown",
    "open_source",
    "page",
    "read_costs",
    "read_items",
    "read_results",
    "read_tuned",
    "run",
    "score",
    "summarise",
    "task_of",
    "tune",
    "with_costs",
    "write_plots",
    "write_report",
]

__version__ = _version("distillery-xeval")

# These need torch, and are fetched when asked for.
_LATE = {
    "TunedModel": "xeval.tuned",
    "read_tuned": "xeval.tuned",
    "run": "xeval.running",
    "score": "xeval.scoring",
    "tune": "xeval.tuning",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name in _LATE:
        from importlib import import_module

        return getattr(import_module(_LATE[name]), name)
    raise AttributeError(f"module 'xeval' has no attribute {name!r}")
