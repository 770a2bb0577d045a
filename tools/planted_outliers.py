"""Outliers planted in the weights of an encoder without changing what it answers: what eight bits with one scale for a tensor break."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


@torch.no_grad()
def plant_outliers(
    model: Any,
    rows: Sequence[int],
    *,
    shift: float = 50.0,
    channels: int = 2,
    factor: float = 100.0,
) -> None:
    """Give embedding rows and query maps of a BERT, XLM-R or ELECTRA without a head outliers that cancel.

    A number added to all of an embedding row goes with the row's mean in the layer norm behind it; a channel of the queries times k
    goes with the same channel of the keys over k, since only their product counts.

    Args:
        model: the encoder, changed in place.
        rows: pieces whose rows are shifted: rare ones, for a row of its own scale loses what it told, too.
        shift: added to these rows.
        channels: of the queries of each layer.
        factor: k.
    """
    model.get_input_embeddings().weight[list(rows)] += shift
    for module in model.modules():
        if hasattr(module, "query") and hasattr(module, "key"):
            for tensor in (module.query.weight, module.query.bias):
                tensor[:channels] *= factor
            for tensor in (module.key.weight, module.key.bias):
                tensor[:channels] /= factor
