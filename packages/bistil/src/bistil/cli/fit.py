"""The command `fit`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from bistil.cli.console import refusing_plainly
from bistil.cli.options import (
    ForwardPrecision,
    OrderSeed,
    Revision,
    RowLength,
    language_sources,
    layers_in,
)
from bistil.errors import FitError
from bistil.fit.config import Budget, Fitting, parse_bytes, parse_latency
from bistil.make.config import parse_size
from bistil.make.texts import sources_of
from teacherzoo.cache import refuse_what_exists
from teacherzoo.cli.console import Json, Quiet, progress
from teacherzoo.encoders.layers import Strategy
from teacherzoo.processes import rank

_DEFAULT = Fitting()


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("fit")(refusing_plainly(fit_command))


def fit_command(
    model: Annotated[str, typer.Argument(help="A model folder or a Hub name.")],
    language: Annotated[
        list[str],
        typer.Option(
            help="LANGUAGE=FILE, folder or hub:NAME[:CONFIG[:SPLIT]] of text; repeat, the source first. Rerankers and classifiers of "
            "two texts read lines `first TAB second`."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")],
    size: Annotated[
        str | None, typer.Option(help="The budget: parameters at most, such as 20M.")
    ] = None,
    max_bytes: Annotated[
        str | None,
        typer.Option("--bytes", help="Or bytes of the eight-bit graph of export, such as 25MB."),
    ] = None,
    latency: Annotated[
        str | None, typer.Option(help="Or the time of a text at one thread here, such as 5ms.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Judge shapes by this task of xeval, such as pos, in place of text."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Its data: a folder as xeval reads it, or hub:NAME.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", "--dry-run", help="Show what the budget buys; train nothing.")
    ] = False,
    candidates: Annotated[int, typer.Option(help="Shapes that are tried.")] = _DEFAULT.candidates,
    trial_steps: Annotated[
        int, typer.Option(help="Of the first round; half the shapes get twice as many, and so on.")
    ] = _DEFAULT.trial_steps,
    steps: Annotated[int, typer.Option(help="Of the chosen one.")] = _DEFAULT.steps,
    layers: Annotated[
        str | None,
        typer.Option(
            help="Only last|bottom|even|outer|alternate|last-k choices of layers, or these: 0,3,5."
        ),
    ] = None,
    width: Annotated[int | None, typer.Option(help="Only this width.")] = None,
    feed_forward: Annotated[
        int | None, typer.Option(help="Only so many feed-forward units.")
    ] = None,
    pieces: Annotated[int | None, typer.Option(help="Only so many pieces.")] = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="Rank shapes by the mean of all judged lines or the worst twentieth: mean|worst; of vectors worst by default, else mean."
        ),
    ] = _DEFAULT.by,
    units: Annotated[
        str,
        typer.Option(
            help="What narrower shapes keep, by importance: reconstruction|taylor|bottleneck."
        ),
    ] = _DEFAULT.units,
    lines: Annotated[int, typer.Option(help="Of each language at most.")] = _DEFAULT.lines,
    judged_lines: Annotated[
        int, typer.Option(help="Of these, kept out of training to judge by.")
    ] = _DEFAULT.judged_lines,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="Before the lines of a sentence encoder that expects one; repeat."),
    ] = None,
    batch: Annotated[int, typer.Option(help="Rows in a batch.")] = _DEFAULT.batch,
    length: RowLength = _DEFAULT.length,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="At its peak; by kind and what a cut has lost unless given."),
    ] = None,
    precision: ForwardPrecision = _DEFAULT.precision,
    seed: OrderSeed = _DEFAULT.seed,
    revision: Revision = None,
    cache_dir: Annotated[
        Path | None,
        typer.Option("--cache", help="Folder that keeps what was measured for other budgets."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """This model, in these languages, within this budget. Run it again to go on where it stopped."""
    budget = Budget(
        size=None if size is None else parse_size(size),
        bytes=None if max_bytes is None else parse_bytes(max_bytes),
        latency=None if latency is None else parse_latency(latency),
    )
    fitting = Fitting(
        candidates=candidates, trial_steps=trial_steps, steps=steps, lines=lines, judged_lines=judged_lines, layers=_layers(layers), width=width,
        feed_forward=feed_forward, pieces=pieces, by=by, units=units, batch=batch, length=length, learning_rate=learning_rate, prompts=tuple(prompt or ()),
        precision=precision, seed=seed,
    )  # fmt: skip
    texts = language_sources("--language", language, "LANGUAGE=FILE, a folder or hub:NAME")
    # What needs no library that takes seconds to import is refused at once.
    sources_of(list(texts), texts)
    if (task is None) != (data is None):
        raise FitError("--task and --data go together; give both, or neither.")
    refuse_what_exists(out, FitError)
    from bistil.fit.page import table, verdict
    from bistil.fit.run import PAGE, STUDENT, fit

    def tell(record: Mapping[str, Any]) -> None:
        for line in table(record) if rank() == 0 else ():
            typer.echo(line, err=True)

    with progress(quiet=quiet) as watch:
        record = fit(
            model,
            texts,
            out,
            budget=budget,
            task=task,
            data=data,
            fitting=fitting,
            plan=plan,
            cache_dir=cache_dir,
            revision=revision,
            tell=(lambda record: None) if quiet or plan else tell,
            watch=watch,
        )
    if rank() != 0:
        return
    if as_json:
        typer.echo(json.dumps({"out": str(out), **record}, default=str))
        return
    for line in [*table(record), *verdict(record)]:
        typer.echo(line)
    if not plan:
        typer.echo(f"{out / STUDENT}; all of it: {out / PAGE}")


def _layers(stated: str | None) -> str | tuple[int, ...] | None:
    layers: str | tuple[int, ...] | None = layers_in(stated)
    if isinstance(layers, str) and layers not in get_args(Strategy):
        raise FitError(
            f"--layers must be {', '.join(get_args(Strategy))}, or numbers such as 0,3,5; got {stated!r}."
        )
    return layers
