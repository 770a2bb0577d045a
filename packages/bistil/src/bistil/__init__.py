"""A small bilingual model out of a big multilingual one."""

from importlib.metadata import version as _version
from typing import TYPE_CHECKING

from vocabmerge.late_names import import_late as _import_late

if TYPE_CHECKING:
    from bistil.compare.recipe import Comparison, read_comparison
    from bistil.compare.run import compare
    from bistil.encoders.capture import Activations, capture_activations
    from bistil.errors import (
        AdaptError,
        BistilError,
        ExportError,
        ExtractError,
        FitError,
        MakeError,
        ModelError,
        SparseError,
    )
    from bistil.export.judge.drop import Drop
    from bistil.export.judge.search import BoundError, Trial
    from bistil.export.measure import Measured, measure
    from bistil.export.run import Exported, export
    from bistil.extract.config import Extraction
    from bistil.extract.plan import Plan
    from bistil.extract.run import extract
    from bistil.fit.config import Budget, Fitting
    from bistil.fit.run import fit
    from bistil.losses.matching import Matching, matching_loss
    from bistil.losses.weights import LossWeights, TaskLossWeights
    from bistil.lottery.config import Sparsity
    from bistil.lottery.language import LanguageTraining, language_sft
    from bistil.lottery.select import Selection, select
    from bistil.make.config import Making
    from bistil.make.run import make
    from bistil.multitask.config import TeacherTasks
    from bistil.sparse.apply import applied, apply, combine, reindex
    from bistil.sparse.difference import SparseFineTuning, SparseTensor
    from bistil.sparse.files import read_sparse, write_sparse
    from bistil.student.layers import choose_layers, layer_map, student_of
    from bistil.tasks.adapt import ResultLabel, adapt
    from bistil.tasks.compose import compose
    from bistil.tasks.task_sft import apply_task, task_sft
    from bistil.tasks.teacher import TaskTeacher
    from bistil.tasks.training import TaskTraining
    from bistil.tasks.unlabelled import UnlabelledText

__all__ = [
    "Activations",
    "AdaptError",
    "BistilError",
    "BoundError",
    "Budget",
    "Comparison",
    "Drop",
    "ExportError",
    "Exported",
    "ExtractError",
    "Extraction",
    "FitError",
    "Fitting",
    "LanguageTraining",
    "LossWeights",
    "MakeError",
    "Making",
    "Matching",
    "Measured",
    "ModelError",
    "Plan",
    "ResultLabel",
    "Selection",
    "SparseError",
    "SparseFineTuning",
    "SparseTensor",
    "Sparsity",
    "TaskLossWeights",
    "TaskTeacher",
    "TaskTraining",
    "TeacherTasks",
    "Trial",
    "UnlabelledText",
    "__version__",
    "adapt",
    "applied",
    "apply",
    "apply_task",
    "capture_activations",
    "choose_layers",
    "combine",
    "compare",
    "compose",
    "export",
    "extract",
    "fit",
    "language_sft",
    "layer_map",
    "make",
    "matching_loss",
    "measure",
    "read_comparison",
    "read_sparse",
    "reindex",
    "select",
    "student_of",
    "task_sft",
    "write_sparse",
]

__version__ = _version("bistil")

# Most of these take torch, and seconds to import.
_import_late(
    __name__,
    {
        "AdaptError": "bistil.errors",
        "BistilError": "bistil.errors",
        "BoundError": "bistil.export.judge.search",
        "Drop": "bistil.export.judge.drop",
        "Trial": "bistil.export.judge.search",
        "Comparison": "bistil.compare.recipe",
        "ExportError": "bistil.errors",
        "Exported": "bistil.export.run",
        "ExtractError": "bistil.errors",
        "Extraction": "bistil.extract.config",
        "Budget": "bistil.fit.config",
        "FitError": "bistil.errors",
        "Fitting": "bistil.fit.config",
        "ResultLabel": "bistil.tasks.adapt",
        "LanguageTraining": "bistil.lottery.language",
        "MakeError": "bistil.errors",
        "Making": "bistil.make.config",
        "LossWeights": "bistil.losses.weights",
        "Matching": "bistil.losses.matching",
        "Measured": "bistil.export.measure",
        "ModelError": "bistil.errors",
        "Plan": "bistil.extract.plan",
        "Selection": "bistil.lottery.select",
        "SparseError": "bistil.errors",
        "SparseFineTuning": "bistil.sparse.difference",
        "SparseTensor": "bistil.sparse.difference",
        "Sparsity": "bistil.lottery.config",
        "Activations": "bistil.encoders.capture",
        "TaskLossWeights": "bistil.losses.weights",
        "TaskTeacher": "bistil.tasks.teacher",
        "TaskTraining": "bistil.tasks.training",
        "TeacherTasks": "bistil.multitask.config",
        "UnlabelledText": "bistil.tasks.unlabelled",
        "adapt": "bistil.tasks.adapt",
        "apply": "bistil.sparse.apply",
        "choose_layers": "bistil.student.layers",
        "combine": "bistil.sparse.apply",
        "compare": "bistil.compare.run",
        "compose": "bistil.tasks.compose",
        "export": "bistil.export.run",
        "extract": "bistil.extract.run",
        "fit": "bistil.fit.run",
        "language_sft": "bistil.lottery.language",
        "layer_map": "bistil.student.layers",
        "matching_loss": "bistil.losses.matching",
        "make": "bistil.make.run",
        "measure": "bistil.export.measure",
        "read_comparison": "bistil.compare.recipe",
        "read_sparse": "bistil.sparse.files",
        "reindex": "bistil.sparse.apply",
        "select": "bistil.lottery.select",
        "student_of": "bistil.student.layers",
        "capture_activations": "bistil.encoders.capture",
        "task_sft": "bistil.tasks.task_sft",
        "apply_task": "bistil.tasks.task_sft",
        "applied": "bistil.sparse.apply",
        "write_sparse": "bistil.sparse.files",
    },
)
