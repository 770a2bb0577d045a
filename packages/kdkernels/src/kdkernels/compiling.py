"""What torch.compile may take for granted, and what is a value only when a compiled graph runs."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from torch import Tensor, nn

P = ParamSpec("P")
R = TypeVar("R")


def constant(function: Callable[P, R]) -> Callable[P, R]:
    """Let torch.compile run a function where it traces a call, and take what it returns as a constant of the graph.

    As `torch.compiler.assume_constant_result`, which imports the compiler with the package.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]  # dynamo reads it of any function
    return function


def has_values(tensor: object) -> bool:
    """Whether a tensor can be read: not while a compiler traces, which puts another class in its place."""
    return type(tensor) in (Tensor, nn.Parameter)
