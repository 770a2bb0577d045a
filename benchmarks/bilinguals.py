"""What the questions about bilingual students share: scores of each seed, xeval's paired tests, and the picture."""

from __future__ import annotations

import itertools
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import yaml
from matplotlib.figure import Figure
from record import Recorder
from scipy.stats import ttest_rel

import xeval
from bistil.compare.identity import RecipeDigests
from bistil.compare.recipe import Comparison
from bistil.compare.systems import SYSTEMS
from xeval.report.pareto import Point, pareto_front
from xeval.statistics.result import Result
from xeval.statistics.summary import Estimate

BAR = {"bistil": 0.97}  # of the whole model
PACKAGE_COLOUR, PEER_COLOUR = "#00508f", "#9aa5b1"


def add_options(arguments: ArgumentParser) -> None:
    """What both questions can be told."""
    arguments.add_argument("--work", type=Path, help="keep what is made here, and go on from it")
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument(
        "--report", type=Path, help="write recipe, tables and tests into this file"
    )


def tell(_done: int, _total: int, what: str) -> None:
    """A line for each system, task, target and seed."""
    if what.endswith("looking"):
        print(what.removesuffix(": looking"), flush=True)


def extracting(steps: int, *, learning_rate: float, checkpoint_every: int) -> dict[str, object]:
    """Phase 1, as recipes of comparisons state it."""
    return {
        "steps": steps, "batch": 16, "length": 32, "learning_rate": learning_rate, "warmup": 0.1,
        "checkpoint_every": checkpoint_every,
    }  # fmt: skip


def tuning(steps: Mapping[str, int], *, looks: int) -> dict[str, dict[str, dict[str, object]]]:
    """Learning each task for its number of steps, as recipes of comparisons state it, evaluated `looks` times.

    Texts are judged by the mean over their tokens: no model here was taught to gather a text in its first one.
    """
    by_task: dict[str, dict[str, object]] = {
        task: {"steps": count, "full_steps": count // 3, "evaluate_every": max(1, count // looks)}
        for task, count in steps.items()
    }
    if "topic" in by_task:
        by_task["topic"]["pooling"] = "mean"
    same: dict[str, object] = {
        "batch": 16, "length": 64, "learning_rate": 1e-3, "warmup": 0.1, "precision": "float32",
    }  # fmt: skip
    return {"tune": same, "tune_by_task": by_task}


def first_metric(task: str) -> str:
    """What a task is judged by."""
    return xeval.task_of(task).metrics[0]


def system_of(model: str, systems: Sequence[str]) -> str | None:
    """The first of some systems that is this model, however it learns."""
    return next((name for name in systems if SYSTEMS[name].model == model), None)


def what_is_absent(systems: Sequence[str]) -> list[str]:
    """What cannot be said where the whole model, bistil or its rivals are none of the systems, in sentences."""
    sentences = []
    if system_of("whole", systems) is None:
        sentences.append("The whole model is none of these systems: there are no shares of it.")
    if system_of("bistil", systems) is None:
        sentences.append("bistil is none of these systems: nothing is tested against it.")
    elif len(systems) == 1:
        sentences.append("bistil is the only system: there is none to test it against.")
    return sentences


def scores(
    rows: Sequence[Result], system: str, task: str, languages: Sequence[str]
) -> dict[int, float]:
    """Seed to the mean over languages, of each the mean over its test sets; seeds with all languages alone."""
    wanted = (system, task, first_metric(task), None)
    by_seed: dict[int, dict[str, list[float]]] = {}
    for row in rows:
        if (row.model, row.task, row.metric, row.bootstrap) == wanted:
            assert row.value is not None
            by_seed.setdefault(row.seed, {}).setdefault(row.language, []).append(row.value)
    return {
        seed: mean(mean(values[language]) for language in languages)
        for seed, values in sorted(by_seed.items())
        if set(languages) <= set(values)
    }


def common_scores(
    rows: Sequence[Result], systems: Sequence[str], task: str, languages: Sequence[str]
) -> dict[str, list[float]]:
    """System to its scores, in the order of the seeds that every system has; empty where there is none."""
    by_system = {system: scores(rows, system, task, languages) for system in systems}
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in by_system.values())))
    if not seeds:
        return {}
    return {system: [by_seed[seed] for seed in seeds] for system, by_seed in by_system.items()}


