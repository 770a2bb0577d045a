"""The student: a shallower model of the teacher's own class that starts as the teacher with layers left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, get_args

import torch
from torch import nn
from torch.func import functional_call

from bistil.encoders.capture import encoder_of, family_of, layers_of
from bistil.encoders.widths import paths_of_layers
from bistil.errors import ModelError
from teacherzoo.encoders.kinds import same_class
from teacherzoo.encoders.layers import Strategy, config_of_layers, replace_layers, spread_layers


def layer_map(
    depth: int, *, reduction: int = 2, strategy: Strategy = "last", first: bool = False
) -> tuple[int, ...]:
    """For each of the student's depth / reduction layers the teacher layer that it copies.

    With "last" the student's layer i begins as the teacher's layer r·(i + 1) - 1, the last of each block of r (Ansell,
    Ponti, Korhonen and Vulić 2023, BiStil).

    Args:
        depth: the teacher's number of layers.
        reduction: how many of them become one; it must divide their number.
        strategy: "last" of each block, the first of each ("alternate"), the "bottom" ones, the topmost ones ("last-k"),
            "even"ly spread from the first to the last, or "outer": the last ones, half of the student's, and every second of
            the first.
        first: whether the student's first layer must be the teacher's (ModernBERT, whose first layer lacks a norm that
            all others have); "last" then takes it for its first block.

    Returns:
        Ascending numbers from 0.

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
        divisors = [str(divisor) for divisor in range(1, depth + 1) if depth % divisor == 0]
        raise ModelError(
            f"reduction {reduction!r} does not divide the teacher's {depth} layers; choose one of {', '.join(divisors)}, "
            "or name the layers."
        )
    layers = spread_layers(depth, depth // reduction, strategy)
    return (0, *layers[1:]) if first else layers


def choose_layers(
    teacher: nn.Module, *, reduction: int = 2, layers: Strategy | Sequence[int] = "last"
) -> tuple[int, ...]:
    """The map for this teacher: by strategy, or as named, checked.

    Args:
        teacher: an encoder or what holds one.
        reduction: see `layer_map`; without effect where layers are named.
        layers: a strategy, or ascending numbers of the teacher's layers from 0.

    Returns:
        For each of the student's layers the teacher's number.

    Raises:
        ModelError: for layers that are not there, out of order, twice, or that this architecture cannot move.

    Example:
        >>> from transformers import BertConfig, BertForMaskedLM
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 6, "num_attention_heads": 2, "intermediate_size": 8}
        >>> choose_layers(BertForMaskedLM(BertConfig(vocab_size=50, **sizes)), reduction=3)
        (2, 5)
    """
    depth, pinned = len(layers_of(teacher)), family_of(teacher).first_layer_pinned
    if isinstance(layers, str):
        return layer_map(depth, reduction=reduction, strategy=layers, first=bool(pinned))
    chosen = tuple(layers)
    if not chosen or min(chosen) < 0 or max(chosen) >= depth or list(chosen) != sorted({*chosen}):
        raise ModelError(
            f"layers must be ascending numbers from 0 to {depth - 1}, the teacher's, got {list(chosen)!r}."
        )
    if pinned and chosen[0] != 0:
        raise ModelError(
            f"layers {list(chosen)!r}: the first layer of a {encoder_of(teacher).config.model_type!r} model {pinned}, so "
            "only the teacher's layer 0 can be the student's; begin with 0."
        )
    return chosen


def student_of(teacher: Any, layers: Sequence[int], *, seed: int | None = None) -> Any:
    """A student of the teacher's class with the teacher's layers `layers` and all else of it.

    The student's embeddings, layers and head are copies, as in BiStil (Ansell et al. 2023) and DistilBERT (Sanh et al. 2019).
    Dropout is 0, in the configuration too. Before it is returned the student's outputs (a head's logits, or the states of an
    encoder without one) are compared with those of the teacher with its other layers left out; they are the same bits.

    Args:
        teacher: a stock model with or without a head, in evaluation mode.
        layers: see `choose_layers`.
        seed: given, the weights are random instead, of this seed: a model of the student's shape from scratch.

    Raises:
        ModelError: for an architecture that is not known, layers it cannot have, or where the outputs differ.

    Example:
        >>> from transformers import BertConfig, BertForMaskedLM
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 8}
        >>> teacher = BertForMaskedLM(BertConfig(vocab_size=50, **sizes)).eval()
        >>> student_of(teacher, (1, 3)).config.num_hidden_layers
        2
    """
    layers = choose_layers(teacher, layers=tuple(layers))
    config = _student_config(teacher, layers)
    with torch.random.fork_rng(devices=[]):  # the caller's numbers go on as they were
        torch.manual_seed(0 if seed is None else seed)
        student = same_class(teacher, config)
    student.config._attn_implementation = teacher.config._attn_implementation
    if seed is not None:
        return student.eval()
    student.to(next(teacher.parameters())).eval()  # its device and dtype
    student.load_state_dict(_mapped_weights(teacher, layers))
    require_equal_to_truncated(student, teacher, layers)
    return student


def _student_config(teacher: Any, layers: Sequence[int]) -> Any:
    config = config_of_layers(teacher.config, layers)
    for name in family_of(teacher).dropouts:
        setattr(config, name, 0.0)
    return config


def _mapped_weights(teacher: Any, layers: Sequence[int]) -> dict[str, torch.Tensor]:
    """The teacher's tensors under the student's names."""
    prefix = next(paths_of_layers(teacher)).removesuffix("0")
    student_layer = {teacher_layer: number for number, teacher_layer in enumerate(layers)}
    weights = {}
    for name, tensor in teacher.state_dict().items():
        if not name.startswith(prefix):
            weights[name] = tensor
            continue
        number, _, rest = name.removeprefix(prefix).partition(".")
        if int(number) in student_layer:
            weights[f"{prefix}{student_layer[int(number)]}.{rest}"] = tensor
    return weights


@torch.no_grad()
def require_equal_to_truncated(student: Any, teacher: Any, layers: Sequence[int]) -> None:
    """Compare the student's weights, and its outputs on random tokens, with those of the teacher cut down to `layers`.

    For outputs both are given the teacher's tensors: the same weights at other places in memory can give other last bits, as a product
    of one column does on processors without AVX-512.

    Raises:
        ModelError: where one bit differs.
    """
    weights, here = _mapped_weights(teacher, layers), student.state_dict()
    random = torch.Generator().manual_seed(0)
    rows = teacher.get_input_embeddings().num_embeddings
    inputs = torch.randint(rows, (2, 12), generator=random).to(next(student.parameters()).device)
    mask = torch.ones_like(inputs)
    mask[1, 8:] = 0
    given = {"input_ids": inputs, "attention_mask": mask}
    actual = _outputs(functional_call(student, weights, kwargs=given, tie_weights=False), mask)
    with truncated(teacher, layers):
        expected = _outputs(teacher(**given), mask)
    copied = all(torch.equal(here[name], tensor) for name, tensor in weights.items())
    if not (copied and torch.equal(actual, expected)):
        difference = float((_outputs(student(**given), mask) - expected).abs().max())
        raise ModelError(
            f"The student does not compute what layers {list(layers)} of the teacher compute (they differ by up to {difference:.2g}); "
            "this is an architecture that cannot be cut so."
        )


def _outputs(output: Any, mask: torch.Tensor) -> torch.Tensor:
    """All that a forward pass returned, padding left out, flat."""
    tensors = [value for value in output.values() if isinstance(value, torch.Tensor)]
    real = [tensor[mask.bool()] if tensor.shape[:2] == mask.shape else tensor for tensor in tensors]
    return torch.cat([tensor.flatten() for tensor in real])


@contextmanager
def truncated(model: Any, layers: Sequence[int]) -> Iterator[None]:
    """Run `model` with those of its layers alone."""
    whole, encoder = layers_of(model), encoder_of(model)
    replace_layers(encoder, nn.ModuleList([whole[number] for number in layers]))
    try:
        yield
    finally:
        replace_layers(encoder, whole)
