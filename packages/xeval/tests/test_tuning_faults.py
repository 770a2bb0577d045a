"""What tuning does when numbers overflow or memory ends."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from xeval.data.source import LocalFolder
from xeval.errors import XevalError
from xeval.finetune import tune as finetune_tune
from xeval.finetune.trainer import LikeLengths
from xeval.finetune.tune import tune
from xeval.protocol import Protocol
from xeval.task_templates.heads import WordHead
from xeval.task_templates.word_tokenization import Encoded

BRIEF = Protocol(
    learning_rate=1e-3, batch_size=8, steps=4, evaluate_every=2, max_length=32, precision="float32"
)
Models = Callable[[str], Path]
Tuner = Callable[..., dict]


@pytest.fixture
def tuner(models: Models, data: Path, tmp_path: Path) -> Tuner:
    def go(name: str, **changes: object) -> dict:
        return tune(
            models("modern"), tmp_path / name, task="pos", source=LocalFolder(data), language="xx",
            protocol=replace(BRIEF, **changes),
        )  # fmt: skip

    return go


def broken_loss(monkeypatch: pytest.MonkeyPatch, *, when: Callable[[], bool]) -> None:
    healthy = WordHead.loss

    def loss(self, outputs, batch, count=None):
        value = healthy(self, outputs, batch, count)
        return value * float("nan") if when() else value

    monkeypatch.setattr(WordHead, "loss", loss)


def limited_memory(monkeypatch: pytest.MonkeyPatch, examples: int, error: BaseException) -> None:
    healthy = WordHead.forward

    def forward(self, hidden, batch):
        if self.training and len(batch["word_size"]) > examples:
            raise error
        return healthy(self, hidden, batch)

    monkeypatch.setattr(WordHead, "forward", forward)


def test_a_loss_that_is_nan_in_bfloat16_is_tried_again_in_float32(
    tuner: Tuner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune_tune, "has_bf16", lambda: True)
    broken_loss(monkeypatch, when=lambda: torch.is_autocast_enabled("cpu"))

    notes = tuner("t", precision="auto")

    assert notes["precision"] == "float32"
    assert notes["notes"] == [
        "the loss became nan at step 0 in bfloat16, so tuning began again in float32"
    ]


def test_tuning_is_bfloat16_where_the_machine_has_it_and_scoring_float32(
    tuner: Tuner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune_tune, "has_bf16", lambda: True)
    seen: set[tuple[bool, bool]] = set()
    healthy = WordHead.forward

    def forward(self, hidden, batch):
        seen.add((self.training, torch.is_autocast_enabled("cpu")))
        return healthy(self, hidden, batch)

    monkeypatch.setattr(WordHead, "forward", forward)

    assert tuner("t", precision="auto")["precision"] == "bfloat16"
    assert seen == {(True, True), (False, False)}


def test_a_loss_that_is_nan_in_float32_too_is_refused(
    tuner: Tuner, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_loss(monkeypatch, when=lambda: True)

    with pytest.raises(XevalError, match=r"nan at step 0 in float32 too; lower the learning rate"):
        tuner("t")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_too_little_memory_halves_what_is_taken_at_a_time(
    error: BaseException, tuner: Tuner, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited_memory(monkeypatch, 2, error)

    notes = tuner("t")

    assert notes["at_a_time"] == 2
    assert notes["steps"] == 4
    assert [note.split()[-5] for note in notes["notes"]] == ["4", "2"]


def test_half_the_examples_at_a_time_give_the_same_model(
    tuner: Tuner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: x)
    tuner("whole")
    limited_memory(monkeypatch, 4, torch.OutOfMemoryError("out of memory"))
    assert tuner("half")["at_a_time"] == 4

    for file in ("model.safetensors", "head.safetensors"):
        whole, half = (load_file(tmp_path / name / file) for name in ("whole", "half"))
        for name, tensor in whole.items():
            torch.testing.assert_close(half[name], tensor, rtol=2e-3, atol=2e-4)


def test_no_memory_for_one_example_is_refused(
    tuner: Tuner, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited_memory(monkeypatch, 0, torch.OutOfMemoryError("out of memory"))

    with pytest.raises(XevalError, match="one example at a time does not fit into memory"):
        tuner("t")


def test_another_fault_is_not_taken_for_lack_of_memory(
    tuner: Tuner, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited_memory(monkeypatch, 0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))

    with pytest.raises(RuntimeError, match="shapes"):
        tuner("t")


def test_tuning_stops_when_the_dev_score_does_not_get_better(
    tuner: Tuner, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_loss(monkeypatch, when=lambda: False)
    monkeypatch.setattr(WordHead, "loss", lambda self, o, b, c=None: o["labels"].sum() * 0)

    notes = tuner("t", steps=100, evaluate_every=1, patience=3, weight_decay=0.0)

    assert notes["steps"] == 4
    assert notes["best_step"] == 1


def test_the_order_takes_every_example_once_an_epoch_and_steps_of_like_length() -> None:
    encoded = [Encoded(rows=[[1] * (1 + i % 40)]) for i in range(1000)]
    sampler = LikeLengths(encoded, 8, seed=0)

    first, second = list(sampler), list(sampler)

    assert sorted(first) == sorted(second) == list(range(1000))
    assert first != second
    assert first == list(LikeLengths(encoded, 8, seed=0))
    spread = [
        max(encoded[i].length for i in step) - min(encoded[i].length for i in step)
        for step in (first[k : k + 8] for k in range(0, 900, 8))
    ]
    assert sum(spread) / len(spread) < 8


@pytest.mark.parametrize(
    "fault",
    [{"steps": 0}, {"learning_rate": 0.0}, {"warmup": 2.0}, {"pooling": "last"}, {"max_length": 2}, {"mask_rate": 0.0}, {"csls": -1}],
)  # fmt: skip
def test_settings_without_meaning_are_refused_by_name(fault: dict) -> None:
    with pytest.raises(XevalError, match=next(iter(fault))):
        Protocol(**fault)


@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_another_wrote_is_not_taken_for_a_tuning(
    tuner: Tuner, tmp_path: Path, what: str
) -> None:
    theirs = tmp_path / "out" / "note.md" if what == "folder" else tmp_path / "out"
    theirs.parent.mkdir(exist_ok=True)
    theirs.write_text("of another")

    with pytest.raises(
        XevalError, match="out: is there already, and `xeval tune` did not write it; choose another"
    ):
        tuner("out")

    assert theirs.read_text() == "of another"
