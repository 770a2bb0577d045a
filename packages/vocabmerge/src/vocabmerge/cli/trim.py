"""The commands `trim` and `carry`."""

import json
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer
from rich.console import Console
from rich.table import Table

from vocabmerge.carry.carry import Method
from vocabmerge.carry.folder import carry_model
from vocabmerge.cli.console import Quiet, progress, refusing
from vocabmerge.errors import VocabularyError
from vocabmerge.trim.folder import trim

_Parameters = ParamSpec("_Parameters")

Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder to make; new or empty.")]


def add_trim_and_carry(app: typer.Typer) -> None:
    """Put both commands on the command line's app."""
    app.command("trim")(_in_one_sentence(_trim))
    app.command("carry")(_in_one_sentence(_carry))


def _trim(
    source: Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder or tokenizer.")],
    out: Out,
    corpus: Annotated[
        list[str] | None,
        typer.Option(help="LANGUAGE=FILE, text (.gz, .xz) that says what the language needs."),
    ] = None,
    more: Annotated[
        list[str] | None, typer.Argument(metavar="[LANGUAGE=FILE]...", help="Further corpora.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Keep what reaches this probability; 1e-6 by default.")
    ] = None,
    top: Annotated[int | None, typer.Option(help="Keep this many, the most probable.")] = None,
    budget: Annotated[
        int | None, typer.Option(help="Keep this many, fair to the worst-served language.")
    ] = None,
    pad_to: Annotated[int, typer.Option(help="Round the model's rows up to a multiple.")] = 1,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Cut a model or tokenizer down to what some languages need, every kept piece and bit as before."""
    corpora = read_corpora([*(corpus or ()), *(more or ())])
    with progress(quiet=quiet) as watch:
        report = trim(
            source,
            corpora,
            out,
            threshold=threshold,
            top=top,
            budget=budget,
            pad_to=pad_to,
            watch=watch,
        )
    if as_json:
        typer.echo(json.dumps(report, ensure_ascii=False))
        return
    _print_trim(report, out)


def _carry(
    tokenizer: Annotated[Path, typer.Argument(help="The new vocabulary.")],
    out: Out,
    model: Annotated[
        list[Path], typer.Option(help="Model folder; the first gives body and space. Repeat.")
    ],
    method: Annotated[Method, typer.Option(help="How rows are made.")] = "subword",
    corpus: Annotated[
        list[str] | None, typer.Option(help="LANGUAGE=FILE, text from which focus learns.")
    ] = None,
    more: Annotated[
        list[str] | None, typer.Argument(metavar="[LANGUAGE=FILE]...", help="Further corpora.")
    ] = None,
    k: Annotated[int, typer.Option(help="Anchors in a combination of omp.", min=1)] = 64,
    seed: Annotated[int, typer.Option(help="Of random rows.")] = 0,
    pad_to: Annotated[int, typer.Option(help="Round the model's rows up to a multiple.")] = 1,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Give a model a new vocabulary, its embeddings made from those of old models."""
    corpora = read_corpora([*(corpus or ()), *(more or ())])
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
        typer.echo(json.dumps(report, ensure_ascii=False))
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


def read_corpora(given: Sequence[str]) -> dict[str, list[str]]:
    """The files of each language, from arguments of the form LANGUAGE=FILE."""
    corpora: dict[str, list[str]] = {}
    for argument in given:
        language, equals, file = argument.partition("=")
        if not (language and equals and file):
            raise VocabularyError(f"expected LANGUAGE=FILE for a corpus, got {argument!r}")
        corpora.setdefault(language, []).append(file)
    return corpora


def _in_one_sentence(
    command: Callable[_Parameters, None],
) -> Callable[_Parameters, None]:
    """Turn an expected error into one sentence on stderr and exit status 2."""

    @wraps(command)
    def run(*arguments: _Parameters.args, **options: _Parameters.kwargs) -> None:
        with refusing():
            command(*arguments, **options)

    return run


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
