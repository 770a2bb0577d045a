"""What the head of a classifier, a reranker or a question answerer says, by the kind of distribution that it stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from teacherzoo.encoders.kinds import allows_several
from vocabmerge import Kind, Layout
from vocabmerge.tokenizer_file.json_file import read_json

if TYPE_CHECKING:
    from torch import Tensor


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


def form_of_answers(
    problem_type: str | None, num_labels: int
) -> Literal["labels", "several", "numbers"]:
    """As what the logits of a classifier are read, by its configuration, as in the pipelines of transformers.

    Returns:
        "labels", of which one holds, by a softmax; "several", of which each may hold, by a sigmoid each; "numbers" of a regression, as
        they are.

    Example:
        >>> form_of_answers(None, 3), form_of_answers(None, 1), form_of_answers("regression", 1)
        ('labels', 'several', 'numbers')
    """
    if problem_type == "regression":
        return "numbers"
    return "several" if num_labels == 1 or allows_several(problem_type) else "labels"


def answers_of_folder(layout: Layout) -> Literal["labels", "several", "numbers"]:
    """The same of the folder of a classifier."""
    return form_of_answers(_config_of(layout).get("problem_type"), layout.num_labels or 0)


def plain_kind(layout: Layout) -> str:
    """The kind of a folder by its name, "reranker" for a classifier that scores pairs and "scorer" for one that gives numbers of texts."""
    if layout.reranker:
        return "reranker"
    numbers = layout.kind is Kind.CLASSIFIER and answers_of_folder(layout) == "numbers"
    return "scorer" if numbers else layout.kind.value


def assumption(layout: Layout) -> list[str]:
    """What had to be assumed of a classifier, in a sentence; nothing where its files say what its outputs are."""
    if (
        layout.kind is Kind.CLASSIFIER
        and not layout.reranker
        and not _config_of(layout).get("problem_type")
    ):
        return [
            "Taken for a classifier of whose labels one holds, as the pipelines of transformers take it: its config.json names no "
            'problem_type. If several may hold, add "problem_type": "multi_label_classification" to it.'
        ]
    if layout.reranker != "assumed":
        return []
    return [
        "Taken for a reranker, which scores pairs of texts: it has one output, and its config.json does not say of what. If it scores "
        'single texts, add "problem_type": "regression" to its config.json, or "multi_label_classification" if that is the logit of a '
        "label."
    ]


def _config_of(layout: Layout) -> dict[str, Any]:
    return read_json(layout.folder / layout.transformers[0] / "config.json")
