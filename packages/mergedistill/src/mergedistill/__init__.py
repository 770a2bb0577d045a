"""Many masked-LM teachers, one multilingual student."""

from importlib.metadata import version as _version
from typing import TYPE_CHECKING

from mergedistill.errors import FuseError, MergedistillError, RecipeError, StageError
from vocabmerge.late_names import import_late as _import_late

if TYPE_CHECKING:
    from mergedistill.fuse.fuse import fuse
    from mergedistill.rank.corpus_warnings import corpus_warnings
    from mergedistill.recipe.read import read_recipe
    from mergedistill.recipe.recipe import Recipe
    from mergedistill.run.run import run
    from mergedistill.run.status import status

__all__ = [
    "FuseError",
    "MergedistillError",
    "Recipe",
    "RecipeError",
    "StageError",
    "__version__",
    "corpus_warnings",
    "fuse",
    "read_recipe",
    "run",
    "status",
]

__version__ = _version("mergedistill")

# These need torch or take long to import.
_import_late(
    __name__,
    {
        "Recipe": "mergedistill.recipe.recipe",
        "read_recipe": "mergedistill.recipe.read",
        "run": "mergedistill.run.run",
        "status": "mergedistill.run.status",
        "corpus_warnings": "mergedistill.rank.corpus_warnings",
        "fuse": "mergedistill.fuse.fuse",
    },
)
