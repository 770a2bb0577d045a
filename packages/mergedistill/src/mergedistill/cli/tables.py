"""What the commands print for people: a plan, and the outcome of variants."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Column, Table
from rich.text import Text

from mergedistill.run.ablate import Outcome, mean_and_interval
from mergedistill.run.forecast import Plan


def plan_table(plan: Plan) -> Group:
    """Languages, stages, and what comes of them."""
    languages = _table(
        "language", "teachers", "documents", "text", "tokens", "blocks", "masked", "signals", "rounds"
    )  # fmt: skip
    for language in plan.languages:
        languages.add_row(
            language.language,
            ", ".join(language.teachers),
            f"{language.documents:,}",
            _size(language.bytes),
            f"{language.tokens:,}",
            f"{language.blocks:,}",
            f"{language.positions:,}",
            f"{_size(language.signal_bytes)}{' (there)' if language.recorded else ''}",
            f"{language.rounds:.1f}",
        )
    stages = _table("stage", "", "time", "memory")
    for name, done in plan.done.items():
        memory = plan.memory.get(name)
        stages.add_row(
            name,
            "done" if done else "to do",
            "" if done else _time(plan.seconds[name]),
            "" if memory is None or done else _size(memory),
        )
    stages.add_row("all", "", _time(sum(plan.seconds.values())), "")
    student = (
        f"Student: {plan.body_parameters + plan.embedding_parameters:,} parameters, {plan.embedding_parameters:,} of them "
        f"embeddings of {plan.pieces:,} pieces; {_size(plan.student_bytes)} on disk, and three times that for each of two "
        "checkpoints while it trains."
    )
    told = "Measured on a miniature of the run on this machine, in one process, and scaled up."
    heard = [
        Text(f"{language.language}: of its masked words are heard {_shares(language.words_heard)}.")
        for language in plan.languages
        if language.words_heard
    ]
    heard += [
        Text(
            f"{language.language}: of its words {language.words_met:.1%} have states of the encoder."
        )
        for language in plan.languages
        if language.words_met is not None
    ]
    warned = [Text(f"Suspicious: {sentence}", style="bold") for sentence in plan.corpus_warnings]
    return Group(languages, stages, *heard, Text(student), Text(told), *warned)


def _shares(words_heard: Mapping[str, float]) -> str:
    return ", ".join(f"{share:.1%} of {name}" for name, share in words_heard.items())


def outcome_table(outcomes: Sequence[Outcome], *, languages: Sequence[str]) -> Group:
    """Variants by languages: bits per byte, then masked accuracy, each a mean over seeds with its 95 % interval."""
    made = []
    for title, part, scale in (
        ("bits per byte on held-out text", "bits_per_byte", 1.0),
        ("masked accuracy on held-out text, %", "accuracy", 100.0),
    ):
        table = _table("variant", *languages, "mean")
        table.title, table.title_justify = title, "left"
        for outcome in outcomes:
            figures = getattr(outcome, part)
            table.add_row(
                outcome.variant.name,
                *(_figure(figures.get(language, []), scale) for language in languages),
                _figure(means_over_languages(figures), scale),
            )
        made.append(table)
    return Group(*made)


def means_over_languages(figures: dict[str, list[float]]) -> list[float]:
    """For each seed, the mean over languages."""
    return [sum(row) / len(row) for row in zip(*figures.values(), strict=True)]


def _figure(values: Sequence[float], scale: float) -> str:
    if not values:
        return "no held-out text"
    mean, half = mean_and_interval(values)
    digits = 3 if scale == 1.0 else 1
    shown = f"{scale * mean:.{digits}f}"
    return shown if math.isnan(half) else f"{shown} ± {scale * half:.{digits}f}"


def _table(first: str, *others: str) -> Table:
    return Table(
        Column(first, no_wrap=True),
        *(Column(title, justify="right", overflow="fold") for title in others),
        box=SIMPLE_HEAD,
        padding=0,
    )


def _size(count: int) -> str:
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
