"""What a model is worth: how near its answers are to the whole model's on text kept out of training, or its score on a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bistil.encoders.answers import plain_kind
from bistil.encoders.closeness import compare_nearness, interval
from bistil.errors import FitError
from bistil.make.answers import text_vectors
from bistil.make.closeness import Measures, measures_of
from bistil.make.scores import protocol_of
from teacherzoo.cache import digest_of_values
from teacherzoo.progress import no_progress
from vocabmerge import Kind, Layout
from vocabmerge.language_texts import evenly_spread
from xeval import open_source, score
from xeval.data.folder import DataSet
from xeval.data.source import Source
from xeval.task_templates.task import FineTunedTask, Task
from xeval.tasks import TASKS, task_of

_EXAMPLES = {"train": 1_000, "dev": 300, "test": 300}


@dataclass(frozen=True, kw_only=True)
class Worth:
    """Of one model, in percent of the whole model.

    Attributes:
        mean: over the languages.
        languages: of each.
        interval: the 95 % interval of a bootstrap over lines, by language; empty for a task.
        worst: the mean of the worst twentieth of the lines, by language; empty for a task. A missing piece ruins few lines
            where a missing layer harms all a little, which the mean of all does not tell apart.
    """

    mean: float
    languages: Mapping[str, float]
    interval: Mapping[str, tuple[float, float]]
    worst: Mapping[str, float] = field(default_factory=dict)

    def ranked(self, by: str) -> float:
        """What shapes are ranked by: the "mean", or that of the "worst" lines over the languages."""
        return self.mean if by == "mean" else float(np.mean([*self.worst.values()]))

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


class Judge(Protocol):
    """By text or by task."""

    by: str
    """By which lines shapes are ranked: the "mean" of all, or the "worst" twentieth."""

    @property
    def measure(self) -> str:
        """What is measured, in words."""

    @property
    def inputs(self) -> Mapping[str, Any]:
        """All that decides the figures beside the judged model, as plain values."""

    def worth(self, folder: Path) -> Worth:
        """Of the model in a folder."""


def require_ranked(layout: Layout, by: str | None, *, task: str | None) -> None:
    """Refuse the worst lines where there are no lines, or where their answers cannot be ranked.

    Args:
        layout: of the model's folder.
        by: "mean" of all lines or "worst" twentieth; None for what suits the kind.
        task: that judges in place of text.

    Raises:
        FitError: naming what to rank by instead.
    """
    if by != "worst":
        return
    if task is not None:
        raise FitError("--by worst is of lines, and a task has a score; leave one of them out.")
    if layout.kind is Kind.TOKEN_CLASSIFIER:
        raise FitError(
            "--by worst: a word gets the whole model's label or another, so that the worst words are all alike; rank by the mean."
        )


class TextJudge:
    """How near a model's answers are to the whole model's.

    Of vectors the correlation of each line's cosines to the other lines, which a narrower model has, too; of classifiers what
    their labels share, or the order of texts by score; of rerankers the order of passages; of token classifiers the labels of words.

    Args:
        whole: the layout of the model's folder.
        texts: per language lines that nothing was made with.
        prompt: put in front of each; None for the folder's own.
        by: "mean" of all lines or "worst" twentieth; None for what suits the kind, which of vectors is "worst".
        seed: of the bootstrap.
    """

    def __init__(
        self,
        whole: Layout,
        texts: Mapping[str, Sequence[str]],
        *,
        prompt: str | None,
        by: str | None,
        seed: int,
    ) -> None:
        self._layout, self._texts, self._prompt, self._seed = whole, texts, prompt, seed
        self._measures = _measures_across_widths(whole)
        self.by = by or ("worst" if self._measures.ask is text_vectors else "mean")
        self._expected: dict[str, Any] = {}

    @property
    def measure(self) -> str:
        """What is measured, in words."""
        measured = {
            "reranker": "order of passages that is the whole model's",
            "scorer": "order of texts by score that is the whole model's",
            Kind.CLASSIFIER: "probability of labels that is the whole model's",
            Kind.SPARSE: "cosine of a line's weights of pieces to the whole model's",
            Kind.TOKEN_CLASSIFIER: "words that get the whole model's label",
        }.get(
            plain_kind(self._layout), "correlation of the nearness of lines with the whole model's"
        )
        return measured + (
            ", mean of the worst twentieth of the lines" if self.by == "worst" else ""
        )

    @property
    def inputs(self) -> Mapping[str, Any]:
        """All that decides the figures beside the judged model, as plain values."""
        return {"texts": digest_of_values(self._texts), "prompt": self._prompt, "seed": self._seed}

    def worth(self, folder: Path) -> Worth:
        """Of the model in a folder."""
        means, intervals, worst = {}, {}, {}
        for language, lines in self._texts.items():
            if language not in self._expected:
                self._expected[language] = self._measures.ask(self._layout.folder, lines, self._prompt)  # fmt: skip
            given = self._measures.ask(folder, lines, self._prompt)
            compared = self._measures.compare(self._expected[language], given)
            items = compared[self._chosen(list(compared))]
            means[language] = 100 * float(items.mean())
            intervals[language] = interval(items, self._seed)
            worst[language] = 100 * float(np.sort(items)[: max(1, len(items) // 20)].mean())
        mean = float(np.mean([*means.values()]))
        return Worth(mean=mean, languages=means, interval=intervals, worst=worst)

    def _chosen(self, names: Sequence[str]) -> str:
        """The measure that moves with every small change, where one only counts."""
        graded = ("shared probability", "pairs in the same order")
        return next((name for name in names if name in graded), names[0])


class TaskJudge:
    """What a model scores on a task, of what the whole model scores, as it is: no head is tuned.

    Development sets alone are asked: a shape that was chosen on a test set would look better there than it is.

    Args:
        whole: the model's folder.
        task: of xeval, one that asks a model as it is, or the name of one that has such a probe.
        data: a folder as xeval reads it, or `hub:NAME`.
        languages: the source first, on which a probe is trained.
        prompts: the first is put in front of texts and queries, the last of documents; none for the folder's own.

    Raises:
        FitError: for a task that needs tuning, or no development set in one of the languages.
    """

    by = "mean"

    def __init__(
        self, whole: Path, task: str, data: str, languages: Sequence[str], *, prompts: Sequence[str]
    ) -> None:
        self._task = _task_as_it_is(task)
        self._source = _DevelopmentSets(open_source(data), languages)
        self._sets = self._source.data_sets(self._task)
        present = {data_set.language for data_set in self._sets if "test" in data_set.splits}
        if missing := [language for language in languages if language not in present]:
            raise FitError(
                f"{data}: there is no development set of {self._task.name} in {missing[0]}, and shapes are not chosen on test sets; "
                "give one, or leave --task out, and shapes are judged by text."
            )
        self._whole, self._language, self._prompts = whole, languages[0], tuple(prompts)
        self._expected: dict[str, float] = {}

    @property
    def measure(self) -> str:
        """What is measured, in words."""
        return f"{self._task.metrics[0]} of {self._task.title} on development sets, of the whole model's"

    @property
    def inputs(self) -> Mapping[str, Any]:
        """All that decides the figures beside the judged model, as plain values."""
        digests = {
            f"{data_set.name} {split}": self._source.digest(self._task, data_set, split)
            for data_set in self._sets
            for split in data_set.splits
        }
        return {"task": self._task.name, "data": digests, "examples": _EXAMPLES, "prompts": self._prompts}  # fmt: skip

    def worth(self, folder: Path) -> Worth:
        """Of the model in a folder."""
        if not self._expected:
            self._expected = self._scores(self._whole)
            for language, value in self._expected.items():
                if value <= 0:
                    raise FitError(
                        f"The whole model scores {value:.2f} on {self._task.name} in {language}, of which no share can be taken; leave the language "
                        "out, or judge by another task or by text."
                    )
        scores = self._scores(folder)
        shares = {name: 100 * value / self._expected[name] for name, value in scores.items()}  # fmt: skip
        return Worth(mean=float(np.mean([*shares.values()])), languages=shares, interval={})

    def _scores(self, folder: Path) -> dict[str, float]:
        from tempfile import TemporaryDirectory

        with TemporaryDirectory() as place:
            results = score(
                folder, Path(place) / "results.jsonl", source=self._source, languages=[s.short for s in self._sets if "test" in s.splits],
                task=self._task.name, language=self._language, protocol=protocol_of(self._prompts), watch=no_progress,
            )  # fmt: skip
        values: dict[str, list[float]] = {}
        for result in results:
            if result.metric == self._task.metrics[0] and result.value is not None:
                values.setdefault(result.language, []).append(result.value)
        return {language: float(np.mean(listed)) for language, listed in values.items()}


class _DevelopmentSets:
    """A source whose test sets are the development sets of another, all of a bounded size.

    Args:
        source: the other.
        languages: wanted.
    """

    def __init__(self, source: Source, languages: Sequence[str]) -> None:
        self._source, self._languages = source, languages

    def data_sets(self, task: Task) -> list[DataSet]:
        """Those of the languages; a set without a development split has no test split."""
        return [
            replace(data_set, splits=(*(s for s in data_set.splits if s != "test"), *(("test",) if "dev" in data_set.splits else ())))
            for data_set in self._source.data_sets(task)
            if data_set.language in self._languages
        ]  # fmt: skip

    def read(self, task: Task, data_set: DataSet, split: str) -> list[Any]:
        """Examples, evenly spread."""
        examples = self._source.read(task, data_set, "dev" if split == "test" else split)
        return list(evenly_spread(examples, min(len(examples), _EXAMPLES[split])))

    def digest(self, task: Task, data_set: DataSet, split: str) -> str:
        """Of the split that is read."""
        return self._source.digest(task, data_set, "dev" if split == "test" else split)


def _task_as_it_is(name: str) -> Task:
    task = task_of(name)
    if isinstance(task, FineTunedTask):
        if f"{name}_probe" in TASKS:
            return TASKS[f"{name}_probe"]
        others = [other for other, known in TASKS.items() if not isinstance(known, FineTunedTask)]
        raise FitError(
            f"--task {name}: it needs a head to be tuned, which a search over shapes cannot afford; take one that asks a model as it is "
            f"({', '.join(others)}), or leave --task out."
        )
    return task


def _measures_across_widths(layout: Layout) -> Measures:
    measures = measures_of(layout)
    return Measures(text_vectors, compare_nearness) if measures.ask is text_vectors else measures
