"""Many masked-LM teachers, one multilingual student."""

import sys as _sys
from importlib import import_module as _import_module
from importlib.metadata import version as _version
from types import ModuleType as _ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

# Each name and the module that has it, imported when somebody asks: some of these take torch and seconds to import.
_HOMES = {
    "MergedistillError": "errors",
    "Recipe": "recipe",
    "RecipeError": "errors",
    "StageError": "errors",
    "push": "hub",
    "read_recipe": "recipe",
    "run": "run",
    "status": "run",
    "suspicions": "suspicions",
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
    """Python puts a submodule into its package once it is imported; `mergedistill.run` stays the function all the same."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, _ModuleType) and _HOMES.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


_sys.modules[__name__].__class__ = _Package
