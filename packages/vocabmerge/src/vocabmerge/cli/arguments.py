"""What several commands take and print alike."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vocabmerge.errors import VocabularyError
from vocabmerge.tokenizer_file.reading import read_vocabulary
from vocabmerge.tokenizer_file.vocabulary import Vocabulary

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder to make; new or empty.")]
LanguageText = Annotated[
    list[str] | None,
    typer.Option(
        "--language",
        metavar="CODE=TEXT",
        help="Text that says what a language needs: a file (.txt, .jsonl, also .gz, .xz, .bz2), a folder of them, or "
        "hub:NAME[:CONFIG[:SPLIT]]. Repeat.",
    ),
]
FurtherTexts = Annotated[
    list[str] | None, typer.Argument(metavar="[CODE=TEXT]...", help="Further texts.")
]
Lines = Annotated[
    str,
    typer.Option(help="Lines of each language, evenly spread over its files; or all."),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a name on the Hub.")]
PadTo = Annotated[int, typer.Option(help="Round the model's rows up to a multiple.")]


def named_vocabulary(given: str) -> Vocabulary:
    """The vocabulary in a folder or file, given as PATH or NAME=PATH."""
    name, equals, path = given.partition("=")
    if equals and not Path(given).exists():
        return read_vocabulary(path, name=name)
    return read_vocabulary(given)


def divided(given: str, option: str, form: str) -> tuple[str, str]:
    """Both sides of an argument such as CODE=FILE."""
    left, equals, right = given.partition("=")
    if not (left and equals and right):
        raise VocabularyError(f"{option}: expected {form}, got {given!r}")
    return left, right


def read_languages(given: Sequence[str]) -> dict[str, list[str]]:
    """The texts of each language, from arguments of the form CODE=TEXT."""
    texts: dict[str, list[str]] = {}
    for argument in given:
        language, source = divided(argument, "--language", "CODE=FILE, FOLDER or hub:NAME")
        texts.setdefault(language, []).append(source)
    return texts


def read_lines(given: str) -> int | None:
    """How many lines of a language: a number, or None for `all`."""
    if given == "all":
        return None
    if not given.replace("_", "").isdecimal():
        raise VocabularyError(f"--lines: expected a number or 'all', got {given!r}")
    return int(given)


def print_json(value: Any) -> None:
    """One line, for machines."""
    typer.echo(json.dumps(value, ensure_ascii=False))


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table whose figures stand at the right."""
    table = Table()
    for number, head in enumerate(heads):
        table.add_column(head, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
