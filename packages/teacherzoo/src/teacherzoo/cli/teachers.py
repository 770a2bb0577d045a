"""The commands about teachers: list, show, check, rank."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from teacherzoo.catalogue.catalogue import Entry, catalogue_entry, local_folder, read_catalogue
from teacherzoo.cli.console import Quiet, corpora_named, progress, refusing_plainly

if TYPE_CHECKING:
    from teacherzoo.rank.rank import Ranking

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
CorpusOption = Annotated[
    list[str],
    typer.Option(
        help="LANGUAGE=FILE, folder or hub:NAME[:CONFIG[:SPLIT]]; once for each language."
    ),
]
Column = Annotated[str, typer.Option(help="Text column of records.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("list")(refusing_plainly(list_command))
    app.command("show")(refusing_plainly(show_command))
    app.command("check")(refusing_plainly(check_command))
    app.command("rank")(refusing_plainly(rank_command))


def list_command(
    language: Annotated[
        str | None, typer.Option(help="Only teachers whose languages are known to hold this code.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the catalogue of public teachers."""
    entries = [
        entry for entry in read_catalogue() if language is None or language in entry.languages
    ]
    if as_json:
        typer.echo(json.dumps([asdict(entry) for entry in entries], ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "hub", "languages", "licence", "tokenizer", "head", "M parameters")
    for entry in entries:
        table.add_row(
            entry.name,
            entry.hub,
            _languages(entry),
            entry.licence or "",
            " ".join(
                filter(None, (entry.family, f"{entry.vocabulary:,}" if entry.vocabulary else None))
            ),
            entry.head or "",
            f"{entry.parameters:g}" if entry.parameters else "",
        )
    Console().print(table)
    if language is not None and not entries:
        typer.echo(f"No entry lists {language!r}; many multilingual models document only a count.")


def show_command(
    name: Annotated[str, typer.Argument(help="A catalogue name or Hub name.")],
    as_json: Json = False,
) -> None:
    """Show what is certain about one teacher."""
    entry = catalogue_entry(name)
    if as_json:
        typer.echo(json.dumps(asdict(entry), ensure_ascii=False))
        return
    for field in fields(Entry):
        value = getattr(entry, field.name)
        if field.name == "languages":
            value = ", ".join(value) or None
        typer.echo(
            f"{field.name.replace('_', ' ') + ':':<16}{'not certain' if value is None else value}"
        )


def check_command(
    file: Annotated[
        Path | None, typer.Argument(help="A YAML file like the catalogue; by default our own.")
    ] = None,
) -> None:
    """Check a catalogue file against the schema, offline."""
    entries = read_catalogue(file)
    typer.echo(f"{len(entries)} entries, all sound.")


def rank_command(
    teachers: Annotated[
        list[str], typer.Argument(help="Catalogue names, Hub names or model folders.")
    ],
    corpus: CorpusOption,
    documents: Annotated[int, typer.Option(help="Most documents per language.")] = 200,
    part: Annotated[str, typer.Option(help="all, train or held_out documents.")] = "held_out",
    held_out_share: Annotated[float, typer.Option(help="Share of held-out documents.")] = 0.01,
    max_length: Annotated[int, typer.Option(help="Most tokens in a row.")] = 256,
    column: Column = "text",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure teachers on held-out text of each language and recommend who teaches what."""
    corpora = corpora_named(corpus, column=column, part=part, held_out_share=held_out_share)
    for teacher in teachers:
        local_folder(teacher)  # refuses what is not there before anything slow is imported
    from teacherzoo.rank.rank import rank

    with progress(quiet=quiet) as watch:
        ranking = rank(teachers, corpora, documents=documents, max_length=max_length, watch=watch)
    if as_json:
        ratings = [asdict(rating) for rating in ranking.ratings]
        typer.echo(
            json.dumps(
                {
                    "ratings": ratings,
                    "assignment": ranking.assignment,
                    "teachers": ranking.teachers,
                },
                ensure_ascii=False,
            )
        )
    else:
        _print_ranking(ranking)


def _languages(entry: Entry) -> str:
    if entry.languages:
        return " ".join(entry.languages)
    return f"{entry.language_count} languages" if entry.language_count else ""


def _print_ranking(ranking: Ranking) -> None:
    import yaml
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Column, Table

    figures = ("bits/byte", "charged", "pieces/word", "left out", "tokens/s", "MiB")
    table = Table(
        Column("language"),
        Column("teacher", overflow="fold"),
        *(Column(title, justify="right", no_wrap=True) for title in figures),
        box=SIMPLE_HEAD,
        padding=0,
    )
    previous = None
    for rating in ranking.ratings:
        best = rating.language != previous
        previous = rating.language
        table.add_row(
            rating.language if best else "",
            rating.teacher,
            f"{rating.bits_per_byte:.3f}",
            f"{rating.charged_bits_per_byte:.3f}",
            f"{rating.pieces_per_word:.2f}",
            f"{100 * rating.left_out:.1f} %",
            f"{rating.tokens_per_second:,.0f}",
            "" if rating.peak_bytes is None else f"{rating.peak_bytes / 2**20:,.0f}",
            style="bold" if best else None,
        )
    Console().print(table)
    typer.echo(
        "Best first, by `charged`: words left out, which the tokenizer cannot spell, count 8 bits a byte. "
        "MiB: peak memory."
    )
    typer.echo("\nFor a recipe:\n")
    typer.echo(
        yaml.safe_dump({"teachers": ranking.teachers}, sort_keys=False, allow_unicode=True),
        nl=False,
    )