def rows_of(recipe: Comparison) -> list[Result]:
    """The figures of a recipe's models in its results file; those of models that an earlier recipe made there are counted aloud."""
    rows = [row for row in xeval.read_results(Path(recipe.out) / "results.jsonl") if row.value is not None]  # fmt: skip
    digests = {label.digest for label in RecipeDigests(recipe).labels.values()}
    current = [row for row in rows if row.model_digest in digests]
    if len(current) < len(rows):
        print(f"{len(rows) - len(current)} older rows, of other recipes, are left out", flush=True)
    return current


def record_scores(
    recorder: Recorder,
    rows: Sequence[Result],
    systems: Sequence[str],
    tasks: Mapping[str, Sequence[str]],
    tune_steps: Mapping[str, int],
    shape: Mapping[str, object],
    bars: Mapping[str, float] | None = None,
) -> None:
    """Each task, over all of its languages and, where there are several, in each, of the seeds that every system has.

    `bars` says for each task what share of the whole model's score bistil should have; `BAR` for all by default.
    """
    subject, whole = system_of("bistil", systems), system_of("whole", systems)
    for task, languages in tasks.items():
        for chosen in [languages, *([language] for language in languages if len(languages) > 1)]:
            samples = common_scores(rows, systems, task, chosen)
            if not samples:
                continue
            floor = whole if whole and all(samples[whole]) else None  # nothing is a part of 0
            bar = {subject: BAR["bistil"] if bars is None else bars[task]} if subject else None
            recorder.add(
                f"{task}, zero-shot, {' '.join(chosen)}", samples, unit="%", floor=floor,
                bar=bar if floor and chosen is languages else None, at_least=True,
                shape={**shape, "tune_steps": tune_steps[task]},
            )  # fmt: skip


def paired_tests(rows: Sequence[Result], systems: Sequence[str]) -> list[str]:
    """xeval's paired tests of bistil against every other system, a line each."""
    subject = system_of("bistil", systems)
    return [
        f"{subject} against {rival}, {test.task} {gap.place}: {gap.difference:+.2f} "
        f"({gap.low:+.2f} to {gap.high:+.2f}), p {gap.p:.3f}: {gap.verdict}"
        for rival in systems
        if subject is not None and rival != subject
        for test in xeval.compare(rows, subject, rival)
        if test.metric == first_metric(test.task)
        for gap in test.languages
    ]


def pooled_tests(
    rows: Sequence[Result], systems: Sequence[str], tasks: Mapping[str, Sequence[str]]
) -> list[str]:
    """A t-test of bistil's means over a task's languages against every other system's, paired by seed, a line each."""
    lines: list[str] = []
    subject = system_of("bistil", systems)
    if subject is None:
        return lines
    for rival in (system for system in systems if system != subject):
        for task, languages in tasks.items():
            bistil, other = (scores(rows, system, task, languages) for system in (subject, rival))
            seeds = sorted(bistil.keys() & other.keys())
            if len(seeds) < 2:
                continue
            test = ttest_rel([bistil[seed] for seed in seeds], [other[seed] for seed in seeds])
            between = test.confidence_interval()
            difference = mean(bistil[seed] - other[seed] for seed in seeds)
            lines.append(
                f"{subject} against {rival}, {task}, mean over languages: {difference:+.2f} "
                f"({between.low:+.2f} to {between.high:+.2f}), p {test.pvalue:.3f}, {len(seeds)} seeds"
            )
    return lines


def print_tests(
    rows: Sequence[Result],
    sizes: Mapping[str, object],
    recipe: Comparison,
    tasks: Mapping[str, Sequence[str]],
    report: Path | None,
    table: str = "",
) -> None:
    """Print the paired tests; with a file, write the report, a table at its head."""
    lines = [
        *what_is_absent(recipe.systems),
        *pooled_tests(rows, recipe.systems, tasks),
        *paired_tests(rows, recipe.systems),
    ]
    print(*lines, sep="\n")
    if report is not None:
        write_report(rows, sizes, recipe, lines, report, table)


