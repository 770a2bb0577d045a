"""Many masked-LM teachers, one multilingual student."""

from importlib.metadata import version as _version

from mergedistill.errors import MergedistillError, RecipeError, StageError
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
