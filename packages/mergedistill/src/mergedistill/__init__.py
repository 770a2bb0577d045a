"""Many masked-LM teachers, one multilingual student."""

from importlib.metadata import version as _version
from typing import TYPE_CHECKING

from mergedistill.errors import MergedistillError, RecipeError, StageError
from vocabmerge.late_names import import_late as _import_late

if TYPE_CHECKING:
    from mergedistill.hub import push
    from mergedistill.recipe import Recipe, read_recipe
    from mergedistill.run import run, status
    from mergedistill.suspicions import suspicions

__all__ = [
    "MergedistillError",
    "Recipe",
    "RecipeError",
    "StageError",
    "__version__",
    "push",
    "read_recipe",
    "run",
    "status",
    "suspicions",
]

__version__ = _version("mergedistill")

# These need torch or take long to import.
_import_late(
    __name__,
    {
        "Recipe": "mergedistill.recipe",
        "push": "mergedistill.hub",
        "read_recipe": "mergedistill.recipe",
        "run": "mergedistill.run",
        "status": "mergedistill.run",
        "suspicions": "mergedistill.suspicions",
    },
)
