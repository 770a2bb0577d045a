"""The commands that look at vocabularies: `overlap`, `inspect`, `count`."""

from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer

from vocabmerge.cli.arguments import Json, named_vocabulary, print_json, print_table
from vocabmerge.cli.console import Quiet, progress, refusing
from vocabmerge.corpora import read_corpus
from vocabmerge.count import count_pieces
from vocabmerge.errors import VocabularyError
from vocabmerge.tokenizer_file.vocabulary import Vocabulary
from vocabmerge.union.overlap import inspect as inspect_vocabulary
from vocabmerge.union.overlap import overlap as overlap_of
from vocabmerge.union.report import heatmap


def overlap(
    vocabularies: Annotated[list[str], typer.Argument(help="Two or more folders or files.")],
    picture: Annotated[Path | None, typer.Option(help="Write a heatmap, PNG.")] = None,
    as_json: Json = False,
) -> None:
    """Count the pieces that vocabularies share, by canonical key."""
    with refusing():
        if len(vocabularies) < 2:
            raise VocabularyError(f"expected two vocabularies or more, got {len(vocabularies)}")
        if picture is not None and not picture.parent.is_dir():
            raise VocabularyError(f"{picture}: there is no folder {picture.parent}; make it first")
        counts = overlap_of([named_vocabulary(given) for given in vocabularies])
        if picture is not None:
            drawn = heatmap(counts["shared"], counts["names"])
            temporary = picture.with_name(f".{picture.name}.part")
            temporary.write_bytes(drawn)
            temporary.replace(picture)
    if as_json:
        print_json(counts)
        return
    rows = [
        [name, *(f"{shared:,}" for shared in row)]
        for name, row in zip(counts["names"], counts["shared"], strict=True)
    ]
    print_table(["", *counts["names"]], rows)


def inspect(
    vocabulary: Annotated[str, typer.Argument(help="A folder or file.")],
    piece: Annotated[
        list[str] | None, typer.Option(help="A piece, or its id, to explain. Repeat.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what a vocabulary is made of, and what its pieces mean."""
    with refusing():
        read = named_vocabulary(vocabulary)
        facts = inspect_vocabulary(read)
        facts["pieces"] = [_explain(read, given) for given in piece or ()]
    if as_json:
        print_json(facts)
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


def count(
    vocabulary: Annotated[str, typer.Argument(help="A folder or file.")],
    corpus: Annotated[
        list[Path], typer.Argument(help="Text files (.txt, .jsonl, also .gz, .xz, .bz2).")
    ],
    top: Annotated[
        int, typer.Option(help="How many of the most frequent pieces to list.", min=0)
    ] = 20,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Count how often a text uses each piece."""
    with refusing():
        read = named_vocabulary(vocabulary)
        with progress(quiet=quiet) as watch:
            counts = count_pieces(read, chain.from_iterable(map(read_corpus, corpus)), watch=watch)
    total = int(counts.sum())
    used = int((counts > 0).sum())
    if as_json:
        listed = {str(read.pieces[i]): int(counts[i]) for i in counts.nonzero()[0].tolist()}
        print_json({"tokens": total, "used": used, "size": len(read), "counts": listed})
        return
    typer.echo(f"{total:,} tokens, {used:,} of {len(read):,} pieces used")
    best = counts.argsort(kind="stable")[::-1][:top].tolist()
    print_table(
        ["piece", "count", "share"],
        [
            [str(read.pieces[i]), f"{counts[i]:,}", f"{counts[i] / max(total, 1):.2%}"]
            for i in best
            if counts[i]
        ],
    )


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
