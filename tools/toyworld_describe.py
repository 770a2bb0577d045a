"""The world in a table: its languages, its floors and its ceilings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from toyworld_lexicon import LANGUAGES, OPEN_KINDS, TOPICS, descent
from toyworld_tongue import Sayings, words

if TYPE_CHECKING:
    from toyworld import World

_FIGURES = ("pos", "las", "ner_f1", "topic", "nli", "paraphrase", "qa")


def describe(
    world: World, languages: Sequence[str] = (), *, sentences: int = 10_000, judged: int = 200
) -> Iterator[str]:
    """Lines of a report.

    Args:
        world: to describe.
        languages: codes; all when empty.
        sentences: of each language to count types and tokens in.
        judged: sentences behind every floor and ceiling.
    """
    languages = languages or world.languages
    yield (
        f"seed {world.seed}: {world.meanings.total} meanings, {len(world.trees)} constructions, "
        f"{len(TOPICS)} topics, {len(world.languages)} languages"
    )
    yield ""
    header = (
        "code",
        "name",
        "script",
        "order",
        "morphology",
        "cognates",
        "tokens",
        "types",
        "words",
        "bytes",
    )
    yield from _table(header, [_profile(world, language, sentences) for language in languages])
    yield ""
    yield "cognates: of nouns, verbs, adjectives and adverbs, with each other language; words: mean of a sentence; bytes: mean of a word"
    yield ""
    for language in languages:
        yield from _example(world, language)
    yield ""
    yield "Floors: bits that a masked word needs at best, each word masked alone. Ceilings: best possible scores in %; in brackets the"
    yield "best constant answer, and for pos the best answer from the word alone."
    yield ""
    yield from _table(
        ("code", "bits/word", "bits/byte", *_FIGURES),
        [_limits(world, code, judged) for code in languages],
    )


def _table(header: Sequence[str], rows: list[list[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, ["-" * width for width in widths], *rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _profile(world: World, code: str, sentences: int) -> list[str]:
    language = LANGUAGES[code]
    rows = [words(sentence)[:-1] for sentence in world.sentences(code, sentences)]
    tokens = [word for row in rows for word in row]
    kin = [(cognates(world, code, other), other) for other in world.languages if other != code]
    related = (
        " ".join(
            f"{other} {100 * share:.0f}%" for share, other in sorted(kin, reverse=True) if share > 0
        )
        or "none"
    )
    size = sum(len(word.encode()) for word in tokens) / len(tokens)
    return [
        code, language.name, language.script, language.order, language.morphology, related,
        str(len(tokens)), str(len(set(tokens))), f"{len(tokens) / len(rows):.1f}", f"{size:.1f}",
    ]  # fmt: skip


def cognates(world: World, first: str, second: str) -> float:
    """The share of meanings (names apart) whose words in both languages descend from one."""
    one, two = LANGUAGES[first], LANGUAGES[second]
    if one.family != two.family:
        return 0.0
    inherited = [descent(language, world.meanings, world.seed) for language in (one, two)]
    kinds = [kind for kind, row in OPEN_KINDS.items() if row[0] != "PROPN"]
    return float(
        np.mean(np.concatenate([inherited[0][kind] & inherited[1][kind] for kind in kinds]))
    )


def _example(world: World, code: str) -> list[str]:
    """A sentence that means the same in every language, with what each word means."""
    tongue = world.tongue(code)
    for sayings in world._stream("topics", 100, 0, "train"):
        long = np.flatnonzero(tongue.world.kinds[sayings.constructions].__ge__(0).sum(1) >= 9)[0]
        one = Sayings(*(part[long : long + 1] for part in sayings))
    tree, placed = world.trees[one.constructions[0]], tongue.placed[one.constructions[0]]
    forms, glosses = [], []
    for n in placed.nodes:
        node, meaning = tree[n], int(one.meanings[0][n])
        shown = [f.split(".")[-1] for f in node.features if f in tongue.language.affixes]
        forms.append(tongue.form(node, meaning))
        glosses.append(
            ".".join([f"{node.kind}{meaning}" if node.kind in OPEN_KINDS else node.kind, *shown])
        )
    widths = [max(len(f), len(g)) for f, g in zip(forms, glosses, strict=True)]
    return [
        f"{label}  "
        + "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for label, cells in ((code, forms), ("   ", glosses))
    ]


def _limits(world: World, code: str, judged: int) -> list[str]:
    floor = world.entropy(code, count=judged)
    cells = [code, f"{floor.bits_per_word:.2f} ± {floor.error:.2f}", f"{floor.bits_per_byte:.3f}"]
    for task in _FIGURES:
        best = world.ceiling(task, code, count=judged)
        blind = "; ".join(f"{100 * x:.1f}" for x in (best.floor, best.lexical) if x is not None)
        error = f" ± {100 * best.error:.1f}" if best.error else ""
        cells.append(f"{100 * best.score:.1f}{error} ({blind})")
    return cells
