"""The judge's verdict on test sets of the user's: the model, its trim and its student on the same items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bistil.errors import MakeError
from teacherzoo.progress import ProgressCallback
from vocabmerge import Kind, Layout, read_layout, read_vocabulary
from xeval import Protocol, XevalError, compare, open_source, read_results, score
from xeval.data.source import Source
from xeval.statistics.display_names import place_labels
from xeval.tasks import task_of

_TASKS: dict[str, tuple[str, ...]] = {
    Kind.SENTENCE: ("bitext", "sts", "retrieval", "rerank"),
    Kind.SPARSE: ("retrieval", "rerank", "bitext"),
    Kind.HEADLESS: ("bitext",),
    Kind.MASKED_LM: ("bitext", "bpb"),
    "reranker": ("rerank",),
}
WHOLE, TRIMMED, STUDENT = "whole", "trimmed", "student"
_BITEXT = "bitext"
_LEFT = 0.5


def test_sets(data: str, layout: Layout, languages: Sequence[str]) -> dict[str, list[str]]:
    """Per task that asks a model of this kind as it is, the test sets of the languages.

    Args:
        data: a folder as xeval reads it, or `hub:NAME`.
        layout: of the model.
        languages: wanted.

    Raises:
        MakeError: where there is none.
    """
    source = open_source(data)
    tasks = _TASKS.get("reranker" if layout.reranker else layout.kind, ())
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
        A row for each task, metric and language: what all scored, and what the tests say, as plain values; under `needs`, why
        neither trim nor student can be expected to keep up there, where that is so.
    """
    results.parent.mkdir(exist_ok=True)
    protocol = protocol_of(prompts)
    for task, names in sets.items():
        for model in (WHOLE, TRIMMED, STUDENT):
            score(
                folder / model, results, source=open_source(data), languages=list(names), task=task,
                protocol=protocol, watch=watch,
            )  # fmt: skip
    needs = languages_needed(
        folder / WHOLE, folder / TRIMMED, open_source(data), sets.get(_BITEXT, ())
    )
    labels = place_labels(result for result in read_results(results) if result.task == _BITEXT)
    needs_by_label = {labels[place]: said for place, said in needs.items()}
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for model in (TRIMMED, STUDENT):
        for task_comparison in compare(read_results(results), model, WHOLE):
            for row in task_comparison.languages:
                key = (task_comparison.task, task_comparison.metric, row.place)
                said = rows.setdefault(key, dict(zip(("task", "metric", "language"), key, strict=True)))  # fmt: skip
                said |= {
                    "n": row.n,
                    "needs": needs_by_label.get(row.place, "")
                    if task_comparison.task == _BITEXT
                    else "",
                    WHOLE: row.score_b,
                    model: row.score_a,
                    f"{model}_interval": (row.low, row.high),
                    f"{model}_p": row.p_holm,
                    f"{model}_verdict": row.verdict,
                }
    return list(rows.values())


def protocol_of(prompts: Sequence[str]) -> Protocol:
    """The judge's settings: the first prompt is put in front of texts and queries, the last of documents; none for the model's own.

    Example:
        >>> asked = protocol_of(["query: ", "passage: "])
        >>> asked.text_prompt, asked.query_prompt, asked.document_prompt
        ('query: ', 'query: ', 'passage: ')
    """
    first, last = (prompts[0], prompts[-1]) if prompts else (None, None)
    return Protocol(text_prompt=first, query_prompt=first, document_prompt=last)


def languages_needed(
    whole: Path, trimmed: Path, source: Source, names: Sequence[str]
) -> dict[tuple[str, str], str]:
    """Of sets of translations those whose other side is in a language that the trim did not keep, and how that shows.

    Of a language that was kept the trim segments nearly all lines as the model does, of any other hardly one. A set does not say
    what its translations are in, so that the sentences themselves are the measure.

    Args:
        whole: the model's folder.
        trimmed: the trim's.
        source: of the sets.
        names: of the sets, short.

    Returns:
        By language and name of a set, a sentence.
    """
    before, after = (read_vocabulary(place / read_layout(place).tokenizer).segmenter() for place in (whole, trimmed))  # fmt: skip

    def kept(texts: list[str]) -> float:
        pairs = zip(before.encode_batch(texts), after.encode_batch(texts), strict=True)
        return sum(a.tokens == b.tokens for a, b in pairs) / max(1, len(texts))

    needed, task = {}, task_of(_BITEXT)
    for data_set in source.data_sets(task) if names else ():
        if data_set.short in names:
            examples = source.read(task, data_set, "test")
            sentences, translations = (kept([getattr(e, side) for e in examples]) for side in ("text", "translation"))  # fmt: skip
            if translations < _LEFT * sentences:
                needed[data_set.language, data_set.name] = (
                    f"needs the language of its translations, which was not kept: the trim segments {100 * translations:.0f} % of them "
                    f"as the model does, of the sentences {100 * sentences:.0f} %"
                )
    return needed


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
