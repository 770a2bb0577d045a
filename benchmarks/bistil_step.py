"""What does a step of phase 1 cost beside eager attention maps, and beside no distillation at all?

Twelve teacher layers, six student layers, BERT-base width. Contenders: ours (attention by queries and keys under SDPA),
the eager formulation (both models return their maps and states, `mse_loss` on each), TextBrewer's distiller with the same
matches where it is importable, and the floor: a bare teacher forward and a student forward and backward that compare
nothing. Then the bytes that are kept between the forward and the backward pass, teacher maps among them, and the peak of
the process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from record import Recorder, extra_memory, parser, race, timed_dtypes
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import BertConfig, BertForMaskedLM

from bistil.losses.extraction import ExtractionModel, TeacherRunner
from bistil.losses.weights import LossWeights
from bistil.student.layers import layer_map, student_of

LAYERS = layer_map(12)
VOCABULARY = 30_000
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def main() -> None:
    """Time and memory at each length and precision."""
    arguments = parser("bistil: a step of phase 1 beside eager maps").parse_args()
    recorder = Recorder("bistil_step", arguments)
    teacher, student = models()
    sizes = [(2, 256)] if arguments.quick else [(2, 256), (1, 512)]
    if DEVICE == "cuda":
        sizes = [(16, 256), (16, 512)]
    for batch, length in sizes:
        for name, dtype in timed_dtypes().items():
            if arguments.quick and name == "bf16":
                continue
            measure(recorder, teacher, student, batch, length, name, dtype, quick=arguments.quick)
    recorder.close()


def models() -> tuple[Any, Any]:
    """A random teacher, and a student of every second layer, moved off it so that there is something to learn."""
    torch.manual_seed(0)
    teacher = BertForMaskedLM(BertConfig(vocab_size=VOCABULARY)).to(DEVICE).eval()
    student = student_of(teacher, LAYERS)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    for parameter in teacher.parameters():
        parameter.requires_grad_(False)
    return teacher, student


def measure(
    recorder: Recorder,
    teacher: Any,
    student: Any,
    batch: int,
    length: int,
    name: str,
    dtype: torch.dtype,
    *,
    quick: bool,
) -> None:
    """Race the three, and weigh them."""
    ids = torch.randint(VOCABULARY, (batch, length), device=DEVICE)
    model = extraction_model(teacher, student)
    losses = {
        "ours": lambda: extraction_loss(model, ids, dtype),
        "eager maps": lambda: eager(teacher, student, ids, dtype),
        "no distillation": lambda: bare(teacher, student, ids, dtype),
    }
    losses |= textbrewer(teacher, student, ids, dtype)
    compared = [which for which in losses if which != "no distillation"]
    shape = {"B": batch, "S": length, "layers": "12 to 6", "width": 768, "dtype": name}
    with torch.no_grad():
        values = {which: float(losses[which]()) for which in compared}
    eager_value = values.pop("eager maps")
    recorder.add(
        "difference of the loss from that of eager maps, relative",
        {which: [abs(value - eager_value) / eager_value] for which, value in values.items()},
        unit="",
        bar={"ours": 1e-5} if name == "fp32" else {},
        shape=shape,
    )
    steps = {contender: step(student, loss) for contender, loss in losses.items()}
    times = race(steps, repeats=3 if quick else 7)
    faster = 1.5 if length >= 512 or DEVICE == "cuda" else (1.15 if name == "fp32" else 1.3)
    recorder.add(
        "step time", {which: times[which] for which in compared}, unit="s", floor="eager maps",
        bar={"ours": 1 / faster}, memory={which: extra_memory(steps[which]) for which in compared},
        shape=shape,
    )  # fmt: skip
    recorder.add(
        "overhead of distillation", {which: times[which] for which in ("no distillation", "ours")}, unit="s",
        floor="no distillation", bar={"ours": 1.15}, shape=shape,
    )  # fmt: skip
    kept = {which: [kept_bytes(loss, student) / 2**20] for which, loss in losses.items()}
    recorder.add(
        "kept for the backward pass", kept, unit="MiB", floor="eager maps", bar={"ours": 0.5}, shape=shape
    )  # fmt: skip


def step(student: Any, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """Forward, backward, and the gradients let go."""

    def run() -> None:
        loss().backward()
        for parameter in student.parameters():
            parameter.grad = None

    return run


def extraction_model(teacher: Any, student: Any) -> ExtractionModel:
    """As `bistil extract` builds it, once for all steps."""
    weights = LossWeights()
    runner = TeacherRunner(teacher, weights, LAYERS)
    return ExtractionModel(student, runner, weights=weights, layers=LAYERS, positions=0)


def extraction_loss(model: ExtractionModel, ids: Tensor, dtype: torch.dtype) -> Tensor:
    """As `bistil extract` takes it, of a batch of which nothing is masked."""
    with torch.autocast(DEVICE, dtype=dtype, enabled=dtype != torch.float32):
        loss: Tensor = model(input_ids=ids, labels=torch.full_like(ids, -100), language="en").loss
    return loss


def eager(teacher: Any, student: Any, ids: Tensor, dtype: torch.dtype) -> Tensor:
    """Both models return what they did, and every pair is compared."""
    named: dict[str, Any] = {"output_attentions": True, "output_hidden_states": True}
    with (
        attention(teacher, student, "eager"),
        torch.autocast(DEVICE, dtype=dtype, enabled=dtype != torch.float32),
    ):
        with torch.no_grad():
            teacher_outputs = teacher.bert(input_ids=ids, **named)
        student_outputs = student.bert(input_ids=ids, **named)
        maps = [
            F.mse_loss(student_outputs.attentions[i].float(), teacher_outputs.attentions[j].float())
            for i, j in enumerate(LAYERS)
        ]
        pairs = [(0, 0), *((i + 1, j + 1) for i, j in enumerate(LAYERS))]
        states = [
            F.mse_loss(
                student_outputs.hidden_states[i].float(), teacher_outputs.hidden_states[j].float()
            )
            for i, j in pairs
        ]
    return torch.stack(maps).mean() + torch.stack(states).mean()


def textbrewer(
    teacher: Any, student: Any, ids: Tensor, dtype: torch.dtype
) -> dict[str, Callable[[], Tensor]]:
    """TextBrewer's distiller, told to compare the same maps and states with the same weights; nothing where it is missing."""
    try:
        from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig
    except ImportError:
        return {}

    def matches(feature: str, pairs: list[tuple[int, int]]) -> list[dict[str, object]]:
        match = {"feature": feature, "loss": f"{feature}_mse", "weight": 1 / len(pairs)}
        return [{"layer_S": i, "layer_T": j, **match} for i, j in pairs]

    maps, states = list(enumerate(LAYERS)), [(0, 0), *((i + 1, j + 1) for i, j in enumerate(LAYERS))]  # fmt: skip
    config = DistillationConfig(
        intermediate_matches=matches("attention", maps) + matches("hidden", states)
    )

    def adapt(_: object, outputs: Any) -> dict[str, object]:
        return {"attention": outputs.attentions, "hidden": outputs.hidden_states}

    plain = TrainingConfig(device=DEVICE, log_dir=None)
    distiller = GeneralDistiller(plain, config, teacher.bert, student.bert, adapt, adapt)
    named = {"output_attentions": True, "output_hidden_states": True}

    def loss() -> Tensor:
        with (
            attention(teacher, student, "eager"),
            torch.autocast(DEVICE, dtype=dtype, enabled=dtype != torch.float32),
        ):
            return distiller.train_on_batch({"input_ids": ids}, named)[0]

    return {"textbrewer": loss}


