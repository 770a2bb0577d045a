"""How the commands behave: refusals in one sentence on standard error, exit status 2."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from mergedistill.errors import MergedistillError
from teacherzoo.cli import console
from vocabmerge.errors import VocabularyError

P = ParamSpec("P")
R = TypeVar("R")


def refusing_plainly(command: Callable[P, R]) -> Callable[P, R]:
    """As teacherzoo does it, for our errors and for those of all that we call."""
    return console.refusing_plainly(command, refusals=lambda: (MergedistillError, VocabularyError))
