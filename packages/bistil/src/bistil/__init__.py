"""A small bilingual model out of a big multilingual one."""

from importlib.metadata import version as _version
from typing import TYPE_CHECKING

from vocabmerge.late_names import import_late as _import_late

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

# Most of these take torch, and seconds to import.
_import_late(
    __name__,
    {
        "AdaptError": "bistil.errors",
        "BistilError": "bistil.errors",
        "Comparison": "bistil.compare_recipe",
        "Distillation": "bistil.distilling",
        "ExportError": "bistil.errors",
        "Exported": "bistil.export",
        "ExtractError": "bistil.errors",
        "Extraction": "bistil.extraction",
        "Identity": "bistil.adapt",
        "LanguageTraining": "bistil.language_sft",
        "Matching": "bistil.matching",
        "Measured": "bistil.measure",
        "ModelError": "bistil.errors",
        "Plan": "bistil.plan",
        "ScoreDrop": "bistil.export_scores",
        "Selection": "bistil.selection",
        "SparseError": "bistil.errors",
        "SparseFineTuning": "bistil.sparse_file",
        "SparseTensor": "bistil.sparse_file",
        "Sparsity": "bistil.lottery",
        "Tapped": "bistil.tapping",
        "TaskTeacher": "bistil.adapt",
        "TaskTraining": "bistil.task_training",
        "Terms": "bistil.terms",
        "adapt": "bistil.adapt",
        "apply": "bistil.sparse",
        "choose_layers": "bistil.student",
        "combine": "bistil.sparse",
        "compare": "bistil.compare",
        "compose": "bistil.task_sft",
        "export": "bistil.export",
        "extract": "bistil.extract",
        "int8_scores": "bistil.export_scores",
        "language_sft": "bistil.language_sft",
        "layer_map": "bistil.student",
        "matching_loss": "bistil.matching",
        "measure": "bistil.measure",
        "read_comparison": "bistil.compare_recipe",
        "read_sparse": "bistil.sparse_file",
        "reindex": "bistil.sparse",
        "select": "bistil.selection",
        "student_of": "bistil.student",
        "tap": "bistil.tapping",
        "task_sft": "bistil.task_sft",
        "wear_task": "bistil.task_sft",
        "worn": "bistil.sparse",
        "write_sparse": "bistil.sparse_file",
    },
)
