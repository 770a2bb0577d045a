"""Which questions there are, what must be green before one is measured, and which make up the quick set."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class BenchError(Exception):
    """Nothing can be measured; the message is one sentence that names the thing and the next step."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One file of this folder."""

    file: Path
    package: str
    tests: tuple[str, ...]
    """What must be green first, from the root."""
    quick: str | None
    """Why it is in the quick set; None if it is not."""
    needs: str | None
    """`gpu`, `data` or `model`: without it, the question is absent."""

    @property
    def name(self) -> str:
        """As it is called on the command line and in the records."""
        return self.file.stem


def read_questions(root: Path = ROOT) -> list[Question]:
    """All questions, by name.

    Raises:
        BenchError: `questions.toml` names a question or a test that is not there.
    """
    table = root / "benchmarks" / "questions.toml"
    stated = tomllib.loads(table.read_text(encoding="utf-8"))
    questions = []
    for file in sorted(root.glob("benchmarks/*_*.py")):
        package = file.stem.partition("_")[0]
        if not (root / "packages" / package).is_dir():
            continue  # what several questions share
        entry = stated.pop(file.stem, {})
        tests = tuple(entry.get("tests", [f"packages/{package}/tests"]))
        for test in tests:
            if not (root / test).exists():
                raise BenchError(f"{table}: {file.stem} names {test!r}, which does not exist.")
        questions.append(
            Question(
                file=file,
                package=package,
                tests=tests,
                quick=entry.get("quick"),
                needs=entry.get("needs"),
            )
        )
    if stated:
        raise BenchError(f"{table} names {next(iter(stated))!r}, but there is no such file.")
    return questions


def choose(questions: Sequence[Question], names: Sequence[str], *, full: bool) -> list[Question]:
    """The questions whose names begin with one of `names`; without names all in a full run, else the quick set.

    Raises:
        BenchError: no question begins with a name.
    """
    for name in names:
        if not any(question.name.startswith(name) for question in questions):
            known = ", ".join(question.name for question in questions)
            raise BenchError(f"bench knows no question {name!r}: there are {known}.")
    if names:
        return [question for question in questions if question.name.startswith(tuple(names))]
    return [question for question in questions if full or question.quick is not None]


def title(file: Path) -> str:
    """The question in words: the first line of the file's docstring."""
    if not file.exists():
        return ""
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]
