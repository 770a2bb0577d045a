"""How the commands behave: refusals in one sentence on standard error, exit status 2."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from bistil.errors import BistilError
from teacherzoo.cli import console

P = ParamSpec("P")
R = TypeVar("R")


def refusing_plainly(command: Callable[P, R]) -> Callable[P, R]:
    """As teacherzoo does it, for our errors and for those of all that we call."""
    return console.refusing_plainly(command, refusals=_refusals)


def _refusals() -> tuple[type[Exception], ...]:
    """Ours, and those of packages that have been imported; the others, which take their time to import, have refused nothing."""
    kinds = {"vocabmerge.errors": "VocabularyError", "xeval.errors": "XevalError"}
    imported = [getattr(sys.modules[module], kind) for module, kind in kinds.items() if module in sys.modules]  # fmt: skip
    return (BistilError, *imported)
