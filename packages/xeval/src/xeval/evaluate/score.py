"""Scoring a model on the test sets of many languages, with bootstraps, into a results file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from xeval.data.folder import DataSet
from xeval.data.source import Source, choose_source, choose_targets, digest_of_training
from xeval.encoder import model_digest, model_name
from xeval.finetune.checkpoint import FineTunedModel, predict, read_finetuned
from xeval.finetune.record import task_to_score
from xeval.progress import ProgressCallback, no_progress
from xeval.protocol import Protocol
from xeval.statistics.items import Items, digest_of_examples
from xeval.statistics.metrics import metric_of
from xeval.statistics.result import Result
from xeval.statistics.results_file import append_results, require_no_folder, results_by_key
from xeval.task_templates.task import FineTunedTask, ProbeTask, Task, ZeroShotTask


@dataclass(frozen=True, kw_only=True)
class Label:
    """What results say of a model that was not tuned.

    Args:
        model: its name.
        model_digest: what it is known by.
        seed: of the training that made it.
    """

    model: str
    model_digest: str
    seed: int = 0


def score(
    model: str | Path,
    results: Path,
    *,
    source: Source,
    languages: Sequence[str] = ("all",),
    task: str | None = None,
    language: str = "en",
    protocol: Protocol | None = None,
    bootstraps: int = 0,
    label: Label | None = None,
    watch: ProgressCallback = no_progress,
) -> list[Result]:
    """Score a model on the test split of every language asked for, and append each figure once.

    A figure is m(Σ x_i), a function of sums: every test item i gives a row x_i `[S]` of additive statistics, such as
    (tp, fp, fn) for F1 (`xeval.statistics.metrics`), which is kept beside the figure, so that bootstraps, tests and tables
    need no model. Predictions are made in float32 and do not depend on how examples are batched. The model is opened once for all languages, and not at all when every figure is already there. A test set whose items
    have changed since, or a model that was tuned on other data than the figures say, is scored anew.

    Args:
        model: a folder written by `tune`; for a task that needs no tuning, any model folder.
        results: a JSON Lines file.
        source: where the data lies.
        languages: languages or data sets' own names, or ("all",); then what has no test split is recorded as skipped.
        task: for a model that was not tuned: a task that needs no tuning.
        language: for a task that trains a classifier on a model's vectors: the source language, or a data set's own name.
        protocol: for such a task: its settings.
        bootstraps: further figures, each on the test items drawn anew with replacement.
        label: what results call a model that was not tuned; its folder's name and digest by default.
        watch: told the items done.

    Returns:
        The figures on the whole test sets, those of before included.

    Raises:
        XevalError: naming what cannot be scored and why.

    Example:
        >>> from xeval import LocalFolder
        >>> source = LocalFolder(Path("data"))  # with ud/yy_made/test.conllu
        >>> [figure] = score("tuned", Path("results.jsonl"), source=source, languages=["yy"])
        >>> figure.language, figure.metric, figure.n, 0 <= figure.value <= 100
        ('yy', 'accuracy', 25, True)
    """
    require_no_folder(results)
    evaluator = _evaluator(str(model), task, protocol or Protocol(), source, language, label, watch)
    chosen, absent = choose_targets(source.data_sets(evaluator.task), languages)
    reached: list[Result] = []
    known = results_by_key(results) if results.is_file() else {}
    for number, data_set in enumerate(chosen, start=1):
        watch(number - 1, len(chosen), f"reading {data_set.name}")
        examples, notes = evaluator.read(data_set)
        digest = digest_of_examples(examples)
        blank = list(evaluator.blanks(data_set, bootstraps))
        recorded = [known.get(r.key) for r in blank]
        if all(r is not None and r.is_of(evaluator.train_digest, digest) for r in recorded):
            reached += [r for r in recorded if r is not None and r.bootstrap is None]
            continue
        _tell(notes, data_set, watch)
        measured = evaluator.measure(data_set, examples, digest, bootstraps)
        append_results(results, measured)
        figures = [r for r, _ in measured if r.bootstrap is None]
        reached += figures
        said = ", ".join(f"{r.metric} {r.value:.{metric_of(r.metric).digits}f}" for r in figures)
        watch(number, len(chosen), f"evaluated {evaluator.task.name} {data_set.short}: {said}")
    skipped = [
        (
            evaluator.result(
                data_set, metric, value=None, n=0,
                skipped=f"{data_set.name} has no test split",
            ),
            None,
        )
        for data_set in absent
        for metric in evaluator.task.metrics
    ]  # fmt: skip
    append_results(results, skipped)
    return [*reached, *(r for r, _ in skipped)]


class _Evaluator:
    """A model on a task: the constant parts of its results, and the model once it is needed."""

    def __init__(
        self,
        *,
        task: Task,
        protocol: Protocol,
        constants: dict[str, Any],
        source: Source,
        measure: Callable[[DataSet, Sequence[Any]], list[Items]],
    ) -> None:
        self.task = task
        self._source = source
        self._as_given = protocol
        self._protocol = task.settings(protocol)
        self._constants = constants
        self._measure = measure

    @property
    def train_digest(self) -> str | None:
        """Of the data the model was tuned on."""
        return self._constants.get("train_digest")

    def read(self, data_set: DataSet) -> tuple[list[Any], list[str]]:
        """The test items as the protocol sees them, and notes."""
        return self.task.view(self._source.read(self.task, data_set, "test"), self._as_given)

    def result(self, data_set: DataSet, metric: str, **rest: Any) -> Result:
        constants = {"source_language": data_set.language, **self._constants}
        return Result(
            task=self.task.name,
            dataset=data_set.name,
            split="test",
            language=data_set.language,
            protocol=self._protocol,
            metric=metric,
            **constants,
            **rest,
        )

    def blanks(self, data_set: DataSet, bootstraps: int) -> Iterator[Result]:
        """The records that a data set will give, without their figures."""
        for metric in self.task.metrics:
            for draw in (None, *range(bootstraps)):
                yield self.result(
                    data_set, metric, value=None, n=0, skipped="not yet", bootstrap=draw
                )

    def measure(
        self, data_set: DataSet, examples: Sequence[Any], digest: str, bootstraps: int
    ) -> list[tuple[Result, Items]]:
        records = []
        for measured in self._measure(data_set, examples):
            # By one digest for all tasks, those of others included, the next call knows the test set again.
            items = replace(measured, test_digest=digest)
            for draw in (None, *range(bootstraps)):
                value = items.value() if draw is None else items.bootstrap_value(draw)
                records.append(
                    (
                        self.result(
                            data_set, items.metric, value=value, n=len(items.rows), bootstrap=draw
                        ),
                        items,
                    )
                )
        return records


def _evaluator(
    model: str,
    task: str | None,
    protocol: Protocol,
    source: Source,
    language: str,
    label: Label | None,
    watch: ProgressCallback,
) -> _Evaluator:
    chosen, record = task_to_score(model, task)
    if isinstance(chosen, FineTunedTask):
        assert record is not None  # a task with a head has one
        return _finetuned_evaluator(Path(model), chosen, record, source, watch)
    if isinstance(chosen, ProbeTask):
        return _probe_evaluator(model, chosen, protocol, source, language, label, watch)
    assert isinstance(chosen, ZeroShotTask)
    return _zero_shot_evaluator(model, chosen, protocol, source, label, watch)


def _finetuned_evaluator(
    folder: Path,
    task: FineTunedTask,
    record: dict[str, Any],
    source: Source,
    watch: ProgressCallback,
) -> _Evaluator:
    opened: list[FineTunedModel] = []

    def measure(data_set: DataSet, examples: Sequence[Any]) -> list[Items]:
        if not opened:
            opened.append(read_finetuned(folder))
        items, notes = score_examples(opened[0], task, examples, data_set, watch)
        _tell(notes, data_set, watch)
        return items

    constants = {
        "model": record["base"],
        "model_digest": record["base_digest"],
        "source_language": record["source_language"],
        "seed": record["seed"],
        "train_digest": record.get("train_digest"),
    }
    return _Evaluator(
        task=task, protocol=Protocol(**record["protocol"]), constants=constants,
        source=source, measure=measure,
    )  # fmt: skip


def score_examples(
    tuned: FineTunedModel,
    task: FineTunedTask,
    examples: Sequence[Any],
    data_set: DataSet,
    watch: ProgressCallback,
) -> tuple[list[Items], list[str]]:
    """Per-item statistics of a tuned model on examples, and notes."""
    encoded, notes = task.encode(tuned.pieces, examples, tuned.labels)
    guesses = predict(
        tuned.model,
        task,
        encoded,
        labels=tuned.labels,
        pad_id=tuned.pieces.pad_id,
        watch=watch,
        what=f"{task.name} {data_set.short}",
    )
    return task.items(examples, guesses, tuned.labels, data_set.language), notes


def _zero_shot_evaluator(
    model: str, task: ZeroShotTask, protocol: Protocol, source: Source, label: Label | None, watch: ProgressCallback
) -> _Evaluator:  # fmt: skip
    opened: list[Any] = []

    def measure(data_set: DataSet, examples: Sequence[Any]) -> list[Items]:
        if not opened:
            opened.append(task.open(model, protocol))
            constants["method"] = getattr(opened[0], "method", None)
        items, notes = task.measure(opened[0], examples, protocol, watch)
        _tell(notes, data_set, watch)
        return items

    constants = asdict(label or _as_it_is(model))
    return _Evaluator(
        task=task, protocol=protocol, constants=constants, source=source, measure=measure
    )


def _probe_evaluator(
    model: str,
    task: ProbeTask,
    protocol: Protocol,
    source: Source,
    language: str,
    label: Label | None,
    watch: ProgressCallback,
) -> _Evaluator:
    training = choose_source(source.data_sets(task), language)
    fitted: list[Any] = []

    def measure(data_set: DataSet, examples: Sequence[Any]) -> list[Items]:
        if not fitted:
            train, dev = (
                task.view(source.read(task, training, split), protocol)[0]
                for split in ("train", "dev")
            )
            probe, notes = task.fit(model, protocol, train, dev, watch)
            _tell(notes, training, watch)
            fitted.append(probe)
            constants["method"] = getattr(probe, "method", None)
        items, notes = task.measure(fitted[0], examples, protocol, watch)
        _tell(notes, data_set, watch)
        return items

    constants = {
        **asdict(label or _as_it_is(model)),
        "source_language": training.language,
        "train_digest": digest_of_training(source, task, training),
    }
    return _Evaluator(
        task=task, protocol=protocol, constants=constants, source=source, measure=measure
    )


def _as_it_is(model: str) -> Label:
    return Label(model=model_name(model), model_digest=model_digest(model))


def _tell(notes: Sequence[str], data_set: DataSet, watch: ProgressCallback) -> None:
    for note in notes:
        watch(0, 0, f"{data_set.short}: {note}")
