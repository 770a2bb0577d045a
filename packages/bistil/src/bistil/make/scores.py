"""The judge's verdict on test sets of the user's: the model, its trim and its student on the same items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bistil.errors import MakeError
from teacherzoo.progress import ProgressCallback
from vocabmerge import Kind
from xeval import Protocol, XevalError, compare, open_source, read_results, score
from xeval.data.source import Source
from xeval.tasks import task_of

_TASKS = {
    Kind.SENTENCE: ("bitext", "sts", "retrieval", "rerank"),
    Kind.SPARSE: ("retrieval", "rerank", "bitext"),
    Kind.HEADLESS: ("bitext",),
    Kind.MASKED_LM: ("bitext", "bpb"),
    Kind.CLASSIFIER: ("rerank",),
}
WHOLE, TRIMMED, STUDENT = "whole", "trimmed", "student"


def test_sets(data: str, kind: Kind, num_labels: int | None, languages: Sequence[str]) -> dict[str, list[str]]:  # fmt: skip
    """Per task that asks a model of this kind as it is, the test sets of the languages.

    Args:
        data: a folder as xeval reads it, or `hub:NAME`.
        kind: of the model.
        num_labels: of a classifier.
        languages: wanted.

    Raises:
        MakeError: where there is none.
    """
    source = open_source(data)
    tasks = () if kind is Kind.CLASSIFIER and num_labels != 1 else _TASKS.get(kind, ())
    sets = {task: _sets(source, task, languages) for task in tasks}
    if not any(sets.values()):
        asked = (
            f"of the tasks {', '.join(tasks)} "
            if tasks
            else "that such a model answers without tuning "
        )
        raise MakeError(
            f"{data}: there is no test set {asked}in {', '.join(languages)}; see `xeval score --help` for the layout, or leave "
            "--data out."
        )
    return {task: names for task, names in sets.items() if names}


def scores(
    folder: Path,
    results: Path,
    data: str,
    sets: Mapping[str, Sequence[str]],
    *,
    prompts: Sequence[str],
    watch: ProgressCallback,
) -> list[dict[str, Any]]:
    """Score all three models, and compare each smaller one with the whole one by paired tests.

    Args:
        folder: in which the models' folders lie under their names.
        results: the results file, which is added to.
        data: see `test_sets`.
        sets: see `test_sets`.
        prompts: the first is put in front of texts and queries, the last of documents; none for the model's own.
        watch: told (done, total, what).

    Returns:
        A row for each task, metric and language: what all scored, and what the tests say, as plain values.
    """
    results.parent.mkdir(exist_ok=True)
    first, last = (prompts[0], prompts[-1]) if prompts else (None, None)
    protocol = Protocol(text_prompt=first, query_prompt=first, document_prompt=last)
    for task, names in sets.items():
        for model in (WHOLE, TRIMMED, STUDENT):
            score(
                folder / model, results, source=open_source(data), languages=list(names), task=task,
                protocol=protocol, watch=watch,
            )  # fmt: skip
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for model in (TRIMMED, STUDENT):
        for task_comparison in compare(read_results(results), model, WHOLE):
            for row in task_comparison.languages:
                key = (task_comparison.task, task_comparison.metric, row.place)
                said = rows.setdefault(key, dict(zip(("task", "metric", "language"), key, strict=True)))  # fmt: skip
                said |= {
                    "n": row.n,
                    WHOLE: row.score_b,
                    model: row.score_a,
                    f"{model}_interval": (row.low, row.high),
                    f"{model}_p": row.p_holm,
                    f"{model}_verdict": row.verdict,
                }
    return list(rows.values())


def _sets(source: Source, task: str, languages: Sequence[str]) -> list[str]:
    try:
        sets = source.data_sets(task_of(task))
    except XevalError:  # nothing of this task is there
        return []
    return [
        data_set.short
        for data_set in sets
        if data_set.language in languages and "test" in data_set.splits
    ]
