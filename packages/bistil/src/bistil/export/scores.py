"""What eight bits cost in score: the same test sets judged by torch and by the exported graph."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from bistil.errors import ExportError
from bistil.export.folder import INT8
from bistil.export.heads import Part, part_of
from teacherzoo.progress import ProgressCallback, no_progress
from xeval.data.source import Source, choose_targets
from xeval.evaluate.score import score_examples
from xeval.finetune.checkpoint import TaskModel, read_finetuned
from xeval.task_templates.task import FineTunedTask
from xeval.tasks import task_of


@dataclass(frozen=True, kw_only=True)
class ScoreDrop:
    """One metric on one test set.

    Attributes:
        dataset: such as "ud/de_gsd".
        language: of it.
        metric: of the task.
        n: items.
        torch: the score of the tuned model.
        int8: the score of the graph in eight bits.
    """

    dataset: str
    language: str
    metric: str
    n: int
    torch: float
    int8: float


def int8_scores(
    tuned: str | Path,
    exported: Path,
    *,
    source: Source,
    languages: Sequence[str] = ("all",),
    watch: ProgressCallback = no_progress,
) -> list[ScoreDrop]:
    """Judge a tuned model and its eight-bit graph on the same test sets, by xeval's own decoding and metrics.

    The drop is score(eight bits) - score(torch) on the very same items: what dynamic quantisation costs where it counts.

    Args:
        tuned: the folder that `xeval tune` wrote and `export` read.
        exported: the folder that `export` wrote.
        source: where the data lies.
        languages: languages or data sets, or ("all",).
        watch: told the items done.

    Returns:
        For each test set and metric both scores.

    Raises:
        ExportError: for a folder that `export` did not write from such a model.
        XevalError: for data that cannot be read.

    Example:
        >>> from xeval import LocalFolder
        >>> [drop] = int8_scores("tagger", Path("served"), source=LocalFolder("data"), languages=["sw"])  # doctest: +SKIP
        >>> drop.int8 - drop.torch  # doctest: +SKIP
        -0.2
    """
    about = read_about(exported)
    if about["task"] is None:
        raise ExportError(
            f"{exported}: it was not exported from a model tuned by xeval, so no task says how to score it."
        )
    opened = read_finetuned(Path(tuned))
    task = task_of(opened.task)
    assert isinstance(task, FineTunedTask)
    graph = replace(opened, model=_as_task_model(exported, opened.model.head))
    chosen, _ = choose_targets(source.data_sets(task), languages)
    drops = []
    for data_set in chosen:
        examples, _ = task.view(source.read(task, data_set, "test"), opened.protocol)
        full, _ = score_examples(opened, task, examples, data_set, watch)
        small, _ = score_examples(graph, task, examples, data_set, watch)
        drops += [
            ScoreDrop(
                dataset=data_set.name,
                language=data_set.language,
                metric=exact.metric,
                n=len(exact.rows),
                torch=exact.value(),
                int8=quantised.value(),
            )
            for exact, quantised in zip(full, small, strict=True)
        ]
    return drops


def read_about(exported: Path) -> dict[str, Any]:
    """What `export.json` says.

    Raises:
        ExportError: for a folder without.
    """
    try:
        about: dict[str, Any] = json.loads((exported / "export.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"{exported}: expected a folder written by `bistil export`, with export.json.") from error  # fmt: skip
    return about


def _as_task_model(exported: Path, head: Any) -> TaskModel:
    part = part_of(head)
    assert part is not None  # `export` takes no other
    return TaskModel(_NoEncoder(), _Session(exported, head, part)).eval()


class _NoEncoder(nn.Module):
    """Plays the encoder, which is in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.device = nn.Parameter(torch.empty(0))  # the judge asks a parameter where it is

    def forward(self, **_inputs: Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.device)


class _Session(nn.Module):
    """Plays the head: the graph's outputs as the judge decodes them."""

    def __init__(self, exported: Path, head: Any, part: Part) -> None:
        super().__init__()
        import onnxruntime

        self._session = onnxruntime.InferenceSession(
            str(exported / INT8), providers=["CPUExecutionProvider"]
        )
        self._names = [given.name for given in self._session.get_inputs()]
        self._head, self._part = (head,), part

    def forward(self, _hidden: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        zeros = torch.zeros_like(batch["input_ids"])
        fed = {name: batch.get(name, zeros).numpy() for name in self._names}
        outputs = map(torch.from_numpy, self._session.run(None, fed))
        named = dict(zip(self._part.outputs, outputs, strict=True))
        return self._part.as_judged(self._head[0], named, batch)

    def relations(self, outputs: dict[str, Tensor], heads: Tensor) -> Tensor:
        """A parser's relation logits [B, W, C] of words that hang on `heads` [B, W]."""
        relations = outputs["relations"]
        chosen = heads.clamp(min=0)[..., None, None].expand(-1, -1, 1, relations.shape[-1])
        return relations.gather(2, chosen)[:, :, 0]
