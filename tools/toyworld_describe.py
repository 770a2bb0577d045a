"""The world in a table: its languages, its floors and its ceilings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from toyworld_lexicon import LANGUAGES, OPEN_KINDS, TOPICS, descent
from toyworld_realizer import words
from toyworld_world import World

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
        f"seed {world.seed}: {world.meanings.total} meanings, {len(world.grammar.trees)} constructions, "
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
    shares = [(cognates(world, code, kin), kin) for kin in world.languages if kin != code]
    related = " ".join(
        f"{kin} {100 * share:.0f}%" for share, kin in sorted(shares, reverse=True) if share > 0
    )
    size = sum(len(word.encode()) for word in tokens) / len(tokens)
    return [
        code, language.name, language.script, language.order, language.morphology, related or "none",
        str(len(tokens)), str(len(set(tokens))), f"{len(tokens) / len(rows):.1f}", f"{size:.1f}",
    ]  # fmt: skip


def cognates(world: World, first: str, second: str) -> float:
    """The share of meanings (names apart) whose words in both languages descend from one."""
    languages = LANGUAGES[first], LANGUAGES[second]
    if languages[0].family != languages[1].family:
        return 0.0
    inherited = [descent(language, world.meanings, world.seed) for language in languages]
    kinds = [kind for kind, row in OPEN_KINDS.items() if row[0] != "PROPN"]
    return float(
        np.mean(np.concatenate([inherited[0][kind] & inherited[1][kind] for kind in kinds]))
    )


def _example(world: World, code: str) -> list[str]:
    """A sentence that means the same in every language, with what each word means."""
    realizer = world.realizer(code)
    for propositions in world.stream("topics", 100, 0, "train"):
        long = np.flatnonzero((world.grammar.kind_at[propositions.constructions] >= 0).sum(1) >= 9)[
            0
        ]
        construction, meanings = propositions.constructions[long], propositions.meanings[long]
    tree, placed = world.grammar.trees[construction], realizer.placed[construction]
    forms, glosses = [], []
    for n in placed.nodes:
        node, meaning = tree[n], int(meanings[n])
        shown = [f.split(".")[-1] for f in node.features if f in realizer.language.affixes]
        forms.append(realizer.form(node, meaning))
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
        baselines = "; ".join(f"{100 * x:.1f}" for x in (best.floor, best.lexical) if x is not None)
        error = f" ± {100 * best.error:.1f}" if best.error else ""
        cells.append(f"{100 * best.score:.1f}{error} ({baselines})")
    return cells