def write_report(
    rows: Sequence[Result],
    sizes: Mapping[str, object],
    recipe: Comparison,
    lines: Sequence[str],
    file: Path,
    table: str = "",
) -> None:
    """Sizes, recipe, xeval's tables with their intervals, and the paired tests, as Markdown without paths."""
    shown = recipe.model_dump(
        mode="json",
        exclude={"model", "corpora", "data", "out", "targets", "tasks"},
        exclude_unset=True,
    )
    parts = [
        "# Bilingual students and their rivals\n",
        *filter(None, [table]),
        "## Sizes and recipe\n",
        f"```yaml\n{yaml.safe_dump({'sizes': dict(sizes), **shown}, sort_keys=False)}```\n",
        xeval.markdown(rows, title="Scores")
        .replace("\n## ", "\n### ")
        .replace("# Scores", "## Scores", 1),
        "\n## Paired tests\n",
        "\n".join(f"- {line}" for line in lines) + "\n",
    ]
    file.write_text("\n".join(parts), encoding="utf-8")


def draw_pareto(
    rows: Sequence[Result],
    costs: Mapping[str, Mapping[str, Any]],
    tasks: Mapping[str, Sequence[str]],
    file: Path,
) -> None:
    """Score against parameters and operations, a row for each task with scores; the dashed line joins what nothing beats in both."""
    digests = {row.model: row.model_digest for row in rows}
    axes_of = (("parameters", 1e6, "million parameters"), ("flops", 1e6, "million operations for a sentence"))  # fmt: skip
    measured = {
        task: {
            system: Estimate(
                value=mean(values), low=min(values), high=max(values), seeds=len(values)
            )
            for system in digests
            if (values := [*scores(rows, system, task, languages).values()])
        }
        for task, languages in tasks.items()
    }
    drawn = {task: estimates for task, estimates in measured.items() if estimates}
    looks = looks_of([system for system in digests if any(system in estimates for estimates in drawn.values())])  # fmt: skip
    figure = Figure(figsize=(9, 0.6 + 2.5 * len(drawn)), layout="constrained")
    grid = figure.subplots(len(drawn), len(axes_of), squeeze=False)
    for row_of_axes, (task, estimates) in zip(grid, drawn.items(), strict=True):
        for axes, (column, unit, label) in zip(row_of_axes, axes_of, strict=True):
            points = [
                Point(letter=system, name=system, colour=looks[system].colour, cost=cost / unit, score=estimate)
                for system, estimate in estimates.items()
                if (cost := costs.get(digests[system], {}).get(column))
            ]  # fmt: skip
            front = pareto_front(points, higher_is_better=True)
            axes.plot([p.cost for p in front], [p.score.value for p in front], "--", color=PEER_COLOUR, lw=1)  # fmt: skip
            for point in points:
                axes.plot([point.cost] * 2, [point.score.low, point.score.high], color=point.colour)
                axes.plot(point.cost, point.score.value, looks[point.name].marker, color=point.colour, ms=7, label=point.name)  # fmt: skip
            if axes in grid[-1]:
                axes.set_xlabel(label)
            if axes is row_of_axes[0]:
                axes.set_ylabel(f"{task}, {first_metric(task)}, %")
            axes.margins(0.1)
            axes.spines[["top", "right"]].set_visible(False)
    names = {text: handle for axes in grid.flat for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)}  # fmt: skip
    figure.legend(names.values(), names.keys(), loc="outside upper center", ncols=4, frameon=False, fontsize=8)  # fmt: skip
    figure.savefig(file, dpi=130)


class Look(NamedTuple):
    """How a system is drawn."""

    marker: str
    colour: str


def looks_of(systems: Sequence[str]) -> dict[str, Look]:
    """Each system's marker; bistil in the package's colour, the whole model in black, all others in grey and brown by turns."""
    markers = itertools.cycle("osD^vPX*<>hd")
    colours = itertools.cycle((PEER_COLOUR, "#b06f3a"))
    known = {"bistil": PACKAGE_COLOUR, "whole": "#222222"}
    return {
        system: Look(marker, known.get(SYSTEMS[system].model) or next(colours))
        for system, marker in zip(systems, markers, strict=False)
    }
