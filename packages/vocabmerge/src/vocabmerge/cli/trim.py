"""The command `trim`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vocabmerge.cli.arguments import (
    FurtherTexts,
    Json,
    LanguageText,
    Lines,
    Out,
    PadTo,
    print_json,
    read_languages,
    read_lines,
)
from vocabmerge.cli.console import Quiet, progress, refusing
from vocabmerge.language_texts import LINES
from vocabmerge.trim.folder import trim as trim_folder


def trim(
    source: Annotated[
        str, typer.Argument(metavar="MODEL", help="Model folder, tokenizer, or name on the Hub.")
    ],
    out: Out,
    language: LanguageText = None,
    more: FurtherTexts = None,
    lines: Lines = str(LINES),
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a name on the Hub.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Keep what reaches this probability; 1e-6 by default.")
    ] = None,
    top: Annotated[int | None, typer.Option(help="Keep this many, the most probable.")] = None,
    budget: Annotated[
        int | None, typer.Option(help="Keep this many, fair to the worst-served language.")
    ] = None,
    pad_to: PadTo = 1,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Cut a model or tokenizer down to what some languages need, every kept piece and bit as before."""
    with refusing():
        corpora = read_languages([*(language or ()), *(more or ())])
        most = read_lines(lines)
        with progress(quiet=quiet) as watch:
            report = trim_folder(
                source,
                corpora,
                out,
                threshold=threshold,
                top=top,
                budget=budget,
                pad_to=pad_to,
                lines=most,
                revision=revision,
                watch=watch,
            )
    if as_json:
        print_json(report)
        return
    _print_trim(report, out)


def _print_trim(report: dict[str, Any], out: Path) -> None:
    pieces, model = report["pieces"], report["model"]
    typer.echo(
        f"{report['source']}: {pieces['before']:,} pieces, {pieces['after']:,} kept ({report['rule']})"
    )
    if model:
        before, after = model["before"], model["after"]
        typer.echo(
            f"{model['architecture']}: {before['parameters']:,} parameters, {after['parameters']:,} kept; "
            f"{before['bytes'] / 2**20:,.1f} MiB, now {after['bytes'] / 2**20:,.1f} MiB"
        )
    table = Table("language", "tokens per word", "unknown", "lines as before", "coverage")
    for language, row in report["languages"].items():
        table.add_row(
            language,
            f"{row['tokens_per_word_before']:.3f} → {row['tokens_per_word_after']:.3f}",
            f"{row['unknown_rate_before']:.2%} → {row['unknown_rate_after']:.2%}",
            f"{row['unchanged']:.2%}",
            f"{row['coverage']:.3%}",
        )
    Console().print(table)
    typer.echo(f"written to {out}")
