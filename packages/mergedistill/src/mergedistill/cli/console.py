"""How the commands behave: refusals in one sentence on standard error, exit status 2."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from mergedistill.errors import MergedistillError
from teacherzoo.cli.console import refusing_plainly as teacherzoo_refusing_plainly
from teacherzoo.errors import TeacherzooError
from vocabmerge.errors import VocabularyError

P = ParamSpec("P")
R = TypeVar("R")


def refusing_plainly(command: Callable[P, R]) -> Callable[P, R]:
    """As teacherzoo does it, for our errors and for those of all that we call."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (MergedistillError, VocabularyError) as error:
            raise TeacherzooError(str(error)) from error

    return teacherzoo_refusing_plainly(run)
