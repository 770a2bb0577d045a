"""The student: a shallower model of the teacher's own class that starts as the teacher with layers left out."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import nn

from bistil.encoders.capture import encoder_of, family_of, layers_of
from bistil.errors import ModelError

Strategy = Literal["last", "bottom", "even"]

_DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "attention_dropout",
    "embedding_dropout",
    "mlp_dropout",
)


def layer_map(
    depth: int, *, reduction: int = 2, strategy: Strategy = "last", first: bool = False
) -> tuple[int, ...]:
    """For each of the student's depth / reduction layers the teacher layer it copies.

    Args:
        depth: the teacher's number of layers.
        reduction: how many of them become one; it must divide their number.
        strategy: "last" of each block (BiStil), the "bottom" ones, or "even"ly spread from the first to the last.
        first: whether the student's first layer must be the teacher's (ModernBERT, whose first layer lacks a norm that
            all others have); "last" then takes it for its first block.

    Raises:
        ModelError: where `reduction` does not divide `depth`, or for an unknown strategy.

    Example:
        >>> layer_map(12), layer_map(12, reduction=3), layer_map(12, reduction=4, strategy="even")
        ((1, 3, 5, 7, 9, 11), (2, 5, 8, 11), (0, 6, 11))
    """
    if strategy not in get_args(Strategy):
        raise ModelError(
            f"layers must be one of {', '.join(get_args(Strategy))} or a list of numbers, got {strategy!r}."
        )
    if reduction < 1 or depth % reduction:
        divisors = [str(one) for one in range(1, depth + 1) if depth % one == 0]
        raise ModelError(
            f"reduction {reduction!r} does not divide the teacher's {depth} layers; choose one of {', '.join(divisors)}, "
            "or name the layers."
        )
    count = depth // reduction
    if strategy == "bottom":
        return tuple(range(count))
    if strategy == "even":
        # Halves are rounded up: Python's own rounding to even would space unevenly.
        return tuple(
            math.floor(number * (depth - 1) / max(1, count - 1) + 0.5) for number in range(count)
        )
    last = tuple(range(reduction - 1, depth, reduction))
    return (0, *last[1:]) if first else last


def choose_layers(
    teacher: nn.Module, *, reduction: int = 2, layers: Strategy | Sequence[int] = "last"
) -> tuple[int, ...]:
    """The map for this teacher: by strategy, or as named, checked.

    Raises:
        ModelError: for layers that are not there, out of order, twice, or that this architecture cannot move.
    """
    depth, pinned = len(layers_of(teacher)), family_of(teacher).pre_norm
    if isinstance(layers, str):
        return layer_map(depth, reduction=reduction, strategy=layers, first=pinned)
    chosen = tuple(layers)
    if not chosen or min(chosen) < 0 or max(chosen) >= depth or list(chosen) != sorted({*chosen}):
        raise ModelError(
            f"layers must be ascending numbers from 0 to {depth - 1}, the teacher's, got {list(chosen)!r}."
        )
    if pinned and chosen[0] != 0:
        raise ModelError(
            f"layers {list(chosen)!r}: the first layer of a {encoder_of(teacher).config.model_type!r} model has no norm "
            "before its attention, so only the teacher's layer 0 can be the student's; begin with 0."
        )
    return chosen


def student_of(teacher: Any, layers: Sequence[int], *, seed: int | None = None) -> Any:
    """A student of the teacher's class with the teacher's layers `layers` and all else of it.

    Dropout is 0, in the configuration too, as in BiStil. Every tensor is a copy. Before it is returned the student's
    logits are compared with those of the teacher with its other layers left out; they are the same bits.

    Args:
        teacher: a stock `…ForMaskedLM`.
        layers: see `choose_layers`.
        seed: given, the weights are random instead, of this seed: a model of the student's shape from scratch.

    Raises:
        ModelError: for an architecture we do not know, layers it cannot have, or where the outputs differ.
    """
    layers = choose_layers(teacher, layers=tuple(layers))
    config = _student_config(teacher, layers)
    with torch.random.fork_rng(devices=[]):  # the caller's numbers go on as they were
        torch.manual_seed(0 if seed is None else seed)
        student = type(teacher)(config)
    student.config._attn_implementation = teacher.config._attn_implementation
    if seed is not None:
        return student.eval()
    student.to(next(teacher.parameters())).eval()  # its device and dtype
    student.load_state_dict(_mapped_weights(teacher, layers))
    require_equal_to_truncated(student, teacher, layers)
    return student


def _student_config(teacher: Any, layers: Sequence[int]) -> Any:
    config = copy.deepcopy(teacher.config)
    config.num_hidden_layers = len(layers)
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        config.layer_types = [kinds[number] for number in layers]
    for name in _DROPOUTS:
        if hasattr(config, name):
            setattr(config, name, 0.0)
    return config


def _mapped_weights(teacher: Any, layers: Sequence[int]) -> dict[str, torch.Tensor]:
    """The teacher's tensors under the student's names."""
    encoder = encoder_of(teacher)
    above = next((f"{name}." for name, one in teacher.named_modules() if one is encoder), "")
    prefix = f"{above.removeprefix('.')}{family_of(teacher).layers}."
    place = {its: mine for mine, its in enumerate(layers)}
    weights = {}
    for name, tensor in teacher.state_dict().items():
        if not name.startswith(prefix):
            weights[name] = tensor
            continue
        number, _, rest = name.removeprefix(prefix).partition(".")
        if int(number) in place:
            weights[f"{prefix}{place[int(number)]}.{rest}"] = tensor
    return weights


@torch.no_grad()
def require_equal_to_truncated(student: Any, teacher: Any, layers: Sequence[int]) -> None:
    """Compare the student's logits with those of the teacher cut down to `layers`, on random tokens.

    Raises:
        ModelError: where one bit differs.
    """
    random = torch.Generator().manual_seed(0)
    rows = teacher.get_input_embeddings().num_embeddings
    inputs = torch.randint(rows, (2, 12), generator=random).to(next(student.parameters()).device)
    mask = torch.ones_like(inputs)
    mask[1, 8:] = 0
    mine = student(input_ids=inputs, attention_mask=mask).logits
    with truncated(teacher, layers):
        its = teacher(input_ids=inputs, attention_mask=mask).logits
    real = mask.bool()
    if not torch.equal(mine[real], its[real]):
        raise ModelError(
            f"The student does not compute what layers {list(layers)} of the teacher compute (they differ by up to "
            f"{float((mine[real] - its[real]).abs().max()):.2g}); this is an architecture that cannot be cut so."
        )


@contextmanager
def truncated(model: Any, layers: Sequence[int]) -> Iterator[None]:
    """Run `model` with those of its layers alone."""
    whole = layers_of(model)
    path, _, name = family_of(model).layers.rpartition(".")
    owner = encoder_of(model).get_submodule(path)
    setattr(owner, name, nn.ModuleList([whole[number] for number in layers]))
    try:
        yield
    finally:
        setattr(owner, name, whole)
