"""Options that commands have in common."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bistil.errors import AdaptError, BistilError
from bistil.losses.table import Term, settings_of

if TYPE_CHECKING:
    from bistil.lottery.config import Sparsity
    from xeval import Protocol

Data = Annotated[
    str | None,
    typer.Option(
        help="A folder of data as xeval reads it, or hub:NAME.", show_default="the folder data"
    ),
]
FullSteps = Annotated[
    int | None, typer.Option(help="Steps of the phase that trains all; as many by default.")
]
Pooling = Annotated[
    str | None,
    typer.Option(help="Sub-words stand for words by: first|mean.", show_default="first"),
]
Precision = Annotated[str, typer.Option(help="auto (bfloat16 where there is) | float32.")]
Labels = Annotated[
    str | None, typer.Option(help="Entity types, for ner: common|own.", show_default="common")
]
Count = Annotated[int | None, typer.Option(help="Or their number.")]
Norms = Annotated[bool, typer.Option(help="Train normalisation layers, too.")]
Full = Annotated[bool, typer.Option(help="Fine-tune everything, in one phase.")]
Values = Annotated[str, typer.Option(help="Number format of the file: bfloat16|float32.")]
Seed = Annotated[int, typer.Option(min=0, help="Of head, order and dropout.")]
RowLength = Annotated[int, typer.Option(help="Tokens in a row.")]
ForwardPrecision = Annotated[
    str, typer.Option(help="auto (bfloat16 where the machine has it) | float32 | bfloat16.")
]
OrderSeed = Annotated[int, typer.Option(min=0, help="Of order and masks.")]
Revision = Annotated[str | None, typer.Option(help="Of a model on the Hub.")]
Arguments = Annotated[
    Path | None, typer.Option("--trainer", help="JSON file of further Trainer arguments.")
]


def with_term_options(*terms: Term) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command, in place of its `**` parameter, an option for each term's weight and for each of their settings."""
    kinds: dict[str, Any] = {
        term.name: (float, f"Weight of: {term.plain_name}.", str(term.weight)) for term in terms
    }
    for setting in settings_of(terms).values():
        shown = False if setting.kind is bool else str(setting.default)
        plain = setting.plain_name[0].upper() + setting.plain_name[1:]
        kinds[setting.name] = (setting.kind, f"{plain}.", shown)
    options = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None,
            annotation=Annotated[kind | None, typer.Option(help=text, show_default=shown)],
        )
        for name, (kind, text, shown) in kinds.items()
    ]  # fmt: skip

    def decorate(command: Any) -> Any:
        signature = inspect.signature(command, eval_str=True)
        named = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
        command.__signature__ = signature.replace(parameters=[*named, *options])
        command.__annotations__ |= {option.name: option.annotation for option in options}
        return command

    return decorate


def language_sources(option: str, pairs: Sequence[str], form: str) -> dict[str, list[str]]:
    """Per language what was given as `LANGUAGE=SOURCE`.

    Args:
        option: as it is typed.
        pairs: that were given.
        form: of each, for the refusal.

    Raises:
        BistilError: for one of another form.
    """
    sources: dict[str, list[str]] = {}
    for pair in pairs:
        language, _, source = pair.partition("=")
        if not language or not source:
            raise BistilError(f"{option} must be {form}, got {pair!r}.")
        sources.setdefault(language, []).append(source)
    return sources


def layers_in(text: str | None) -> Any:
    """Layers as they are typed: numbers with commas between, else the name of a way to choose them, or None."""
    if text and all(part.strip().isdecimal() for part in text.split(",")):
        return tuple(int(part) for part in text.split(","))
    return text


def arguments_in(file: Path | None) -> dict[str, Any]:
    """The Trainer arguments in a JSON file.

    Raises:
        AdaptError: for a file that holds something else.
    """
    if file is None:
        return {}
    try:
        stated = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdaptError(f"{file}: cannot be read as JSON ({error}); write a JSON object.") from error  # fmt: skip
    if not isinstance(stated, dict):
        raise AdaptError(f"{file}: expected a JSON object of Trainer arguments, got {stated!r}.")
    return stated


def given(**options: Any) -> dict[str, Any]:
    """The options that were typed: None stands for the function's own default."""
    return {name: value for name, value in options.items() if value is not None}


def refuse(options: Mapping[str, Any], *, because: str) -> None:
    """Refuse options that would have no effect.

    Raises:
        AdaptError: naming the first that was typed.
    """
    for flag, value in options.items():
        if value is not None and value is not False and value != []:
            raise AdaptError(f"{flag} has no effect {because}; leave it out.")


def check_precision(precision: str) -> None:
    """As a protocol checks it.

    Raises:
        AdaptError: for neither.
    """
    if precision not in ("auto", "float32"):
        raise AdaptError(f"--precision must be auto or float32, got {precision!r}.")


def layers_of(stated: str | None) -> tuple[int, ...] | None:
    """The numbers in a list like "1,3,5"; None where none was given.

    Raises:
        AdaptError: for anything else.
    """
    if stated is None:
        return None
    parts = [part.strip() for part in stated.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise AdaptError(f"--layers must be numbers from 0 with commas between, such as 1,3,5, got {stated!r}.")  # fmt: skip
    return tuple(int(part) for part in parts)


def refuse_for_task(task: str, *, labels: str | None, pooling: str | None) -> None:
    """Refuse options that would have no effect on this task.

    Raises:
        AdaptError: naming the option.
    """
    if task != "ner":
        refuse({"--labels": labels}, because=f"on {task!r}, which has no entities")
    if task == "qa":
        refuse({"--pooling": pooling}, because="on 'qa', which points at sub-words")


def protocol_of(**settings: Any) -> Protocol:
    """The protocol of a task's training, where what was not typed is `PROTOCOL`'s."""
    from dataclasses import replace

    from bistil.tasks.training import PROTOCOL

    return replace(PROTOCOL, **given(**settings))


def sparsity_of(
    default: Sparsity,
    *,
    density: float | None,
    count: int | None,
    full_steps: int | None,
    l1: float | None,
    norms: bool,
    full: bool,
    values: str,
) -> Sparsity:
    """`Sparsity` from its options, where what was not typed is `default`'s, or without effect under `--full`.

    Raises:
        AdaptError: for options that exclude one another.
    """
    from dataclasses import replace

    from bistil.lottery.config import Sparsity

    if full:
        idle = {"--density": density, "--count": count, "--full-steps": full_steps, "--norms": norms}  # fmt: skip
        refuse(idle, because="with --full, which trains everything in one phase")
        default = Sparsity(full=True)
    if density is not None and count is not None:
        raise AdaptError("--density and --count say the same in two ways; give one of them.")
    changes = given(density=density, count=count, full_steps=full_steps, l1=l1)
    return replace(default, **changes, freeze_norms=not norms, values=values)
