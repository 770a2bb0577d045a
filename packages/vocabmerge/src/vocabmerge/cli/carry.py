"""The command `carry`."""

from pathlib import Path
from typing import Annotated

import typer

from vocabmerge.carry.carry import Method
from vocabmerge.carry.folder import carry_model
from vocabmerge.cli.arguments import (
    FurtherTexts,
    Json,
    LanguageText,
    Out,
    PadTo,
    print_json,
    read_languages,
)
from vocabmerge.cli.console import Quiet, progress, refusing


def carry(
    tokenizer: Annotated[Path, typer.Argument(help="The new vocabulary.")],
    out: Out,
    model: Annotated[
        list[Path], typer.Option(help="Model folder; the first gives body and space. Repeat.")
    ],
    method: Annotated[Method, typer.Option(help="How rows are made.")] = "subword",
    language: LanguageText = None,
    more: FurtherTexts = None,
    k: Annotated[int, typer.Option(help="Anchors in a combination of omp.", min=1)] = 64,
    seed: Annotated[int, typer.Option(help="Of random rows.")] = 0,
    pad_to: PadTo = 1,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Give a model a new vocabulary, its embeddings made from those of old models."""
    with refusing():
        corpora = read_languages([*(language or ()), *(more or ())])
        with progress(quiet=quiet) as watch:
            report = carry_model(
                tokenizer,
                model,
                out,
                method=method,
                corpora=corpora,
                k=k,
                seed=seed,
                pad_to=pad_to,
                watch=watch,
            )
    if as_json:
        print_json(report)
        return
    typer.echo(
        f"{report['pieces']:,} pieces by {report['method']}: {report['copied']:,} copied, "
        f"{report['computed']:,} computed, {report['random']:,} left to chance"
    )
    for name, anchors in report["anchors"].items():
        typer.echo(f"{name}: {anchors:,} anchors")
    for name, value in report["settings_without_token"].items():
        typer.echo(f"config.{name} was {value}; the new vocabulary has no such token")
    typer.echo(f"written to {out}")
