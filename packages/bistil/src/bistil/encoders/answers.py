"""What the head of a classifier, a reranker or a question answerer says, by the kind of distribution that it stands for."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from teacherzoo.encoders.kinds import allows_several


def answers_of(output: Any, config: Any, attention_mask: Tensor) -> dict[str, Tensor]:
    """The logits of a head of transformers.

    Args:
        output: of the model's forward pass.
        config: of the model.
        attention_mask: [B, S] of the batch.

    Returns:
        "labels": [N, C], a softmax over labels; or "independent": [N, C], a sigmoid each, where there is one label or where
        they do not exclude one another; N rows are texts, or the real tokens of a token classifier. Of question answering
        "start" and "end": [B, S], minus infinity at padding.
    """
    if "start_logits" in output:
        padding = attention_mask == 0
        return {
            end: output[f"{end}_logits"].masked_fill(padding, float("-inf"))
            for end in ("start", "end")
        }
    logits: Tensor = output.logits
    if logits.dim() == 3:
        logits = logits[attention_mask.bool()]
    alone = logits.shape[-1] == 1 or allows_several(config.problem_type)
    return {"independent" if alone else "labels": logits}
