"""A model with a task's head: built, run, kept in a folder, opened again."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xeval.encoder import longest_row, open_encoder, open_tokenizer, quiet
from xeval.errors import XevalError
from xeval.finetune.record import FORMAT, read_record
from xeval.progress import ProgressCallback, no_progress
from xeval.protocol import Protocol
from xeval.task_templates.batches import by_length
from xeval.task_templates.task import FineTunedTask
from xeval.task_templates.word_tokenization import Encoded, Pieces
from xeval.tasks import task_of

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class TaskModel(nn.Module):
    """An encoder and a head.

    Args:
        encoder: with `last_hidden_state` `[R, T, H]`.
        head: of a `FineTunedTask`.
    """

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(
        self, num_items_in_batch: Tensor | int | None = None, **batch: Any
    ) -> dict[str, Tensor]:
        """Outputs of the head, with `loss` when training."""
        inputs = {name: batch[name] for name in _INPUTS if name in batch}
        outputs: dict[str, Tensor] = self.head(self.encoder(**inputs).last_hidden_state, batch)
        if self.training:
            outputs["loss"] = self.head.loss(outputs, batch, num_items_in_batch)  # type: ignore[operator]  # every head has it
        return outputs


@dataclass(frozen=True, kw_only=True)
class FineTunedModel:
    """A tuned model and what it was tuned on.

    Args:
        model: encoder and head.
        pieces: its tokenizer and limits.
        task: a name.
        labels: of the head.
        protocol: of the tuning.
        source: data set of the tuning, such as "ud/en_ewt".
        source_language: of that data set.
        seed: of the tuning.
        base: name of the model before tuning.
        base_digest: `model_digest` of it.
        notes: what happened while tuning: steps, development score, retries.
        train_digest: of training and development data; None where the writer stated none.
    """

    model: TaskModel
    pieces: Pieces
    task: str
    labels: tuple[str, ...]
    protocol: Protocol
    source: str
    source_language: str
    seed: int
    base: str
    base_digest: str
    notes: dict[str, Any]
    train_digest: str | None = None


def build(
    model: str, task: FineTunedTask, labels: tuple[str, ...], protocol: Protocol
) -> tuple[TaskModel, Pieces]:
    """An encoder with a fresh head, drawn from torch's generator."""
    encoder = open_encoder(model)
    pieces = Pieces(open_tokenizer(model), min(protocol.window, longest_row(encoder)))
    width: Any = encoder.config.hidden_size  # type: ignore[union-attr]  # every encoder has a config
    return TaskModel(encoder, task.head(int(width), len(labels), protocol)), pieces


def predict(
    tuned: TaskModel,
    task: FineTunedTask,
    encoded: Sequence[Encoded],
    *,
    labels: tuple[str, ...],
    pad_id: int,
    tokens: int = 4096,
    watch: ProgressCallback = no_progress,
    what: str = "scoring",
) -> list[Any]:
    """Predictions for encoded examples, in their order, whatever the batches.

    Args:
        tuned: the model.
        task: its task.
        encoded: examples.
        labels: of the head.
        pad_id: what fills short rows.
        tokens: padded sub-words per batch.
        watch: told the examples done.
        what: said to `watch`.
    """
    device = next(tuned.parameters()).device
    predictions: list[Any] = [None] * len(encoded)
    done = 0
    was_training = tuned.training
    tuned.eval()
    with torch.inference_mode():
        for indices in by_length(encoded, tokens=tokens):
            chosen = [encoded[i] for i in indices]
            batch = {
                name: tensor.to(device) for name, tensor in task.collate(chosen, pad_id).items()
            }
            # Not `tuned(…)`: accelerate replaces the instance's forward by one in bfloat16, and scoring is float32.
            outputs = TaskModel.forward(tuned, **batch)
            guesses = task.decode(tuned.head, outputs, batch, chosen, labels)
            for i, guess in zip(indices, guesses, strict=True):
                predictions[i] = guess
            done += len(indices)
            watch(done, len(encoded), what)
    tuned.train(was_training)
    return predictions


def leave_deepspeed_alone() -> None:
    """Keep accelerate from importing DeepSpeed, for seconds and with a greeting, to ask whether a model is one of its engines.

    A model can be one only where DeepSpeed has been imported already.
    """
    from accelerate.utils import other

    other.is_deepspeed_available = lambda: "deepspeed" in sys.modules


def write_finetuned(folder: Path, tuned: FineTunedModel) -> None:
    """Write a folder that AutoModel and AutoTokenizer open, with `head.safetensors` and `xeval.json`, whole or not at all."""
    from safetensors.torch import save_file

    leave_deepspeed_alone()
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".part"))
    try:
        with quiet():
            tuned.model.encoder.save_pretrained(part)  # type: ignore[operator]  # every encoder of transformers has it
        tuned.pieces.tokenizer.save_pretrained(part)
        state = {name: t.contiguous().cpu() for name, t in tuned.model.head.state_dict().items()}
        # One key of metadata: safetensors writes several in any order, and equal models are equal bytes.
        save_file(state, part / "head.safetensors", metadata={"format": "pt"})
        record = {
            "format": FORMAT,
            "task": tuned.task,
            "labels": tuned.labels,
            "protocol": asdict(tuned.protocol),
            "source": tuned.source,
            "source_language": tuned.source_language,
            "seed": tuned.seed,
            "base": tuned.base,
            "base_digest": tuned.base_digest,
            "train_digest": tuned.train_digest,
            "notes": tuned.notes,
        }
        (part / "xeval.json").write_text(
            json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8"
        )
        part.chmod(0o755)
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def read_finetuned(folder: Path) -> FineTunedModel:
    """Open a tuned folder."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    record = read_record(folder)
    task = task_of(record["task"])
    assert isinstance(task, FineTunedTask)
    labels, protocol = tuple(record["labels"]), Protocol(**record["protocol"])
    model, pieces = build(str(folder), task, labels, protocol)
    try:
        model.head.load_state_dict(load_file(folder / "head.safetensors"))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise XevalError(
            f"{folder / 'head.safetensors'}: the head cannot be read ({str(error).splitlines()[0]}); tune again"
        ) from error
    origin = {k: record[k] for k in ("source", "source_language", "seed", "base", "base_digest")}
    if torch.cuda.is_available():
        model.to("cuda")
    return FineTunedModel(
        model=model.eval(),
        pieces=pieces,
        task=task.name,
        labels=labels,
        protocol=protocol,
        notes=record["notes"],
        train_digest=record.get("train_digest"),
        **origin,
    )
