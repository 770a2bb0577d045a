"""The judge: fine-tune a model on one language, score it on every other, with intervals and costs."""

from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

from xeval.cost.measure import Cost, append_cost, cost, read_costs, with_costs
from xeval.data.folder import DataSet
from xeval.data.source import LocalFolder, open_source
from xeval.errors import XevalError
from xeval.protocol import Protocol
from xeval.report import markdown, page, write_plots, write_report
from xeval.statistics.compare import Comparison, TaskComparison, compare
from xeval.statistics.compare_mteb import MtebComparison, MtebTaskScore, compare_mteb
from xeval.statistics.items import Items, read_items
from xeval.statistics.result import Result
from xeval.statistics.results_file import append_result, append_results, read_results
from xeval.statistics.summary import Estimate, Summary, Table, summarise
from xeval.task_templates.task import FineTunedTask, ProbeTask, ZeroShotTask
from xeval.tasks import task_of

if TYPE_CHECKING:
    from xeval.evaluate.runner import run
    from xeval.evaluate.score import score
    from xeval.finetune.checkpoint import FineTunedModel, read_finetuned
    from xeval.finetune.tune import tune

__all__ = [
    "Comparison",
    "Cost",
    "DataSet",
    "Estimate",
    "FineTunedModel",
    "FineTunedTask",
    "Items",
    "LocalFolder",
    "MtebComparison",
    "MtebTaskScore",
    "ProbeTask",
    "Protocol",
    "Result",
    "Summary",
    "Table",
    "TaskComparison",
    "XevalError",
    "ZeroShotTask",
    "__version__",
    "append_cost",
    "append_result",
    "append_results",
    "compare",
    "compare_mteb",
    "cost",
    "markdown",
    "open_source",
    "page",
    "read_costs",
    "read_finetuned",
    "read_items",
    "read_results",
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
    "FineTunedModel": "xeval.finetune.checkpoint",
    "read_finetuned": "xeval.finetune.checkpoint",
    "run": "xeval.evaluate.runner",
    "score": "xeval.evaluate.score",
    "tune": "xeval.finetune.tune",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name in _LATE:
        from importlib import import_module

        return getattr(import_module(_LATE[name]), name)
    raise AttributeError(f"module 'xeval' has no attribute {name!r}")
