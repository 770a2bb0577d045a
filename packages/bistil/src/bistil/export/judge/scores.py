"""Test sets judged by an exported graph in the place of the model, by xeval's own decoding and metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bistil.errors import ExportError
from bistil.export.graph.graph import Graph
from bistil.export.graph.heads import Part, part_of
from bistil.export.judge.graph_reader import GraphReader
from bistil.export.judge.text_answers import gives_one_score, gives_vectors, text_answers
from teacherzoo.progress import ProgressCallback
from xeval import Protocol, XevalError
from xeval.data.folder import DataSet
from xeval.data.source import Source, choose_targets
from xeval.evaluate.score import score_examples
from xeval.finetune.checkpoint import TaskModel, read_finetuned
from xeval.sentences.reranker import Scores, SimilarityScores
from xeval.sentences.vectors import Role, Vectors, prompt_of
from xeval.statistics.items import Items
from xeval.task_templates.task import FineTunedTask, Task, ZeroShotTask
from xeval.tasks import task_of

_OF_VECTORS = ("bitext", "sts", "retrieval", "rerank")
_OF_SCORES = ("rerank",)


@dataclass(frozen=True, kw_only=True)
class JudgedSet:
    """Examples, and what they ask.

    Attributes:
        task: of xeval.
        data_set: that was read.
        examples: of its test split.
    """

    task: Task
    data_set: DataSet
    examples: Sequence[Any]


class TestSets:
    """The test sets of the tasks that a model answers.

    Args:
        graph: that was exported.
        source: where the data lies.
        languages: languages or data sets, or ("all",).
        prompts: put in front of texts and queries, the last of documents; none for the folder's own.

    Raises:
        ExportError: where nothing of the source asks such a model.
        XevalError: for data that cannot be read.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        source: Source,
        languages: Sequence[str],
        prompts: Sequence[str] = (),
    ) -> None:
        self._graph = graph
        self._prompts = prompts
        self._tuned = read_finetuned(graph.folder) if graph.about.get("task") else None
        self._protocol = self._tuned.protocol if self._tuned else Protocol()
        self.sets = [
            JudgedSet(task=task, data_set=data_set, examples=task.view(source.read(task, data_set, "test"), self._protocol)[0])
            for task in self._tasks()
            for data_set in _chosen(source, task, languages, alone=self._tuned is not None)
        ]  # fmt: skip
        if not self.sets:
            tasks = ", ".join(task.name for task in self._tasks())
            raise ExportError(
                f"--data: there is no test set in {', '.join(languages)} "
                + (
                    f"of the tasks {tasks}, which such a model answers as it is"
                    if tasks
                    else "that such a model answers as it is"
                )
                + "; see `xeval score --help` for the layout, or judge it on lines with --text."
            )

    def items(self, reader: GraphReader, watch: ProgressCallback) -> list[list[Items]]:
        """Per test set the statistics of each metric, with a graph in the place of the model."""
        tuned = self._tuned and replace(
            self._tuned, model=_as_task_model(reader, self._tuned.model.head)
        )
        measured = []
        for test in self.sets:
            if isinstance(test.task, FineTunedTask):
                assert tuned is not None
                items, _ = score_examples(tuned, test.task, test.examples, test.data_set, watch)
            else:
                assert isinstance(test.task, ZeroShotTask)
                items, _ = test.task.measure(
                    self._opened(reader, test.task), test.examples, self._protocol, watch
                )
            measured.append(items)
        return measured

    def _tasks(self) -> list[Task]:
        if self._tuned:
            return [task_of(self._tuned.task)]
        if gives_vectors(self._graph):
            return [task_of(name) for name in _OF_VECTORS]
        return [task_of(name) for name in _OF_SCORES] if gives_one_score(self._graph) else []

    def _opened(self, reader: GraphReader, task: Task) -> Any:
        if gives_one_score(self._graph):
            return _GraphScores(reader)
        vectors = _GraphVectors(reader, self._prompts)
        return SimilarityScores(vectors) if task.name == "rerank" else vectors


