"""The command `merge`."""

from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from vocabmerge.cli.arguments import Json, divided, named_vocabulary, print_json, print_table
from vocabmerge.cli.console import Quiet, progress, refusing
from vocabmerge.corpora import read_corpus, sample_lines
from vocabmerge.errors import VocabularyError
from vocabmerge.union.conflicts import Policy
from vocabmerge.union.folder import save_merged
from vocabmerge.union.merge import merge_vocabularies
from vocabmerge.union.specials import Convention


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
        list[str] | None,
        typer.Option(help="CODE=FILE: text (.txt, .jsonl, also .gz, .xz, .bz2). Repeat."),
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
        read = [named_vocabulary(teacher) for teacher in teachers]
        speaks: dict[str, str] = {}
        for given in language:
            code, teacher_name = divided(given, "--language", "CODE=TEACHER")
            if speaks.setdefault(code, teacher_name) != teacher_name:
                raise VocabularyError(
                    f"--language: {code!r} has two teachers, {speaks[code]!r} and {teacher_name!r}; a language has one, give the "
                    "other one a code of its own"
                )
        named = {
            given.rpartition("=")[2]: teacher.name
            for given, teacher in zip(teachers, read, strict=True)
        }
        speaks = {code: named.get(name, name) for code, name in speaks.items()}
        files: dict[str, list[str]] = {}
        for given in corpus or ():
            code, file = divided(given, "--corpus", "CODE=FILE")
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
        print_json(merged.facts)
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
        print_table(heads, rows)
