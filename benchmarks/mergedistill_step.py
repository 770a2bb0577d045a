"""What a training step with recorded signals costs, beside a masked-LM step and beside steps that ask a teacher online.

Every contender reads its batch, goes forward and back through a student of its own, and steps its optimizer. The masked-LM
step is our lean one (the head on masked rows, no logits held), on batches that carry no signals. Online teachers are asked
either at masked rows alone, their full distribution against the student's in one pass (`kdkernels.linear_kl`), or as
distillation scripts commonly do it: teacher's and student's logits at all positions, then a KL at the masked ones.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from record import Recorder, extra_memory, parser, race
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

from kdkernels import linear_cross_entropy, linear_kl
from mergedistill.recipe.recipe import Distil
from mergedistill.student.loss import DistillationLoss
from mergedistill.training.schedule import ScheduledBatches, schedule
from teacherzoo import Corpus, Signals, record, split_head
from teacherzoo.pretrain.shapes import Shape, build_masked_lm
from vocabmerge import identity_map

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LANGUAGE = "xx"
ALPHA = 0.7
LossOf = Callable[[DistillationLoss, dict[str, torch.Tensor]], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Size:
    """Of the student and of a step."""

    pieces: int = 30_000
    width: int = 256
    layers: int = 6
    depths: tuple[int, ...] = (3, 6, 12)
    blocks: int = 8
    length: int = 128
    repeats: int = 7


QUICK = Size(pieces=8_000, width=128, layers=4, depths=(4, 8), blocks=8, length=64, repeats=3)
GPU = Size(pieces=120_000, width=768, layers=6, depths=(6, 12), blocks=16, length=256)


def made_tokenizer(size: Size) -> PreTrainedTokenizerFast:
    """One piece for each of as many made-up words."""
    vocabulary = {name: number for number, name in enumerate(SPECIALS)}
    vocabulary |= {f"w{number}": number for number in range(len(SPECIALS), size.pieces)}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), SPECIALS, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=512, **{f"{role}_token": name for role, name in names.items()}
    )  # fmt: skip


def recorded(size: Size, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Signals:
    """What a small random teacher says of random text, in full blocks."""
    random = np.random.default_rng(0)
    weights = 1 / np.arange(1, size.pieces - len(SPECIALS) + 1)
    drawn = random.choice(len(weights), size=(400, size.length - 2), p=weights / weights.sum())
    lines = (" ".join(f"w{number + len(SPECIALS)}" for number in line) for line in drawn)
    (folder / "text.txt").write_text("\n".join(lines))
    small = build_masked_lm(Shape(layers=1, width=64), tokenizer, seed=0)
    small.save_pretrained(folder / "small")
    tokenizer.save_pretrained(folder / "small")
    corpus = Corpus(LANGUAGE, folder / "text.txt")
    manifest = record(
        folder / "small", [corpus], folder / "signals", temperatures=(), block_length=size.length
    )
    mapped = identity_map(size.pieces, digest=manifest.settings.tokenizer)
    return Signals(folder / "signals", vocabulary=mapped)


class Step:
    """A student, its optimizer, and one way to train it on the next batch."""

    def __init__(
        self, size: Size, tokenizer: PreTrainedTokenizerFast, batches: ScheduledBatches
    ) -> None:
        shape = Shape(layers=size.layers, width=size.width)
        model = build_masked_lm(shape, tokenizer, seed=0)
        self.loss = DistillationLoss(model, Distil(alpha=ALPHA)).train().to(DEVICE)
        self.optimizer = torch.optim.AdamW(self.loss.parameters(), lr=1e-4, fused=True)
        self.batches = batches
        self.number = 0

    def __call__(self, loss_of: LossOf) -> None:
        batch = on_device(self.batches[self.number % len(self.batches)])
        self.number += 1
        loss_of(self.loss, batch).backward()
        torch.nn.utils.clip_grad_norm_(self.loss.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def on_device(batch: dict[str, object]) -> dict[str, object]:
    return {
        name: value.to(DEVICE) if hasattr(value, "to") else value for name, value in batch.items()
    }


def text_alone(loss: DistillationLoss, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    head, hidden = _masked_states(loss.student, batch)
    return linear_cross_entropy(hidden, head.weight, head.bias, batch["labels"]).loss


def with_signals(loss: DistillationLoss, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    batch.pop("language")
    return loss(**batch).loss


def asked_at_masks(teacher: torch.nn.Module) -> LossOf:
    def loss_of(loss: DistillationLoss, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        with torch.no_grad():
            teacher_head, teacher_hidden = _masked_states(teacher, batch)
        head, hidden = _masked_states(loss.student, batch)
        hard = linear_cross_entropy(hidden, head.weight, head.bias, batch["labels"]).loss
        soft = linear_kl(
            hidden, head.weight, head.bias, teacher_hidden, teacher_head.weight, teacher_head.bias
        ).loss
        return (1 - ALPHA) * hard + ALPHA * soft

    return loss_of


def asked_everywhere(teacher: torch.nn.Module) -> LossOf:
    def loss_of(loss: DistillationLoss, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            said = teacher(**inputs).logits
        logits = loss.student(**inputs).logits
        at = (batch["rows"], batch["positions"])
        hard = F.cross_entropy(logits[at], batch["labels"])
        soft = F.kl_div(
            F.log_softmax(logits[at], -1), F.log_softmax(said[at], -1), log_target=True, reduction="batchmean"
        )  # fmt: skip
        return (1 - ALPHA) * hard + ALPHA * soft

    return loss_of


def _masked_states(model: object, batch: dict[str, torch.Tensor]) -> tuple[object, torch.Tensor]:
    head = split_head(model)
    hidden = head.encoder(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
    ).last_hidden_state
    return head, head.transform(hidden[batch["rows"], batch["positions"]])


class WithoutSignals(ScheduledBatches):
    """The same blocks as plain masked-LM training reads them: ready tensors, no signals to decode."""

    def __init__(self, batches: ScheduledBatches) -> None:
        keys = ("input_ids", "attention_mask", "rows", "positions", "labels")
        self._ready = [
            {key: batches[number][key] for key in keys} for number in range(len(batches))
        ]

    def __len__(self) -> int:
        return len(self._ready)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return dict(self._ready[index])


def main() -> None:
    made = parser(__doc__.splitlines()[0])
    arguments = made.parse_args()
    logging.disable_progress_bar()
    size = QUICK if arguments.quick else GPU if DEVICE == "cuda" else Size()
    recorder = Recorder("mergedistill_step", arguments)
    tokenizer = made_tokenizer(size)
    with tempfile.TemporaryDirectory() as folder:
        signals = {LANGUAGE: recorded(size, tokenizer, Path(folder))}
        slots = schedule(
            signals, batches=24, tokens=size.blocks * size.length, block_length=size.length, exponent=1.0, seed=0
        )  # fmt: skip
        batches = ScheduledBatches(slots, signals, Distil(alpha=ALPHA))
        measure(size, tokenizer, batches, recorder)
    recorder.close()


def measure(
    size: Size, tokenizer: PreTrainedTokenizerFast, batches: ScheduledBatches, recorder: Recorder
) -> None:
    def teacher(layers: int) -> torch.nn.Module:
        shape = Shape(layers=layers, width=size.width)
        return build_masked_lm(shape, tokenizer, seed=1).eval().to(DEVICE)

    losses = {
        "recorded": with_signals,
        **{f"online, {layers} layers": asked_at_masks(teacher(layers)) for layers in size.depths},
        **{f"online, {layers} layers, all logits": asked_everywhere(teacher(layers)) for layers in size.depths},
    }  # fmt: skip
    steps = {name: Step(size, tokenizer, batches) for name in losses}
    plain = Step(size, tokenizer, WithoutSignals(batches))
    contenders = {"mlm only": lambda: plain(text_alone)}
    contenders |= {name: lambda name=name: steps[name](losses[name]) for name in losses}
    times = race(contenders, repeats=size.repeats)
    shape = {
        "student": f"{size.layers}x{size.width}",
        "V": size.pieces,
        "tokens": size.blocks * size.length,
        "k": 8,
    }
    memory = {name: extra_memory(run) for name, run in contenders.items()}
    recorder.add(
        "a step of training", times, unit="s", floor="mlm only", bar={"recorded": 1.05}, memory=memory, shape=shape,
    )  # fmt: skip
    same, deepest = size.layers, max(size.depths)
    recorder.add(
        "a step that asks a teacher online", {name: seconds for name, seconds in times.items() if name != "mlm only"}, unit="s",
        floor="recorded",
        bar={f"online, {same} layers": 1.25, f"online, {deepest} layers, all logits": 2.5},
        at_least=True, shape=shape,
    )  # fmt: skip
    waits = [_seconds(lambda number=number: batches[number]) for number in range(len(batches))]
    median = sorted(times["recorded"])[len(times["recorded"]) // 2]
    recorder.add(
        "waiting for a batch, as a share of a step",
        {"recorded": [wait / median for wait in waits]}, unit="", bar={"recorded": 0.05}, shape=shape,
    )  # fmt: skip


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
