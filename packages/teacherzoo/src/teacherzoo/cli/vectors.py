"""The command `vectors`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from teacherzoo.catalogue.catalogue import local_folder
from teacherzoo.cli.console import Json, Quiet, corpora_named, progress, refusing_plainly


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("vectors")(refusing_plainly(vectors_command))


def vectors_command(
    model: Annotated[
        str, typer.Argument(help="A sentence-transformers folder, or its name on the Hub.")
    ],
    corpus: Annotated[
        list[str], typer.Option(help="LANGUAGE=FILE, folder or hub:NAME[:CONFIG[:SPLIT]]; repeat.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the vectors.")],
    prompt: Annotated[
        list[str] | None, typer.Option(help="In front of every line; repeat.", show_default="none")
    ] = None,
    length: Annotated[
        int | None, typer.Option(help="Most tokens of a line.", show_default="the model's limit")
    ] = None,
    precision: Annotated[str, typer.Option(help="On disk: float16|float32.")] = "float16",
    batch: Annotated[int, typer.Option(help="Lines in a forward pass.")] = 64,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Record what a sentence encoder makes of every line; the same command resumes."""
    corpora = corpora_named(corpus)
    local_folder(model)  # refuses what is not there before anything slow is imported
    from teacherzoo.vectors.record import record_vectors

    with progress(quiet=quiet) as watch:
        vectors = record_vectors(
            model,
            corpora,
            output,
            prompts=prompt or ("",),
            length=length,
            precision=precision,
            batch=batch,
            watch=watch,
        )
    if as_json:
        typer.echo(json.dumps({"folder": str(output), "vectors": len(vectors), "dimension": vectors.dimension}))  # fmt: skip
    else:
        typer.echo(f"{output}: {len(vectors):,} vectors of {vectors.dimension} dimensions")
