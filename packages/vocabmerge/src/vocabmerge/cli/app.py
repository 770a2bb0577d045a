"""The command line of vocabmerge."""

import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vocabmerge import __version__
from vocabmerge.cli.console import Quiet, progress, refusing
from vocabmerge.cli.trim import add_trim_and_carry
from vocabmerge.corpora import read_corpus, sample_lines
from vocabmerge.count import count_pieces
from vocabmerge.errors import VocabularyError
from vocabmerge.tokenizer_file.reading import read_vocabulary
from vocabmerge.tokenizer_file.vocabulary import Vocabulary
from vocabmerge.union.conflicts import Policy
from vocabmerge.union.folder import save_merged
from vocabmerge.union.merge import merge_vocabularies
from vocabmerge.union.overlap import inspect as inspect_vocabulary
from vocabmerge.union.overlap import overlap as overlap_of
from vocabmerge.union.report import heatmap
from vocabmerge.union.specials import Convention

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"vocabmerge {__version__}")
        raise typer.Exit()


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """True unions and exact trims of Hugging Face tokenizers, and the embeddings that go with them."""


@app.command()
def merge(
    teachers: Annotated[
        list[str],
        typer.Argument(help="Folders or tokenizer.json files; NAME=PATH gives one a name."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the union.")],
    language: Annotated[
        list[str], typer.Option(help="CODE=TEACHER: who speaks a language. Repeat.")
    ],
    corpus: Annotated[
        list[str] | None, typer.Option(help="CODE=FILE: text (.txt, .gz, .xz). Repeat.")
    ] = None,
    convention: Annotated[
        Convention, typer.Option(help="Whose special tokens the union has.")
    ] = "bert",
    normalizer: Annotated[
        Policy | None, typer.Option(help="What to do where teachers normalize differently.")
    ] = None,
    pad_to: Annotated[int, typer.Option(help="Make the size a multiple of this.")] = 1,
    max_size: Annotated[
        int | None, typer.Option(help="At most so many rows, chosen fairly.")
    ] = None,
    lines: Annotated[int, typer.Option(help="Lines of each language to use at most.")] = 40_000,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Unite vocabularies: one tokenizer, one per language, id maps and a report of fidelity."""
    with refusing():
        read = [_read(teacher) for teacher in teachers]
        speaks = dict(_pair(given, "--language", "CODE=TEACHER") for given in language)
        named = {
            given.rpartition("=")[2]: teacher.name
            for given, teacher in zip(teachers, read, strict=True)
        }
        speaks = {code: named.get(name, name) for code, name in speaks.items()}
        files: dict[str, list[str]] = {}
        for given in corpus or ():
            code, file = _pair(given, "--corpus", "CODE=FILE")
            files.setdefault(code, []).append(file)
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise VocabularyError(f"{out}: exists and is not empty; choose a new folder")
        with progress(quiet=quiet) as watch:
            corpora = {
                code: sample_lines(chain.from_iterable(map(read_corpus, paths)), lines)
                for code, paths in files.items()
            }
            merged = merge_vocabularies(
                read,
                languages=speaks,
                corpora=corpora,
                convention=convention,
                normalizer=normalizer,
                pad_to=pad_to,
                max_size=max_size,
                watch=watch,
            )
            save_merged(merged, out)
    if as_json:
        _print_json(merged.facts)
        return
    typer.echo(f"{out}: {merged.facts['size']:,} rows, {merged.facts['family']}")
    if merged.fidelity:
        rows = [
            [
                code,
                f"{shares.words_alike:.1%}",
                f"{shares.sentences_alike:.1%}",
                f"{shares.tokens_per_word:.3f}",
                f"{shares.teacher_tokens_per_word:.3f}",
                f"{shares.unknown:.3%}",
            ]
            for code, shares in merged.fidelity.items()
        ]
        heads = [
            "language",
            "words alike",
            "sentences alike",
            "tokens/word",
            "teacher's",
            "unknown",
        ]
        _print_table(heads, rows)


@app.command()
def overlap(
    vocabularies: Annotated[list[str], typer.Argument(help="Two or more folders or files.")],
    picture: Annotated[Path | None, typer.Option(help="Write a heatmap, PNG.")] = None,
    as_json: Json = False,
) -> None:
    """Count the pieces that vocabularies share, by canonical key."""
    with refusing():
        if len(vocabularies) < 2:
            raise VocabularyError(f"expected two vocabularies or more, got {len(vocabularies)}")
        counts = overlap_of([_read(given) for given in vocabularies])
        if picture is not None:
            drawn = heatmap(counts["shared"], counts["names"])
            temporary = picture.with_name(f".{picture.name}.part")
            temporary.write_bytes(drawn)
            temporary.replace(picture)
    if as_json:
        _print_json(counts)
        return
    rows = [
        [name, *(f"{shared:,}" for shared in row)]
        for name, row in zip(counts["names"], counts["shared"], strict=True)
    ]
    _print_table(["", *counts["names"]], rows)


@app.command()
def inspect(
    vocabulary: Annotated[str, typer.Argument(help="A folder or file.")],
    piece: Annotated[
        list[str] | None, typer.Option(help="A piece, or its id, to explain. Repeat.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what a vocabulary is made of, and what its pieces mean."""
    with refusing():
        read = _read(vocabulary)
        facts = inspect_vocabulary(read)
        facts["pieces"] = [_explain(read, given) for given in piece or ()]
    if as_json:
        _print_json(facts)
        return
    typer.echo(
        f"{facts['name']}: {facts['family']}, {facts['size']:,} ids, digest {facts['digest'][:16]}"
    )
    typer.echo("roles: " + ", ".join(f"{n:,} {role}" for role, n in facts["roles"].items()))
    typer.echo("classes: " + ", ".join(f"{n:,} {name}" for name, n in facts["classes"].items()))
    for role, special in facts["specials"].items():
        typer.echo(f"{role}: {special['token']} = {special['id']}")
    for explained in facts["pieces"]:
        typer.echo(
            f"{explained['id']}: {explained['piece']!r} {explained['class']} {explained['text']!r}, {explained['role']}"
        )


@app.command()
def count(
    vocabulary: Annotated[str, typer.Argument(help="A folder or file.")],
    corpus: Annotated[list[Path], typer.Argument(help="Text files (.txt, .gz, .xz).")],
    top: Annotated[int, typer.Option(help="How many of the most frequent pieces to list.")] = 20,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Count how often a text uses each piece."""
    with refusing():
        read = _read(vocabulary)
        with progress(quiet=quiet) as watch:
            counts = count_pieces(read, chain.from_iterable(map(read_corpus, corpus)), watch=watch)
    total = int(counts.sum())
    used = int((counts > 0).sum())
    if as_json:
        listed = {str(read.pieces[i]): int(counts[i]) for i in counts.nonzero()[0].tolist()}
        _print_json({"tokens": total, "used": used, "size": len(read), "counts": listed})
        return
    typer.echo(f"{total:,} tokens, {used:,} of {len(read):,} pieces used")
    best = counts.argsort(kind="stable")[::-1][:top].tolist()
    _print_table(
        ["piece", "count", "share"],
        [
            [str(read.pieces[i]), f"{counts[i]:,}", f"{counts[i] / max(total, 1):.2%}"]
            for i in best
            if counts[i]
        ],
    )


def _read(given: str) -> Vocabulary:
    name, equals, path = given.partition("=")
    if equals and not Path(given).exists():
        return read_vocabulary(path, name=name)
    return read_vocabulary(given)


def _pair(given: str, option: str, form: str) -> tuple[str, str]:
    left, equals, right = given.partition("=")
    if not (left and equals and right):
        raise VocabularyError(f"{option}: expected {form}, got {given!r}")
    return left, right


def _explain(vocabulary: Vocabulary, given: str) -> dict[str, Any]:
    number = vocabulary.ids.get(given)
    if number is None and given.isdecimal() and int(given) < len(vocabulary):
        number = int(given)
    if number is None:
        raise VocabularyError(f"{vocabulary.name} has no piece {given!r}")
    piece = vocabulary[number]
    return {
        "id": piece.id,
        "piece": piece.text,
        "class": piece.key[0],
        "text": piece.key[1].decode("utf-8", "backslashreplace"),
        "role": piece.role,
        "score": None if piece.score != piece.score else piece.score,
        "rank": None if piece.rank < 0 else piece.rank,
    }


def _print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table()
    for number, head in enumerate(heads):
        table.add_column(head, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False))


add_trim_and_carry(app)
