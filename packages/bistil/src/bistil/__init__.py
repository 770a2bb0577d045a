"""A small bilingual model out of a big multilingual one."""

from importlib.metadata import version as _version

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
from bistil.teaching import Terms

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
