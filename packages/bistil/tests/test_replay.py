"""The teacher's pass as a recorded CUDA graph: when it is recorded, and that it comes to what the pass itself does."""

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from bistil.encoders import replay
from bistil.encoders.capture import Activations, Attention
from bistil.encoders.replay import ReplayedForward
from bistil.losses.extraction import ExtractionModel, TeacherRunner
from bistil.losses.weights import LossWeights
from bistil.student.layers import student_of


def _ids(*shape: int) -> Any:
    """Stands for ids on a GPU."""
    return SimpleNamespace(shape=shape, dtype=torch.int64, device=torch.device("cuda"))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How each pass was made."""
    seen: list[str] = []

    class Recording:
        def __init__(self, _forward: object, ids: Any) -> None:
            if ids.shape == (0, 0):
                raise RuntimeError("operation not permitted when stream is capturing")

        def replay(self, _ids: Any) -> Activations:
            seen.append("replayed")
            return Activations()

    monkeypatch.setattr(replay, "Recording", Recording)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return seen


def _replayed(passes: list[str]) -> ReplayedForward:
    return ReplayedForward(lambda _ids: passes.append("run") or Activations())


@torch.no_grad()
def test_the_third_batch_of_a_shape_is_replayed(
    passes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = _replayed(passes)
    for _ in range(4):
        forward(_ids(2, 8))
    forward(_ids(1, 8))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "is_autocast_enabled", lambda _device: True)
        forward(_ids(2, 8))
    forward(_ids(2, 8))

    assert passes == ["run", "run", "replayed", "replayed", "run", "run", "replayed"]


def test_a_pass_that_takes_gradients_is_never_replayed(passes: list[str]) -> None:
    forward = _replayed(passes)
    for _ in range(4):
        forward(_ids(2, 8))

    assert passes == ["run"] * 4


@torch.no_grad()
def test_as_many_shapes_are_recorded_as_there_is_room_for(passes: list[str]) -> None:
    forward = _replayed(passes)
    for length in range(1, 7):
        for _ in range(3):
            forward(_ids(1, length))

    assert passes.count("replayed") == 4


@torch.no_grad()
def test_what_cannot_be_recorded_is_run_and_named_once(
    passes: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    forward = _replayed(passes)
    with caplog.at_level(logging.WARNING, "bistil"):
        for _ in range(5):
            forward(_ids(0, 0))

    assert passes == ["run"] * 5
    assert [record.getMessage() for record in caplog.records] == [
        "The forward pass is launched kernel by kernel, for it cannot be recorded: "
        "operation not permitted when stream is capturing"
    ]


def test_a_copy_of_activations_shares_no_memory() -> None:
    state, queries = torch.ones(2), torch.ones(3)
    activations = Activations(
        hidden={0: state}, attention={1: Attention(queries=queries, scale=0.5)}, last=state
    )
    copied = activations.copied()
    state.zero_()
    queries.zero_()

    assert copied.hidden[0].tolist() == [1, 1]
    assert copied.last is not None
    assert copied.last.tolist() == [1, 1]
    assert copied.attention[1].queries is not None
    assert copied.attention[1].queries.tolist() == [1, 1, 1]
    assert copied.attention[1].scale == 0.5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("family", ["bert", "modernbert", "xlm-roberta"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_replayed_teacher_gives_the_same_losses_and_gradients(
    make_masked_lm: Callable[..., Any], family: str, dtype: torch.dtype
) -> None:
    """Under weights that change in place, with losses whose backward pass comes after the next batch's replay."""
    teacher = make_masked_lm(family).cuda()
    layers = (0, 3)
    student = student_of(teacher, layers)
    weights = LossWeights(attention=1, hidden=1, logits=1)
    runners = [TeacherRunner(teacher, weights, layers, replay=replay) for replay in (True, False)]
    models = [
        ExtractionModel(student, runner, weights=weights, layers=layers, positions=2).eval()
        for runner in runners
    ]
    batches = [torch.randint(5, 60, (2, 16), device="cuda") for _ in range(5)]
    labels = torch.full((2, 16), -100, device="cuda")
    labels[:, 3:5] = 7

    def gradients(model: ExtractionModel) -> list[Tensor]:
        for _ in range(2):
            model(input_ids=batches[0], labels=labels, language="en")
        losses = [model(input_ids=batch, labels=labels, language="en").loss for batch in batches]
        taken = torch.autograd.grad(sum(losses), list(student.parameters()), allow_unused=True)
        whole = torch.cat([gradient.flatten() for gradient in taken if gradient is not None])
        return [torch.stack(losses), whole]

    for _ in range(2):
        with torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
            replayed, run = (gradients(model) for model in models)
        for got, expected in zip(replayed, run, strict=True):
            # Libraries may choose other kernels where a graph is recorded.
            budget = 1e-4 if dtype == torch.float32 else 2e-2
            assert (got - expected).norm() <= budget * expected.norm()
        with torch.no_grad():
            for parameter in teacher.parameters():
                parameter.mul_(0.9)
    assert runners[0]._replayed is not None
    assert len(runners[0]._replayed._recordings) == 1
