"""How narrow a student may be."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from torch import nn

from bistil.counted import counted
from bistil.encoders.capture import encoder_of, family_of, layers_of
from bistil.errors import ModelError
from teacherzoo.encoders.families import known_family


def paths_of_layers(model: nn.Module) -> Iterator[str]:
    """The path of each layer below the model, first to last."""
    layers = layers_of(model)
    path = next(name for name, module in model.named_modules() if module is layers)
    yield from (f"{path}.{number}" for number in range(len(layers)))


def inner_width(config: Any) -> int:
    """Units of a feed-forward layer."""
    return int(getattr(config, known_family(config).inner))


def narrow_config(
    config: Any, *, width: int | None, feed_forward: int | None, heads: int | None
) -> Any:
    """A copy of a configuration with other widths and another number of heads; None leaves one as it is."""
    narrow, family = copy.deepcopy(config), known_family(config)
    if width is not None:
        setattr(narrow, family.width, width)
    if feed_forward is not None:
        setattr(narrow, family.inner, feed_forward)
    if heads is not None:
        setattr(narrow, family.attention_heads, heads)
    return narrow


def require_narrowable(
    model: Any, *, width: int | None, feed_forward: int | None, heads: int | None = None
) -> None:
    """Refuse widths and numbers of heads that a model's student cannot have.

    Args:
        model: its weights are not looked at.
        width: of the student's hidden states; None as the teacher's.
        feed_forward: units of its feed-forward layers; None as the teacher's.
        heads: of each layer; None as many as the teacher's.

    Raises:
        ModelError: naming what was asked for, what may be, and why.
    """
    family, kind = family_of(model), encoder_of(model).config.model_type
    count, whole = model.config.num_attention_heads, model.config.hidden_size
    inner = inner_width(model.config)
    if feed_forward is not None and not 1 <= feed_forward <= inner:
        raise ModelError(
            f"feed_forward must be from 1 to the teacher's {inner}, got {feed_forward!r}."
        )
    if heads is not None and not 1 <= heads <= count:
        raise ModelError(f"heads must be from 1 to the teacher's {count}, got {heads!r}.")
    if heads not in (None, count) and family.fixed_width:
        raise ModelError(
            f"heads {heads!r}: a {kind!r} student must have its teacher's {counted(count, 'head')}, for {family.fixed_width}; leave heads out."
        )
    state = whole if width is None else width
    if not 1 <= state <= whole or (heads is None and state % count):
        raise ModelError(
            f"width must be a multiple of the {counted(count, 'attention head')}, or be given with heads that divide it, and at most the "
            f"teacher's {whole}; got {state!r}."
        )
    if heads is not None and state % heads:
        fitting = [str(n) for n in range(1, count + 1) if state % n == 0]
        raise ModelError(
            f"heads must divide the student's width {state}, got {heads!r}; choose one of {', '.join(fitting)}, or another width."
        )
    if state == whole:
        return
    if model.base_model is not model and model.get_output_embeddings() is None:
        raise ModelError(
            f"width {width!r}: the head of {type(model).__name__} reads all {whole} hidden units, and which of its own it could do "
            "without is not known; leave width out, and narrow its feed-forward layers alone."
        )
    if family.fixed_width:
        raise ModelError(
            f"width {width!r}: a {kind!r} student must be as wide as its teacher ({whole}), "
            f"for {family.fixed_width}; leave width out, and narrow its feed-forward layers alone."
        )
