"""The command `make`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bistil.cli.console import refusing_plainly
from bistil.cli.options import ForwardPrecision, OrderSeed, Revision, RowLength, language_sources
from bistil.errors import MakeError
from bistil.make.config import QUICK, Making, parse_size
from bistil.make.texts import PUBLIC_TEXT, sources_of
from teacherzoo.cache import refuse_what_exists
from teacherzoo.cli.console import Json, Quiet, progress
from teacherzoo.processes import rank

if TYPE_CHECKING:
    from bistil.make.plan import MakePlan

_DEFAULT = Making()


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("make")(refusing_plainly(make_command))


def make_command(
    model: Annotated[str, typer.Argument(help="A model folder or a Hub name.")],
    languages: Annotated[str, typer.Option(help="Such as en,sw, or one; the first is the source.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")],
    size: Annotated[
        str | None, typer.Option(help="Parameters at most, such as 30M; decides the layers.")
    ] = None,
    layers: Annotated[
        int | None, typer.Option(help="Or the number of layers; half the model's by default.")
    ] = None,
    quick: Annotated[
        bool, typer.Option(help="Little text, few steps: to see it go through.")
    ] = False,
    text: Annotated[
        list[str] | None,
        typer.Option(
            help=f"LANGUAGE=FILE, folder or hub:NAME[:CONFIG[:SPLIT]]; repeat. {PUBLIC_TEXT.format(language='LANGUAGE')} by default. "
            "Rerankers and classifiers of two texts read lines `first TAB second`."
        ),
    ] = None,
    parallel: Annotated[
        list[str] | None,
        typer.Option(
            help="LANGUAGE=FILE of lines `source TAB translation`, for sentence encoders; repeat."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Test sets to judge on: a folder as xeval reads it, or hub:NAME."),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            help="Put in front of texts where the model expects one; a second is for documents."
        ),
    ] = None,
    coverage: Annotated[
        float, typer.Option(help="Of each language's tokens, what the kept pieces cover.")
    ] = _DEFAULT.coverage,
    multiple: Annotated[
        int, typer.Option(help="Round the number of pieces up to a multiple.")
    ] = _DEFAULT.multiple,
    lines: Annotated[
        int | None, typer.Option(help="Of each language at most.", show_default=str(_DEFAULT.lines))
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Of training.", show_default=str(_DEFAULT.steps))
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Rows in a batch.", show_default=str(_DEFAULT.batch))
    ] = None,
    length: RowLength = _DEFAULT.length,
    learning_rate: Annotated[
        float | None, typer.Option(help="At its peak; by the model's kind unless given.")
    ] = None,
    precision: ForwardPrecision = _DEFAULT.precision,
    seed: OrderSeed = _DEFAULT.seed,
    revision: Revision = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """This model, in these languages, small, with proof. Run it again to go on where it stopped."""
    if size is not None and layers is not None:
        raise MakeError("Of --size and --layers one decides the depth; leave the other out.")
    short = QUICK if quick else {}
    stated = {"steps": steps, "lines": lines, "batch": batch}
    making = Making(
        layers=layers, size=None if size is None else parse_size(size), coverage=coverage, multiple=multiple,
        length=length, learning_rate=learning_rate, prompts=tuple(prompt or ()), precision=precision, seed=seed,
        **{**short, **{name: value for name, value in stated.items() if value is not None}},
    )  # fmt: skip
    texts = language_sources("--text", text or [], "LANGUAGE=FILE, a folder or hub:NAME")
    translated = language_sources("--parallel", parallel or [], "LANGUAGE=FILE")
    if twice := [language for language, files in translated.items() if len(files) > 1]:
        raise MakeError(f"--parallel: {twice[0]} is given twice; put its lines in one file.")
    translations = {language: file for language, (file,) in translated.items()}
    chosen = [language.strip() for language in languages.split(",")]
    # What needs no library that takes seconds to import is refused at once.
    sources_of(chosen, texts)
    refuse_what_exists(out, MakeError)
    from bistil.make.page import verdict
    from bistil.make.run import PAGE, make

    with progress(quiet=quiet) as watch:
        record = make(
            model,
            chosen,
            out,
            texts=texts,
            parallel=translations,
            data=data,
            making=making,
            revision=revision,
            tell=(lambda plan: None) if quiet else _tell,
            watch=watch,
        )
    if rank() != 0:
        return
    if as_json:
        typer.echo(json.dumps({"out": str(out), **record}))
        return
    for sentence in verdict(record):
        typer.echo(sentence)
    typer.echo(f"{out / 'student'}, {out / 'trimmed'}; all of it: {out / PAGE}")


def _tell(plan: MakePlan) -> None:
    for line in plan.lines() if rank() == 0 else ():
        typer.echo(line, err=True)
