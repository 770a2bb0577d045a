"""How narrow a student may be: where each family keeps its linear maps, and which of them can be cut."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from bistil.encoders.capture import encoder_of, family_of, layers_of
from bistil.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class Places:
    """Linear maps of a layer, by their path below it.

    Attributes:
        up: into the feed-forward layer.
        down: out of it.
        attention: queries, keys, values, and what is made of all heads; None where heads cannot be made narrower.
        gated: whether `up` gives all units and then the gates of all.
        why: heads cannot be made narrower.
    """

    up: str = "intermediate.dense"
    down: str = "output.dense"
    attention: tuple[str, str, str, str] | None = None
    gated: bool = False
    why: str = ""


_BERT = Places(
    attention=(
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
    )
)
_PLACES = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "camembert": _BERT,
    "distilbert": Places(
        up="ffn.lin1",
        down="ffn.lin2",
        attention=("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"),
    ),
    "modernbert": Places(
        up="mlp.Wi",
        down="mlp.Wo",
        gated=True,
        why="its rotary embedding turns pairs of a head's units at speeds that a narrower head does not have",
    ),
    "deberta-v2": Places(
        why="its heads read relative positions through the same maps, which cannot serve both once they are cut"
    ),
}


def places_of(model: nn.Module) -> Places:
    """Where a model keeps its linear maps."""
    return _PLACES[encoder_of(model).config.model_type]


def paths_of_layers(model: nn.Module) -> Iterator[str]:
    """The path of each layer below the model, first to last."""
    layers = layers_of(model)
    path = next(name for name, module in model.named_modules() if module is layers)
    yield from (f"{path}.{number}" for number in range(len(layers)))


def inner_width(config: Any) -> int:
    """Units of a feed-forward layer."""
    return int(getattr(config, _inner_name(config)))


def narrow_config(config: Any, *, width: int | None, feed_forward: int | None) -> Any:
    """A copy of a configuration with other widths; None leaves one as it is."""
    narrow = copy.deepcopy(config)
    if width is not None:
        narrow.hidden_size = width
    if feed_forward is not None:
        setattr(narrow, _inner_name(config), feed_forward)
    return narrow


def _inner_name(config: Any) -> str:
    return "hidden_dim" if config.model_type == "distilbert" else "intermediate_size"


def require_narrowable(model: Any, *, width: int | None, feed_forward: int | None) -> None:
    """Refuse widths that a model's student cannot have.

    Args:
        model: its weights are not looked at.
        width: of the student's hidden states; None as the teacher's.
        feed_forward: units of its feed-forward layers; None as the teacher's.

    Raises:
        ModelError: naming what was asked for, what may be, and why.
    """
    family_of(model)
    heads, whole, inner = model.config.num_attention_heads, model.config.hidden_size, inner_width(model.config)  # fmt: skip
    if feed_forward is not None and not 1 <= feed_forward <= inner:
        raise ModelError(f"feed_forward must be from 1 to the teacher's {inner}, got {feed_forward!r}.")  # fmt: skip
    if width is None or width == whole:
        return
    if not 1 <= width < whole or width % heads:
        raise ModelError(
            f"width must be a multiple of the {heads} attention heads, which are compared one by one, and at most the "
            f"teacher's {whole}; got {width!r}."
        )
    places = places_of(model)
    if places.attention is None:
        kind = encoder_of(model).config.model_type
        raise ModelError(
            f"width {width!r}: a {kind!r} student must be as wide as its teacher ({whole}), for {places.why}; "
            "leave width out, and narrow its feed-forward layers alone."
        )