def _chosen(source: Source, task: Task, languages: Sequence[str], *, alone: bool) -> list[DataSet]:
    """Of the only task that a model answers all that is asked for; of one among several what there is."""
    if alone:
        return choose_targets(source.data_sets(task), languages)[0]
    try:
        sets = source.data_sets(task)
    except XevalError:  # nothing of this task is there
        return []
    with_test = [data_set for data_set in sets if "test" in data_set.splits]
    if list(languages) == ["all"]:
        return with_test
    return [
        data_set
        for data_set in with_test
        if {data_set.language, data_set.short, data_set.name} & set(languages)
    ]


class _GraphVectors:
    """Plays xeval's `TextVectors`: a graph's vectors with the prompts and the similarity of the model's folder."""

    method = "ONNX graph"

    def __init__(self, reader: GraphReader, prompts: Sequence[str]) -> None:
        self._reader = reader
        self._how = text_answers(reader.graph)
        self._prompts = prompts

    def encode(
        self, texts: Sequence[str], role: Role, watch: ProgressCallback, what: str
    ) -> tuple[Vectors, int]:
        """Vectors [N, D], and no count of texts that were cut."""
        prompt = prompt_for(role, self._reader.graph, self._prompts)
        rows = [(prompt + text,) for text in texts]
        longest = self._reader.graph.longest
        vectors = self._reader.ask(rows, self._how.answer, longest=longest, watch=watch, what=what)
        return np.stack(vectors), 0

    def similarity(self, a: Vectors, b: Vectors) -> Vectors:
        """By the model's own measure."""
        from sentence_transformers import SimilarityFunction

        measure = SimilarityFunction.to_similarity_fn(self._reader.graph.similarity)
        return np.asarray(measure(a, b).numpy())


class _GraphScores:
    """Plays xeval's `PairScores`: a reranker's graph."""

    method = "ONNX graph"

    def __init__(self, reader: GraphReader) -> None:
        self._reader = reader
        self._how = text_answers(reader.graph)

    def score(
        self,
        queries: Sequence[str],
        documents: Sequence[Sequence[str]],
        watch: ProgressCallback,
        what: str,
    ) -> tuple[list[Scores], int]:
        """A score for each document of each query, and no count of pairs that were cut."""
        prompt = self._reader.graph.default_prompt
        rows = [
            (prompt + query, text)
            for query, texts in zip(queries, documents, strict=True)
            for text in texts
        ]
        longest = self._reader.graph.longest
        scores = self._reader.ask(rows, self._how.answer, longest=longest, watch=watch, what=what)
        ends = np.cumsum([len(texts) for texts in documents])[:-1]
        return np.split(np.array(scores, dtype=np.float32), ends), 0


def prompt_for(role: Role, graph: Graph, prompts: Sequence[str]) -> str:
    """What is put in front of a text: the given prompts, the last one for documents, else the folder's."""
    if prompts:
        return prompts[-1] if role == "document" else prompts[0]
    return prompt_of(role, graph.prompts, graph.default_prompt)


def _as_task_model(reader: GraphReader, head: Any) -> TaskModel:
    part = part_of(head)
    assert part is not None  # `export` takes no other
    return TaskModel(_NoEncoder(), _GraphHead(reader, head, part)).eval()


class _NoEncoder(nn.Module):
    """Plays the encoder, which is in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.device = nn.Parameter(torch.empty(0))  # the judge asks a parameter where it is

    def forward(self, **_inputs: Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.device)


class _GraphHead(nn.Module):
    """Plays the head: the graph's outputs as the judge decodes them."""

    def __init__(self, reader: GraphReader, head: Any, part: Part) -> None:
        super().__init__()
        self._reader, self._head, self._part = reader, (head,), part

    def forward(self, _hidden: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        outputs = self._reader.run({name: tensor.numpy() for name, tensor in batch.items()})
        named = {name: torch.from_numpy(values) for name, values in outputs.items()}
        return self._part.as_judged(self._head[0], named, batch)

    def relations(self, outputs: dict[str, Tensor], heads: Tensor) -> Tensor:
        """A parser's relation logits [B, W, C] of words that hang on `heads` [B, W]."""
        relations = outputs["relations"]
        chosen = heads.clamp(min=0)[..., None, None].expand(-1, -1, 1, relations.shape[-1])
        return relations.gather(2, chosen)[:, :, 0]