def bare(teacher: Any, student: Any, ids: Tensor, dtype: torch.dtype) -> Tensor:
    """Both forward passes and a backward pass."""
    with (
        attention(teacher, student, "sdpa"),
        torch.autocast(DEVICE, dtype=dtype, enabled=dtype != torch.float32),
    ):
        with torch.no_grad():
            teacher.bert(input_ids=ids)
        last: Tensor = student.bert(input_ids=ids).last_hidden_state
    return last.float().mean()


class attention:  # noqa: N801  # reads as a word before `with`
    """Both models on one kind of attention."""

    def __init__(self, teacher: Any, student: Any, kind: str) -> None:
        self._configs, self._kind = (teacher.config, student.config), kind

    def __enter__(self) -> None:
        self._before = [config._attn_implementation for config in self._configs]
        for config in self._configs:
            config._attn_implementation = self._kind

    def __exit__(self, *_: object) -> None:
        for config, before in zip(self._configs, self._before, strict=True):
            config._attn_implementation = before


def kept_bytes(loss: Callable[[], Tensor], student: Any) -> int:
    """What the forward pass made and is still there for the backward pass, autocast's copies of weights aside."""
    with Made(
        {parameter.untyped_storage().data_ptr() for parameter in student.parameters()}
    ) as made:
        value = loss()
    kept = sum(size for storage, size in made.storages.items() if not storage.expired())
    del value
    return kept


class Made(TorchDispatchMode):
    """Notes every storage that an operation makes, by a reference that does not keep it."""

    def __init__(self, weights: set[int]) -> None:
        super().__init__()
        self._weights = weights
        self.storages: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, function: Any, _types: Any, inputs: Any = (), named: Any = None) -> Any:  # fmt: skip
        named = named or {}
        outputs = function(*inputs, **named)
        given = {storage.data_ptr() for storage in storages((inputs, named))}
        if function is torch.ops.aten._to_copy.default and given & self._weights:
            return outputs
        self.storages |= {
            StorageWeakRef(storage): storage.nbytes()
            for storage in storages(outputs)
            if storage.data_ptr() not in given
        }
        return outputs


def storages(tree: Any) -> list[torch.UntypedStorage]:
    """Of all tensors in there."""
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


if __name__ == "__main__":
    main()
