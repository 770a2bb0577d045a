"""The commands `trim` and `apply`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from vocabmerge.cli.arguments import (
    FurtherTexts,
    Json,
    LanguageText,
    Lines,
    Out,
    Revision,
    print_json,
    print_table,
    read_languages,
    read_lines,
)
from vocabmerge.cli.console import Quiet, progress, refusing
from vocabmerge.errors import VocabularyError
from vocabmerge.hub.push import push_folder, refuse_bad_name
from vocabmerge.language_texts import LINES
from vocabmerge.trim.apply import apply_patch
from vocabmerge.trim.card import part_sizes, percent, unseen_becomes
from vocabmerge.trim.characters import CharacterRule
from vocabmerge.trim.folder import trim as trim_folder


def trim(
    source: Annotated[
        str, typer.Argument(metavar="MODEL", help="Model folder, tokenizer, or name on the Hub.")
    ],
    language: LanguageText = None,
    more: FurtherTexts = None,
    lines: Lines = str(LINES),
    coverage: Annotated[
        float | None, typer.Option(help="Keep this share of every language's tokens: 0.99.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Keep what reaches this probability; 1e-6 by default.")
    ] = None,
    top: Annotated[int | None, typer.Option(help="Keep this many, the most probable.")] = None,
    budget: Annotated[
        int | None, typer.Option(help="Keep this many, fair to the worst-served language.")
    ] = None,
    multiple: Annotated[
        int, typer.Option(help="Round the number of pieces up, with the next best.")
    ] = 1,
    characters: Annotated[
        CharacterRule,
        typer.Option(help="Single characters that stay: seen, of the scripts too, or all."),
    ] = "scripts",
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="Put in front of texts: its pieces stay. Those of the folder do anyway."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to make; new or empty.")
    ] = None,
    patch: Annotated[
        Path | None, typer.Option(help="Patch to write, for `vocabmerge apply`; or both.")
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Then upload the folder to the Hub.")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="With --push: a model that all may see.")
    ] = False,
    revision: Revision = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Cut a model or tokenizer down to what some languages need, every kept piece and bit as before."""
    with refusing():
        texts = read_languages([*(language or ()), *(more or ())])
        most = read_lines(lines)
        _refuse_bad_push(push, public=public, out=out)
        with progress(quiet=quiet) as watch:
            report = trim_folder(
                source,
                texts,
                out,
                threshold=threshold,
                top=top,
                budget=budget,
                coverage=coverage,
                multiple=multiple,
                characters=characters,
                prompts=prompt or (),
                lines=most,
                revision=revision,
                patch=patch,
                name=push,
                watch=watch,
            )
        for sentence in report["warnings"]:
            typer.echo(f"Suspicious: {sentence}", err=True)
        if as_json:
            print_json(report)
        else:
            _print_trim(report)
            for place in filter(None, (out, patch)):
                typer.echo(f"written to {place}")
        if push is not None and out is not None:
            address = push_folder(
                out, push, public=public, message="A vocabulary trimmed by vocabmerge"
            )
            typer.echo(address, err=as_json)


def apply(
    base: Annotated[str, typer.Argument(help="The folder that was trimmed, or its Hub name.")],
    patch: Annotated[Path, typer.Argument(help="What `vocabmerge trim --patch` wrote.")],
    out: Out,
    revision: Revision = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make a trimmed model of its base and a patch, byte for byte."""
    with refusing(), progress(quiet=quiet) as watch:
        report = apply_patch(base, patch, out, revision=revision, watch=watch)
    if as_json:
        print_json(report)
        return
    _print_trim(report)
    typer.echo(f"written to {out}")


def _refuse_bad_push(push: str | None, *, public: bool, out: Path | None) -> None:
    if push is None:
        if public:
            raise VocabularyError("--public is for --push: it says who may see the uploaded model")
        return
    if out is None:
        raise VocabularyError("--push uploads a folder; name the one to make with -o")
    refuse_bad_name(push)


def _print_trim(report: dict[str, Any]) -> None:
    pieces, model = report["pieces"], report["model"]
    typer.echo(
        f"{report['source']}: {pieces['before']:,} pieces, {pieces['after']:,} kept ({report['rule']})"
    )
    if model["before"]["parts"]:
        _print_sizes(model)
    rows = [
        [
            language,
            percent(row["coverage"]),
            f"{row['tokens_per_word_before']:.3f} → {row['tokens_per_word_after']:.3f}",
            f"{percent(row['unknown_rate_before'])} → {percent(row['unknown_rate_after'])}",
            percent(row["unchanged"]),
        ]
        for language, row in report["languages"].items()
    ]
    heads = ["language", "coverage", "tokens per word", "unknown", "lines as before"]
    print_table(heads, rows)
    for language, row in report["languages"].items():
        more = row["more_lines"]
        half = "" if more is None else f"; pieces chosen from half of them cover {percent(more['coverage_other_half'])} of the other half's tokens"  # fmt: skip
        typer.echo(f"{language}: {row['lines']:,} lines read{half}")
    kept = report["characters"]
    costs = ", ".join(f"{rule} {number:,}" for rule, number in kept["pieces"].items())
    typer.echo(f"single characters that stay by rule ({kept['rule']} is in force): {costs}")
    typer.echo(f"characters without a piece {unseen_becomes(kept)}")


def _print_sizes(model: dict[str, Any]) -> None:
    print_table(
        [f"{model['kind']}, {model['architecture']}", "parameters", "now", "MiB", "now"],
        [
            [
                name,
                f"{old['parameters']:,}",
                f"{new['parameters']:,}",
                f"{old['bytes'] / 2**20:,.1f}",
                f"{new['bytes'] / 2**20:,.1f}",
            ]
            for name, old, new in part_sizes(model)
        ],
    )
