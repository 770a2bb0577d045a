"""A masked-LM model in four parts, so that losses and recorders see hidden rows and never logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from teacherzoo.encoders.families import FAMILIES
from teacherzoo.errors import TeacherError

Transform = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class SplitHead:
    """A `…ForMaskedLM` taken apart: logits = transform(encoder(inputs).last_hidden_state) @ weight.T + bias.

    Attributes:
        encoder: the model without its head; its output has `last_hidden_state` [B, S, H].
        transform: [N, H] to [N, H'], the dense layer, activation and norm before the decoder.
        weight: [V, H'], the decoder's; tied to the input embeddings in most models.
        bias: [V], or None.
    """

    encoder: torch.nn.Module
    transform: Transform
    weight: torch.Tensor
    bias: torch.Tensor | None


def split_head(model: torch.nn.Module) -> SplitHead:
    """Take a masked-LM model apart without copying a weight.

    Args:
        model: a `…ForMaskedLM` of BERT, RoBERTa (XLM-R, XLM-R XL, CamemBERT), DistilBERT, ALBERT, DeBERTa, DeBERTa-v2/v3,
            ELECTRA (the generator), MPNet, ModernBERT, RemBERT or EuroBERT.

    Returns:
        Its parts. They share the model's parameters: gradients and updates go through.

    Raises:
        TeacherError: for any other architecture.

    Example:
        >>> from transformers import BertConfig, BertForMaskedLM
        >>> config = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> head = split_head(BertForMaskedLM(config))
        >>> head.transform(torch.zeros(3, 8)).shape, head.weight.shape
        (torch.Size([3, 8]), torch.Size([50, 8]))
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    name = type(model).__name__
    masked_lms = {MODEL_FOR_MASKED_LM_MAPPING_NAMES[kind]: FAMILIES[kind] for kind in FAMILIES}
    if name not in masked_lms:
        raise TeacherError(
            f"{name} has no masked-LM head that can be split; supported are {', '.join(sorted(masked_lms))}."
        )
    head = next(head for head in masked_lms[name].heads if _has(model, head.decoder))
    decoder: Any = model.get_submodule(head.decoder)
    return SplitHead(
        encoder=model.base_model,  # type: ignore[arg-type]  # every model of transformers has it
        transform=_chain([F.gelu if step == "gelu" else model.get_submodule(step) for step in head.transform]),
        weight=decoder.weight,
        bias=decoder.bias if head.bias is None else model.get_parameter(head.bias),
    )  # fmt: skip


def _has(model: torch.nn.Module, path: str) -> bool:
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return True


def _chain(steps: Sequence[Transform]) -> Transform:
    def transform(hidden: torch.Tensor) -> torch.Tensor:
        for step in steps:
            hidden = step(hidden)
        return hidden

    return transform
