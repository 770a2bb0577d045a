"""Is model A better than model B, by result files of mteb? With tasks as the sample."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from xeval.errors import XevalError
from xeval.statistics.compare import Comparison, compare_test_set, with_verdicts
from xeval.statistics.mteb_results import (
    MtebResults,
    MtebScore,
    MtebTask,
    read_mteb,
    shortened,
)
from xeval.statistics.significance import require_resamples

METRIC = "main_score"

_Entries = dict[tuple[str, str], tuple[MtebScore, MtebScore]]


@dataclass(frozen=True, kw_only=True)
class MtebTaskScore:
    """Both models on one task, in points (100 times mteb's number).

    Args:
        task: its name.
        kind: of task, told by its measures.
        languages: of the subsets that both have.
        subsets: how many pairs of split and subset both have.
        score_a: mean main score of A over them.
        score_b: likewise of B.
    """

    task: str
    kind: str
    languages: tuple[str, ...]
    subsets: int
    score_a: float
    score_b: float


@dataclass(frozen=True, kw_only=True)
class MtebComparison:
    """Two models by their mteb results; in every comparison n is the number of tasks.

    Args:
        a: name of one model.
        b: name of the other.
        all_tasks: over every task; None where there is one alone.
        kinds: over the tasks of each kind that has two or more.
        languages: over the tasks with each language that two or more have.
        tasks: the scores that were compared.
        left_out: what was not compared, and why.
        notes: what was compared and should be known.
    """

    a: str
    b: str
    all_tasks: Comparison | None
    kinds: tuple[Comparison, ...]
    languages: tuple[Comparison, ...]
    tasks: tuple[MtebTaskScore, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


def compare_mteb(
    a: Path,
    b: Path,
    *,
    tasks: Sequence[str] = (),
    level: float = 0.05,
    resamples: int = 10_000,
    seed: int = 0,
) -> MtebComparison:
    """Compare two models by result files of mteb, with an interval and a test over tasks.

    The unit is the task: what is asked is whether one model would also be ahead on other tasks like these. Of task t, with
    pairs (s, u) of split and subset that both models have, and main scores m (mteb's number, times 100),

        d_t = mean over (s, u) of m_A(t, s, u) − m_B(t, s, u),      d = mean over t of d_t,

    so a task of a hundred languages counts once. The 95 % interval of d is that of a bootstrap over tasks (Efron and
    Tibshirani 1993), too narrow where tasks are fewer than about ten. p is that of sign flips (Fisher 1935): if neither model
    is better, the sign of each d_t is a coin's; p is the share of the 2^T choices of signs with |d*| ≥ |d|, all gone through
    up to T = 13, else 10,000 drawn. It cannot fall below 2^(1 − T), so five tasks or fewer can show nothing at 5 %.

    The same is asked of each kind of task and of each language (there with the subsets of that language alone). Each of
    the two is a family whose p are corrected by Holm's method (1979); groups too small to show anything at the corrected level,
    which their number of tasks alone decides, are not counted in it (Tarone 1990).

    What differs is not compared: a task, split or subset that one model lacks, main scores that are no numbers, and
    a task whose data has another revision. It is named in `left_out`. Files that do not state the revision,
    and tasks scored by different versions of mteb (which gives a task another name when its scores change), are compared and
    named in `notes`. The kind of a task is told by its measures, as files do not state it: retrieval and reranking have
    the same. An aggregate (CQADupstackRetrieval) beside its parts is a task like any other: `tasks` leaves one of the two out.

    Args:
        a: the folder of one model's results, results/MODEL/REVISION or a folder above it that holds no others.
        b: that of the other.
        tasks: names of tasks; empty for all.
        level: the accepted rate of false "better" in a family.
        resamples: of the bootstrap and of the sign flips that are not all gone through.
        seed: of the draws.

    Returns:
        The comparison over all tasks, by kind and by language, and what was left out.

    Raises:
        XevalError: a folder without results or with those of several models, a file that mteb did not write, the same folder
            twice, or no common task.

    Example:
        >>> import json, tempfile
        >>> results = Path(tempfile.mkdtemp())
        >>> for model, lead in (("large", 0.02), ("small", 0.0)):
        ...     folder = results / model / "main"
        ...     folder.mkdir(parents=True)
        ...     for number in range(8):
        ...         score = {"hf_subset": "default", "languages": ["eng-Latn"], "main_score": 0.6 + lead + number / 100}
        ...         content = {
        ...             "task_name": f"Task{number}", "dataset_revision": "1", "mteb_version": "2.26.0",
        ...             "scores": {"test": [score]},
        ...         }
        ...         _ = (folder / f"Task{number}.json").write_text(json.dumps(content))
        >>> compared = compare_mteb(results / "large", results / "small")
        >>> compared.all_tasks.verdict, compared.all_tasks.n, round(compared.all_tasks.p, 4)
        ('large better by 2.00 points', 8, 0.0078)
    """
    if a.resolve() == b.resolve():
        raise XevalError(f"{a}: the same folder twice; give the results of two models")
    results = read_mteb(a), read_mteb(b)
    names = _names(a, b, *results)
    if tasks:
        results = _narrowed(results[0], tasks, names[0]), _narrowed(results[1], tasks, names[1])
    common, left_out, notes = _common(*results, names)
    if not common:
        raise XevalError(
            f"{names[0]} and {names[1]} have no task with the same data in common "
            f"({shortened(left_out, 3)}); evaluate both on the same tasks"
        )

    def compared(groups: Mapping[str, Sequence[MtebTaskScore]]) -> tuple[Comparison, ...]:
        return _compare_groups(groups, names, level=level, resamples=resamples, seed=seed)

    scores = [_task_score(task, entries) for task, entries in common]
    kinds, languages = defaultdict(list), defaultdict(list)
    for (task, entries), score in zip(common, scores, strict=True):
        kinds[score.kind].append(score)
        for language in score.languages:
            of_language = {
                place: pair for place, pair in entries.items() if language in _languages([pair])
            }
            languages[language].append(_task_score(task, of_language))
    whole = compared({"all tasks": scores})
    if not whole:
        notes.append(
            f"one task in common, {scores[0].task}: no interval and no test can be had of it"
        )
    alone = [
        name for groups in (kinds, languages) for name, group in groups.items() if len(group) == 1
    ]
    if alone and whole:
        notes.append(
            f"with a single task, and not compared by themselves: {shortened(sorted(alone))}"
        )
    return MtebComparison(
        a=names[0],
        b=names[1],
        all_tasks=whole[0] if whole else None,
        kinds=compared(kinds),
        languages=compared(languages),
        tasks=tuple(scores),
        left_out=tuple(left_out),
        notes=tuple(notes),
    )


def _compare_groups(
    groups: Mapping[str, Sequence[MtebTaskScore]],
    names: tuple[str, str],
    *,
    level: float,
    resamples: int,
    seed: int,
) -> tuple[Comparison, ...]:
    """Groups of two tasks or more; Holm's correction over those that could show a difference."""
    several = {place: group for place, group in sorted(groups.items()) if len(group) > 1}
    tested, number = _testable({place: len(group) for place, group in several.items()}, level)
    require_resamples(resamples, tests=len(tested), level=level, seeds=False)
    compared = {}
    for place, group in several.items():
        rows_a, rows_b = (
            np.array([[getattr(score, side) / 100, 1] for score in group])
            for side in ("score_a", "score_b")
        )
        compared[place] = compare_test_set(
            METRIC, {0: rows_a}, {0: rows_b}, place=place, level=level / max(1, len(tested)),
            resamples=resamples, seed=seed,
        )  # fmt: skip
    judged = {
        comparison.place: comparison
        for comparison in with_verdicts([compared[p] for p in tested], METRIC, names, level)
    }
    least = next(n for n in range(2, 64) if _least_p(n) < level / number)
    for place, comparison in compared.items():
        if place not in judged:
            verdict = f"too few tasks to show a difference; {least} are needed"
            corrected = min(1.0, number * comparison.p)
            judged[place] = replace(comparison, p_holm=corrected, detectable=None, verdict=verdict)
    return tuple(judged[place] for place in several)


def _testable(sizes: Mapping[str, int], level: float) -> tuple[list[str], int]:
    """The groups whose smallest p can fall below the level as corrected for a number of groups, and that number (Tarone 1990)."""
    for number in range(1, len(sizes) + 1):
        testable = [place for place, n in sizes.items() if _least_p(n) < level / number]
        if len(testable) <= number:
            return testable, number
    return [], 1


def _least_p(n: int) -> float:
    """The smallest p of sign flips of n differences."""
    return 2.0 ** (1 - n)


def _names(a: Path, b: Path, of_a: MtebResults, of_b: MtebResults) -> tuple[str, str]:
    """What tells the two apart: the models' names, else with revisions, else the folders."""
    named: list[Callable[[MtebResults, Path], str]] = [
        lambda results, _: results.model,
        lambda results, _: f"{results.model}@{results.revision[:12]}",
        lambda _, folder: str(folder),
    ]
    pairs = ((name(of_a, a), name(of_b, b)) for name in named)
    return next((pair for pair in pairs if pair[0] != pair[1]), (str(a), str(b)))


def _narrowed(results: MtebResults, tasks: Sequence[str], name: str) -> MtebResults:
    for task in tasks:
        if task not in results.tasks:
            raise XevalError(
                f"{name} has no result of the task {task!r}; it has {shortened(sorted(results.tasks))}"
            )
    return replace(results, tasks={task: results.tasks[task] for task in tasks})


def _common(
    of_a: MtebResults, of_b: MtebResults, names: tuple[str, str]
) -> tuple[list[tuple[MtebTask, _Entries]], list[str], list[str]]:
    """What both have of the same data; the rest in words; and what should be known of the common."""
    common: list[tuple[MtebTask, _Entries]] = []
    left_out: list[str] = []
    noted: dict[str, list[str]] = defaultdict(list)
    for task in sorted({*of_a.tasks, *of_b.tasks}):
        a, b = of_a.tasks.get(task), of_b.tasks.get(task)
        if a is None or b is None:
            left_out.append(f"{task}: no result of {names[a is not None]}")
            continue
        if a.revision and b.revision and a.revision != b.revision:
            left_out.append(
                f"{task}: other data, of revision {a.revision[:12]} for {names[0]} and {b.revision[:12]} for {names[1]}"
            )
            continue
        entries, reasons = _common_entries(a, b, names)
        left_out += [f"{task}, {reason}" for reason in reasons]
        if not entries:
            left_out.append(f"{task}: no subset in common")
            continue
        common.append((a if a.kind != "other" else b, entries))
        if not (a.revision and b.revision):
            noted["the revision of the data is not stated, and may not be the same"].append(task)
        if a.version != b.version:
            versions = f"{a.version or 'not stated'} and {b.version or 'not stated'}"
            noted[f"scored by different versions of mteb ({versions})"].append(task)
    return common, left_out, [f"{note}: {shortened(tasks)}" for note, tasks in noted.items()]


def _common_entries(a: MtebTask, b: MtebTask, names: tuple[str, str]) -> tuple[_Entries, list[str]]:
    entries: _Entries = {}
    reasons: dict[str, list[str]] = defaultdict(list)
    for place in sorted({*a.scores, *b.scores}):
        of_a, of_b = a.scores.get(place), b.scores.get(place)
        where = " ".join(place)
        if of_a is None or of_b is None:
            reasons[f"no result of {names[of_a is not None]}"].append(where)
        elif of_a.main_score is None or of_b.main_score is None:
            lacking = names[0] if of_a.main_score is None else names[1]
            reasons[f"no main score of {lacking}"].append(where)
        elif not (_same_measure(of_a, of_b) and _same_measure(of_b, of_a)):
            reasons["main scores by different measures"].append(where)
        else:
            entries[place] = of_a, of_b
    return entries, [f"{shortened(where)}: {reason}" for reason, where in reasons.items()]


def _same_measure(older: MtebScore, newer: MtebScore) -> bool:
    """Whether the measure taken for the main score of an old file is the main one of the new."""
    if older.measure is None or newer.measure is not None:
        return older.measure == newer.measure or older.measure is None
    value = newer.measures.get(older.measure)
    return value is not None and abs(value - (newer.main_score or 0.0)) < 1e-6


def _languages(pairs: Iterable[tuple[MtebScore, MtebScore]]) -> tuple[str, ...]:
    return tuple(sorted({name for a, b in pairs for name in (*a.languages, *b.languages)}))


def _task_score(task: MtebTask, entries: _Entries) -> MtebTaskScore:
    pairs = entries.values()
    return MtebTaskScore(
        task=task.name,
        kind=task.kind,
        languages=_languages(pairs),
        subsets=len(entries),
        score_a=100 * float(np.mean([a.main_score for a, _ in pairs])),
        score_b=100 * float(np.mean([b.main_score for _, b in pairs])),
    )
