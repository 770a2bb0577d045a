"""The shape of a stock masked LM, and a fresh model of that shape for a tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from teacherzoo.encoders.families import FAMILIES, Architecture
from teacherzoo.errors import RecordError

_NARROW = 256


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a masked LM looks like.

    Args:
        architecture: the model type, as transformers names it.
        layers: of the encoder.
        width: of the hidden states.
        heads: attention heads; by default one for each 64 of the width.
        feed_forward: inner width; by default 1.5 times the width for gated layers (ModernBERT's), else 4 times.
        positions: the longest row in tokens.

    Raises:
        RecordError: for a value that makes no sense.
    """

    architecture: Architecture = "modernbert"
    layers: int = 3
    width: int = 192
    heads: int | None = None
    feed_forward: int | None = None
    positions: int = 512

    def __post_init__(self) -> None:
        if self.architecture not in get_args(Architecture):
            raise RecordError(
                f"architecture must be one of {', '.join(get_args(Architecture))}, got {self.architecture!r}."
            )
        for name in ("layers", "width", "heads", "feed_forward", "positions"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RecordError(f"{name} must be at least 1, got {value!r}.")
        heads = self.head_count
        if self.width % heads:
            raise RecordError(
                f"width {self.width} cannot be shared by {heads} heads; choose a width that is a multiple, or other heads."
            )
        if FAMILIES[self.architecture].positions == "rotary" and self.width // heads % 2:
            raise RecordError(
                f"width {self.width} shared by {heads} heads makes heads of {self.width // heads}, and {self.architecture} "
                f"turns each head's values in pairs (rotary positions); choose a width that is a multiple of {2 * heads}, "
                "or other heads."
            )

    @property
    def head_count(self) -> int:
        """Attention heads."""
        return self.heads or max(1, self.width // 64)

    @property
    def inner_width(self) -> int:
        """Width of the feed-forward layers."""
        times = 1.5 if FAMILIES[self.architecture].gated else 4
        return self.feed_forward or int(times * self.width)


def build_masked_lm(shape: Shape, tokenizer: Any, *, seed: int) -> Any:
    """A stock masked LM with seeded random weights.

    Args:
        shape: its shape.
        tokenizer: a tokenizer of transformers, whose size and special tokens the model takes.
        seed: of the weights.

    Returns:
        The model, with the attention that `attention_for` chooses; what is saved does not say so.
    """
    import torch
    from transformers import AutoConfig, AutoModelForMaskedLM

    pad = tokenizer.pad_token_id
    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.head_count,
        "intermediate_size": shape.inner_width,
        # The RoBERTa family counts positions from the padding id on.
        "max_position_embeddings": shape.positions + pad + 1,
        "pad_token_id": pad,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "cls_token_id": tokenizer.cls_token_id,
        "sep_token_id": tokenizer.sep_token_id,
    }
    family = FAMILIES[shape.architecture]
    settings |= {
        family.depth: shape.layers,
        family.width: shape.width,
        family.attention_heads: shape.head_count,
        family.inner: shape.inner_width,
        **family.from_scratch,
    }
    if family.embedding_width is not None:
        settings[family.embedding_width] = shape.width
    torch.manual_seed(seed)
    config = AutoConfig.for_model(shape.architecture, **settings)
    return AutoModelForMaskedLM.from_config(config, attn_implementation=attention_for(config))


def attention_for(config: Any) -> str | None:
    """Eager attention for narrow models on a CPU, where fused kernels cost more than they save; else transformers' choice.

    Args:
        config: of a model.
    """
    import torch

    narrow = config.hidden_size <= _NARROW and not torch.cuda.is_available()
    return "eager" if narrow else None
