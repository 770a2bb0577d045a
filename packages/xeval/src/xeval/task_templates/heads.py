"""What is put on an encoder for a task: hidden states in, named logits and a loss out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xeval.task_templates.batches import IGNORED

Batch = dict[str, Tensor]


def mean_loss(logits: Tensor, labels: Tensor, count: Tensor | int | None = None) -> Tensor:
    """Cross-entropy summed over labelled rows and divided by `count`, by default their number.

    Args:
        logits: `[..., C]`.
        labels: `[...]`, `IGNORED` where there is none.
        count: labelled rows of the whole optimizer step, where it is more than this batch.
    """
    total = F.cross_entropy(
        logits.float().flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    rows = labels.ne(IGNORED).sum() if count is None else torch.as_tensor(count)
    return total / rows.clamp(min=1)


def word_states(hidden: Tensor, batch: Batch, pooling: str) -> Tensor:
    """Hidden states of words, from those of sub-words.

    Args:
        hidden: `[R, T, H]`.
        batch: with `word_start` and `word_size`, `[B, W]`, of `xeval.task_templates.batches.place_words`.
        pooling: "first" sub-word, or "mean" of all.

    Returns:
        `[B, W, H]`; what stands where a sentence is shorter has no meaning.
    """
    flat = hidden.flatten(0, 1)
    start, size = batch["word_start"], batch["word_size"]
    if pooling == "first":
        return flat[start]
    longest = int(size.max())
    offsets = torch.arange(longest, device=hidden.device)
    inside = offsets < size[..., None]
    places = (start[..., None] + offsets).clamp(max=len(flat) - 1)
    total = (flat[places] * inside[..., None]).sum(dim=2)
    return total / size.clamp(min=1)[..., None]


class WordHead(nn.Module):
    """One label per word: dropout and a linear layer.

    Outputs `{"labels": [B, W, C]}`.
    """

    def __init__(self, width: int, classes: int, *, pooling: str, dropout: float = 0.1) -> None:
        super().__init__()
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(width, classes)

    def forward(self, hidden: Tensor, batch: Batch) -> Batch:
        """See the class."""
        return {"labels": self.out(self.dropout(word_states(hidden, batch, self.pooling)))}

    def loss(self, outputs: Batch, batch: Batch, count: Tensor | int | None = None) -> Tensor:
        """Cross-entropy per labelled word."""
        return mean_loss(outputs["labels"], batch["labels"], count)


class TextHead(nn.Module):
    """One label per text or pair of texts: dense, tanh and a linear layer on the first or the mean state.

    It needs no pooler of the encoder. Outputs `{"labels": [R, C]}`.
    """

    def __init__(self, width: int, classes: int, *, pooling: str, dropout: float = 0.1) -> None:
        super().__init__()
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(width, width)
        self.out = nn.Linear(width, classes)

    def forward(self, hidden: Tensor, batch: Batch) -> Batch:
        """See the class."""
        state = hidden[:, 0]
        if self.pooling == "mean":
            mask = batch["attention_mask"][..., None].to(hidden.dtype)
            state = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        state = torch.tanh(self.dense(self.dropout(state)))
        return {"labels": self.out(self.dropout(state))}

    def loss(self, outputs: Batch, batch: Batch, count: Tensor | int | None = None) -> Tensor:
        """Cross-entropy per text."""
        return mean_loss(outputs["labels"], batch["labels"], count)


class ChoiceHead(nn.Module):
    """One number per option, read with its passage, and a softmax over the options of a question.

    Outputs `{"options": [B, O]}`, minus infinity where a question has fewer.
    """

    def __init__(self, width: int, *, pooling: str, dropout: float = 0.1) -> None:
        super().__init__()
        self.text = TextHead(width, 1, pooling=pooling, dropout=dropout)

    def forward(self, hidden: Tensor, batch: Batch) -> Batch:
        """See the class; `option_rows` `[B, O]` holds the row of each option, `IGNORED` where there is none."""
        scores = self.text(hidden, batch)["labels"][:, 0].float()
        rows = batch["option_rows"]
        return {"options": scores[rows.clamp(min=0)].masked_fill(rows == IGNORED, float("-inf"))}

    def loss(self, outputs: Batch, batch: Batch, count: Tensor | int | None = None) -> Tensor:
        """Cross-entropy per question."""
        return mean_loss(outputs["options"], batch["labels"], count)


class SpanHead(nn.Module):
    """First and last sub-word of an answer.

    Outputs `{"start": [R, T], "end": [R, T]}`; sub-words outside the context have minus infinity.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out = nn.Linear(width, 2)

    def forward(self, hidden: Tensor, batch: Batch) -> Batch:
        """See the class."""
        logits = self.out(hidden).float()
        outside = ~batch["answerable"].bool()
        start, end = logits.masked_fill(outside[..., None], float("-inf")).unbind(dim=-1)
        return {"start": start, "end": end}

    def loss(self, outputs: Batch, batch: Batch, count: Tensor | int | None = None) -> Tensor:
        """Mean of the two cross-entropies; `labels` `[R, 2]`."""
        both = torch.stack([outputs["start"], outputs["end"]], dim=1)
        return mean_loss(both, batch["labels"], count)
