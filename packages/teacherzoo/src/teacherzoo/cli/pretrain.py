"""The command that pretrains a teacher, from nothing or from an encoder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from teacherzoo.cli.console import Json, Quiet, corpora_named, progress, refusing_plainly
from teacherzoo.cli.teachers import Column, CorpusOption
from teacherzoo.errors import RecordError

_Number = TypeVar("_Number", int, float)
_NEEDS_NOTHING = "says what a model from nothing looks like; leave it out with --from."
_NEEDS_SOURCE = "is about a model that is there; name one with --from, or leave it out."


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("pretrain")(refusing_plainly(pretrain_command, refusals=_refusals))


def pretrain_command(
    corpus: CorpusOption,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the teacher.")],
    source: Annotated[
        str | None, typer.Option("--from", help="Encoder to go on from; none: from nothing.")
    ] = None,
    family: Annotated[str | None, typer.Option(help="wordpiece (default)|unigram|bpe.")] = None,
    vocabulary: Annotated[
        int | None, typer.Option(help="Pieces: 5000, or as needed (--from).")
    ] = None,
    keep_vocabulary: Annotated[bool, typer.Option("--keep-vocabulary", help="Trim none.")] = False,
    cased: Annotated[bool | None, typer.Option(help="Tell upper from lower case.")] = None,
    architecture: Annotated[str | None, typer.Option(help="modernbert (default), bert, …")] = None,
    layers: Annotated[
        str | None, typer.Option(help="How many (3); with --from first-K or 0,1,2 (all).")
    ] = None,
    width: Annotated[int | None, typer.Option(help="Of the hidden states (192).")] = None,
    steps: Annotated[int, typer.Option(help="Optimiser steps of all weights.")] = 1200,
    head_steps: Annotated[
        int | None, typer.Option(help="Of a new head alone, before (100).")
    ] = None,
    batch: Annotated[str, typer.Option(help="Blocks in a step; 32:128 grows.")] = "64",
    length: Annotated[int, typer.Option(help="Tokens in a block.")] = 64,
    mask: Annotated[str, typer.Option(help="Share hidden; 0.3:0.15 falls.")] = "0.15",
    learning_rate: Annotated[
        float | None, typer.Option(help="At its peak (2e-3; 3e-4 with --from).")
    ] = None,
    head_learning_rate: Annotated[
        float | None, typer.Option(help="The head's, with --from (1e-3).")
    ] = None,
    states: Annotated[float | None, typer.Option(help="Weight of the source's states (0).")] = None,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 500,
    seed: Annotated[int, typer.Option(help="Of everything.")] = 0,
    held_out_share: Annotated[float, typer.Option(help="Share kept from training.")] = 0.01,
    column: Column = "text",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Pretrain a teacher from text; the same command resumes an interrupted run."""
    first_batch, last_batch = _course("--batch", batch, int)
    first_rate, last_rate = _course("--mask", mask, float)
    training: dict[str, Any] = {
        "steps": steps,
        "batch": first_batch,
        "last_batch": last_batch,
        "length": length,
        "mask_rate": first_rate,
        "last_mask_rate": last_rate,
        "checkpoint_every": checkpoint_every,
        "seed": seed,
        **_given(learning_rate=learning_rate, vocabulary=vocabulary),
    }
    from_nothing = _given(family=family, cased=cased, architecture=architecture, width=width)
    from_source = _given(
        head_steps=head_steps,
        head_learning_rate=head_learning_rate,
        states=states,
        keep_vocabulary=keep_vocabulary or None,
    )
    _refuse(from_source if source is None else from_nothing, source is None)
    corpora = corpora_named(corpus, column=column, held_out_share=held_out_share)
    from teacherzoo.pretrain.config import ContinuedPretraining, PretrainingConfig
    from teacherzoo.pretrain.continued import continue_pretraining
    from teacherzoo.pretrain.pretrain import pretrain_teacher

    if source is None:
        config = PretrainingConfig(
            **training, **from_nothing, **_given(layers=_layer_count(layers))
        )
        with progress(quiet=quiet) as watch:
            teacher = pretrain_teacher(corpora, output, config=config, watch=watch)
    else:
        further = ContinuedPretraining(**training, **from_source, layers=_layers(layers))
        from teacherzoo.pretrain.source import check_source

        check_source(source, further)  # before anything slow is imported
        with progress(quiet=quiet) as watch:
            teacher = continue_pretraining(source, corpora, output, config=further, watch=watch)
    if as_json:
        typer.echo(json.dumps({**asdict(teacher), "folder": str(teacher.folder)}))
        return
    typer.echo(f"{output}: {teacher.parameters:,} parameters, {teacher.seconds:.0f} s")
    for language, loss in teacher.loss.items():
        typer.echo(
            f"  {language}: held-out loss {loss:.3f}, accuracy {100 * teacher.accuracy[language]:.1f} %"
        )


def _refusals() -> tuple[type[Exception], ...]:
    from vocabmerge import VocabularyError

    return (VocabularyError,)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _refuse(unfit: dict[str, Any], from_nothing: bool) -> None:
    for name in unfit:
        option = f"--{name.replace('_', '-')}"
        raise RecordError(f"{option} {_NEEDS_SOURCE if from_nothing else _NEEDS_NOTHING}")


def _course(
    option: str, text: str, number: Callable[[str], _Number]
) -> tuple[_Number, _Number | None]:
    """The first and the last value of "32:128"; no last one where there is one value."""
    first, separator, last = text.partition(":")
    try:
        return number(first), number(last) if separator else None
    except ValueError as error:
        raise RecordError(
            f"{option} must be a number, or the first and the last with a colon between, got {text!r}."
        ) from error


def _layer_count(text: str | None) -> int | None:
    if text is not None and not text.isdecimal():
        raise RecordError(
            f"--layers must be a number for a model from nothing, got {text!r}; with --from it names a source's layers."
        )
    return None if text is None else int(text)


def _layers(text: str | None) -> tuple[int, ...] | int | None:
    if text is None:
        return None
    prefix, _, count = text.partition("-")
    if prefix == "first" and count.isdecimal():
        return int(count)
    numbers = text.split(",")
    if not all(number.strip().isdecimal() for number in numbers):
        raise RecordError(
            f"--layers must be numbers of the source's layers such as 0,1,2, or first-6 for its first six, got {text!r}."
        )
    return tuple(int(number) for number in numbers)
