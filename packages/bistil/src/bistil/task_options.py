"""Options that the commands which train on a task have in common."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from bistil.errors import AdaptError

Data = Annotated[str, typer.Option(help="A folder of data as xeval reads it, or hub:NAME.")]
Steps = Annotated[int, typer.Option(help="Steps of the phase that trains the chosen entries.")]
FullSteps = Annotated[
    int | None, typer.Option(help="Steps of the phase that trains all; as many by default.")
]
Batch = Annotated[int, typer.Option(help="Examples (blocks of text) in a step.")]
Rate = Annotated[float, typer.Option(help="Learning rate at its peak.")]
Warmup = Annotated[float, typer.Option(help="Share of the steps that lead up to it.")]
Decay = Annotated[float, typer.Option(help="Weight decay of the chosen entries.")]
Every = Annotated[int, typer.Option(help="Steps between evaluations and checkpoints.")]
Patience = Annotated[int, typer.Option(help="Evaluations without improvement that end a phase.")]
Length = Annotated[int, typer.Option(help="Sub-words in a row.")]
Pooling = Annotated[str, typer.Option(help="Sub-words stand for words by: first|mean.")]
Precision = Annotated[str, typer.Option(help="auto (bfloat16 where there is) | float32.")]
Labels = Annotated[str, typer.Option(help="Entity types: common|own.")]
Density = Annotated[float | None, typer.Option(help="Share of the body's entries to keep.")]
Count = Annotated[int | None, typer.Option(help="Or their number.")]
Distance = Annotated[float, typer.Option(help="L1 weight of the distance from the start.")]
Norms = Annotated[bool, typer.Option(help="Train normalisation layers, too.")]
Full = Annotated[bool, typer.Option(help="Fine-tune everything, in one phase.")]
Values = Annotated[str, typer.Option(help="Number format of the file: bfloat16|float32.")]
Seed = Annotated[int, typer.Option(min=0, help="Of head, order and dropout.")]
Arguments = Annotated[
    Path | None, typer.Option("--trainer", help="JSON file of further Trainer arguments.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def arguments_in(file: Path | None) -> dict[str, Any]:
    """The Trainer arguments in a JSON file.

    Raises:
        AdaptError: for a file that holds something else.
    """
    if file is None:
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdaptError(f"{file}: cannot be read as JSON ({error}); write a JSON object.") from error  # fmt: skip
    if not isinstance(found, dict):
        raise AdaptError(f"{file}: expected a JSON object of Trainer arguments, got {found!r}.")
    return found


def sparsity_of(
    density: float | None,
    count: int | None,
    full_steps: int | None,
    l1: float,
    norms: bool,
    full: bool,
    values: str,
    *,
    default: float,
) -> Any:
    """`Sparsity` from its options.

    Raises:
        AdaptError: for options that exclude one another.
    """
    from bistil.lottery import Sparsity

    if full and (density, count, full_steps) != (None, None, None):
        raise AdaptError("--full keeps everything in one phase; leave out --density, --count and --full-steps.")  # fmt: skip
    if density is not None and count is not None:
        raise AdaptError("--density and --count say the same in two ways; give one of them.")
    return Sparsity(
        density=default if density is None else density,
        count=count,
        full_steps=full_steps,
        l1=l1,
        freeze_norms=not norms,
        full=full,
        values=values,
    )
