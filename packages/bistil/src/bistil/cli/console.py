"""How the commands behave: refusals in one sentence on standard error, exit status 2."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from bistil.errors import BistilError
from teacherzoo.cli.console import refusing_plainly as teacherzoo_refusing_plainly
from teacherzoo.errors import TeacherzooError

P = ParamSpec("P")
R = TypeVar("R")


def refusing_plainly(command: Callable[P, R]) -> Callable[P, R]:
    """As teacherzoo does it, for our errors and for those of all that we call."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except _refusals() as error:
            raise TeacherzooError(str(error)) from error

    return teacherzoo_refusing_plainly(run)


def _refusals() -> tuple[type[Exception], ...]:
    """Ours, and those of packages that have been imported; the others, which take their time to import, have refused nothing."""
    kinds = {"vocabmerge.errors": "VocabularyError", "xeval.errors": "XevalError"}
    others = [getattr(sys.modules[module], kind) for module, kind in kinds.items() if module in sys.modules]  # fmt: skip
    return (BistilError, *others)
