"""Packages whose names are imported when they are first asked for, so that a command's `--help` waits for no library."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any


class _LatePackage(ModuleType):
    """A module-level `__getattr__` alone would not do: importing the submodule `rank` puts it in the place of the function."""

    _late: Mapping[str, str]

    def __getattr__(self, name: str) -> Any:
        if name not in self.__dict__["_late"]:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        value = getattr(import_module(self._late[name]), name)
        super().__setattr__(name, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in self._late and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*self.__dict__, *self._late})


def import_late(package: str, names: Mapping[str, str]) -> None:
    """From now on, `package` imports these names when they are asked for.

    Args:
        package: `__name__` of a package that is being imported.
        names: each with the module that has it. A module of the same name as a function never takes its place.
    """
    module = sys.modules[package]
    module.__dict__["_late"] = dict(names)
    module.__class__ = _LatePackage
