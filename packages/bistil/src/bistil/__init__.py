"""A small bilingual model out of a big multilingual one."""

import sys as _sys
from importlib import import_module as _import_module
from importlib.metadata import version as _version
from types import ModuleType as _ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bistil.adapt import Identity, TaskTeacher, adapt
    from bistil.compare import compare
    from bistil.compare_recipe import Comparison, read_comparison
    from bistil.distilling import Distillation
    from bistil.errors import (
        AdaptError,
        BistilError,
        ExportError,
        ExtractError,
        ModelError,
        SparseError,
    )
    from bistil.export import Exported, export
    from bistil.export_scores import ScoreDrop, int8_scores
    from bistil.extract import extract
    from bistil.extraction import Extraction
    from bistil.language_sft import LanguageTraining, language_sft
    from bistil.lottery import Sparsity
    from bistil.matching import Matching, matching_loss
    from bistil.measure import Measured, measure
    from bistil.plan import Plan
    from bistil.selection import Selection, select
    from bistil.sparse import apply, combine, reindex, worn
    from bistil.sparse_file import SparseFineTuning, SparseTensor, read_sparse, write_sparse
    from bistil.student import choose_layers, layer_map, student_of
    from bistil.tapping import Tapped, tap
    from bistil.task_sft import compose, task_sft, wear_task
    from bistil.task_training import TaskTraining
    from bistil.terms import Terms

__all__ = [
    "AdaptError",
    "BistilError",
    "Comparison",
    "Distillation",
    "ExportError",
    "Exported",
    "ExtractError",
    "Extraction",
    "Identity",
    "LanguageTraining",
    "Matching",
    "Measured",
    "ModelError",
    "Plan",
    "ScoreDrop",
    "Selection",
    "SparseError",
    "SparseFineTuning",
    "SparseTensor",
    "Sparsity",
    "Tapped",
    "TaskTeacher",
    "TaskTraining",
    "Terms",
    "__version__",
    "adapt",
    "apply",
    "choose_layers",
    "combine",
    "compare",
    "compose",
    "export",
    "extract",
    "int8_scores",
    "language_sft",
    "layer_map",
    "matching_loss",
    "measure",
    "read_comparison",
    "read_sparse",
    "reindex",
    "select",
    "student_of",
    "tap",
    "task_sft",
    "wear_task",
    "worn",
    "write_sparse",
]

__version__ = _version("bistil")

# Each name and the module that has it, imported when somebody asks: most of these take torch and seconds to import.
_HOMES = {
    "AdaptError": "errors",
    "BistilError": "errors",
    "Comparison": "compare_recipe",
    "Distillation": "distilling",
    "ExportError": "errors",
    "Exported": "export",
    "ExtractError": "errors",
    "Extraction": "extraction",
    "Identity": "adapt",
    "LanguageTraining": "language_sft",
    "Matching": "matching",
    "Measured": "measure",
    "ModelError": "errors",
    "Plan": "plan",
    "ScoreDrop": "export_scores",
    "Selection": "selection",
    "SparseError": "errors",
    "SparseFineTuning": "sparse_file",
    "SparseTensor": "sparse_file",
    "Sparsity": "lottery",
    "Tapped": "tapping",
    "TaskTeacher": "adapt",
    "TaskTraining": "task_training",
    "Terms": "terms",
    "adapt": "adapt",
    "apply": "sparse",
    "choose_layers": "student",
    "combine": "sparse",
    "compare": "compare",
    "compose": "task_sft",
    "export": "export",
    "extract": "extract",
    "int8_scores": "export_scores",
    "language_sft": "language_sft",
    "layer_map": "student",
    "matching_loss": "matching",
    "measure": "measure",
    "read_comparison": "compare_recipe",
    "read_sparse": "sparse_file",
    "reindex": "sparse",
    "select": "selection",
    "student_of": "student",
    "tap": "tapping",
    "task_sft": "task_sft",
    "wear_task": "task_sft",
    "worn": "sparse",
    "write_sparse": "sparse_file",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


class _Package(_ModuleType):
    """Python puts a submodule into its package once it is imported; `bistil.extract` stays the function all the same."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, _ModuleType) and _HOMES.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


_sys.modules[__name__].__class__ = _Package
