"""Many masked-LM teachers, one multilingual student."""

from importlib.metadata import version as _version

from mergedistill.errors import MergedistillError, RecipeError, StageError
from mergedistill.recipe import Recipe, read_recipe
from mergedistill.run import run, status

__all__ = [
    "MergedistillError",
    "Recipe",
    "RecipeError",
    "StageError",
    "__version__",
    "read_recipe",
    "run",
    "status",
]

__version__ = _version("mergedistill")
