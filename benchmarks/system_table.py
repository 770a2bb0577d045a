"""One table of a comparison: systems by tasks, means over languages, shares of the whole model, and who is ahead of bistil or behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from bilinguals import common_scores, first_metric, system_of, what_is_absent

import xeval
from xeval.statistics.result import Result
from xeval.statistics.significance import holm

LEVEL = 0.05


def system_table(
    rows: Sequence[Result],
    costs: Mapping[str, Mapping[str, Any]],
    systems: Sequence[str],
    tasks: Mapping[str, Sequence[str]],
) -> str:
    """Markdown: a line for each system, a column for each task that has figures of every system.

    A figure is the mean over languages and seeds, behind it the share of the whole model's, if that is one of the systems, and an arrow where xeval's paired test of the
    means (items and seeds; Holm over the rivals of bistil in the task) finds the system ahead of bistil (↑) or behind it (↓).

    Args:
        rows: of results of one recipe.
        costs: by a model's digest, as `xeval.read_costs` gives them.
        systems: in the order of the lines.
        tasks: to languages.

    Returns:
        The table, and a line that says how many seeds and what differences could be shown.
    """
    samples = {task: common_scores(rows, systems, task, languages) for task, languages in tasks.items()}  # fmt: skip
    shown = {
        task: {system: mean(values) for system, values in by_system.items()}
        for task, by_system in samples.items()
        if by_system
    }
    subject, whole = system_of("bistil", systems), system_of("whole", systems)
    verdicts, shows = {}, []
    for task in shown:
        verdicts[task], detectable = _verdicts(rows, subject, systems, task)
        if detectable:
            shows.append(f"{task} {min(detectable):.1f} to {max(detectable):.1f}")
    digests = {row.model: row.model_digest for row in rows}
    lines = [
        f"| system | million parameters | {' | '.join(f'{task} ({first_metric(task)})' for task in shown)} |",
        f"| --- | ---: |{' ---: |' * len(shown)}",
    ]
    for system in systems:
        size = costs.get(digests.get(system, ""), {}).get("parameters")
        cells = []
        for task, figures in shown.items():
            share = f" ({100 * figures[system] / figures[whole]:.1f} %)" if whole and figures[whole] else ""  # fmt: skip
            cells.append(f"{figures[system]:.2f}{share}{verdicts[task].get(system, '')}")
        lines.append(f"| `{system}` | {size / 1e6 if size else float('nan'):.1f} | {' | '.join(cells)} |")  # fmt: skip
    seeds = min((row.seed for row in rows), default=0), max((row.seed for row in rows), default=0)
    note = f"Seeds {seeds[0]} to {seeds[1]}."
    if any(verdicts.values()):
        note += " Arrows are of the mean over test sets, of which a language can have several."
    note = " ".join([note, *what_is_absent(systems)])
    if shows:
        note += f" Smallest true differences, in points, that would be found four times in five: {'; '.join(shows)}."
    return "\n".join(lines) + f"\n\n{note}\n"


def _verdicts(
    rows: Sequence[Result], subject: str | None, systems: Sequence[str], task: str
) -> tuple[dict[str, str], list[float]]:
    """System to its arrow, and the differences that the tests could show."""
    rivals, tests = [], []
    of_task = [row for row in rows if row.task == task]
    for rival in systems:
        if subject is None or rival == subject:
            continue
        for test in xeval.compare(of_task, subject, rival):
            if test.metric == first_metric(task):
                rivals.append(rival)
                tests.append(test.mean or test.languages[0])
    corrected = holm([test.p for test in tests])
    arrows = {
        rival: (" ↓" if test.difference > 0 else " ↑") if p < LEVEL else ""
        for rival, test, p in zip(rivals, tests, corrected, strict=True)
    }
    return arrows, [test.detectable for test in tests if test.detectable is not None]
