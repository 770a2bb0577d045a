"""A masked-LM model in four parts, so that losses and recorders see hidden rows and never logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

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
    name = type(model).__name__
    if name not in _SPLITTERS:
        raise TeacherError(
            f"{name} has no masked-LM head that can be split; supported are {', '.join(sorted(_SPLITTERS))}."
        )
    return _SPLITTERS[name](model)


def _bert(model: Any) -> SplitHead:
    head = model.cls.predictions
    return _decoded(model.base_model, head.transform, head.decoder)


def _roberta(model: Any) -> SplitHead:
    head = model.lm_head
    return _decoded(model.base_model, _chain(head.dense, F.gelu, head.layer_norm), head.decoder)


def _distilbert(model: Any) -> SplitHead:
    transform = _chain(model.vocab_transform, model.activation, model.vocab_layer_norm)
    return _decoded(model.distilbert, transform, model.vocab_projector)


def _albert(model: Any) -> SplitHead:
    head = model.predictions
    return _decoded(model.albert, _chain(head.dense, head.activation, head.LayerNorm), head.decoder)


def _deberta(model: Any) -> SplitHead:
    if model.legacy:
        return _bert(model)
    # The new head multiplies by the input embeddings; `get_output_embeddings` names its dense layer, not a decoder.
    head = model.lm_predictions.lm_head
    transform = _chain(head.dense, head.transform_act_fn, head.LayerNorm)
    weight = model.deberta.embeddings.word_embeddings.weight
    return SplitHead(model.deberta, transform, weight, head.bias)


def _electra(model: Any) -> SplitHead:
    return _decoded(model.electra, model.generator_predictions, model.generator_lm_head)


def _modernbert(model: Any) -> SplitHead:
    return _decoded(model.model, model.head, model.decoder)


def _rembert(model: Any) -> SplitHead:
    head = model.cls.predictions
    return _decoded(
        model.rembert, _chain(head.dense, head.activation, head.LayerNorm), head.decoder
    )


def _eurobert(model: Any) -> SplitHead:
    return _decoded(model.model, _chain(), model.lm_head)


def _decoded(encoder: torch.nn.Module, transform: Transform, decoder: Any) -> SplitHead:
    return SplitHead(encoder, transform, decoder.weight, decoder.bias)


def _chain(*steps: Transform) -> Transform:
    def transform(hidden: torch.Tensor) -> torch.Tensor:
        for step in steps:
            hidden = step(hidden)
        return hidden

    return transform


_SPLITTERS: dict[str, Callable[[Any], SplitHead]] = {
    "AlbertForMaskedLM": _albert,
    "BertForMaskedLM": _bert,
    "CamembertForMaskedLM": _roberta,
    "DebertaForMaskedLM": _deberta,
    "DebertaV2ForMaskedLM": _deberta,
    "DistilBertForMaskedLM": _distilbert,
    "ElectraForMaskedLM": _electra,
    "EuroBertForMaskedLM": _eurobert,
    "MPNetForMaskedLM": _roberta,
    "ModernBertForMaskedLM": _modernbert,
    "RemBertForMaskedLM": _rembert,
    "RobertaForMaskedLM": _roberta,
    "XLMRobertaForMaskedLM": _roberta,
    "XLMRobertaXLForMaskedLM": _roberta,
}
