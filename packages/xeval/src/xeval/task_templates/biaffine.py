"""A graph-based dependency parser: every word scores every other word, and the root, as its head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xeval.task_templates.heads import Batch, mean_loss, word_states


class BiaffineHead(nn.Module):
    """Deep biaffine attention (Dozat and Manning 2017) with a learnt root.

    Outputs `{"arcs": [B, W, W + 1], "dependents": [B, W, D], "governors": [B, W + 1, D]}`; column 0 of the arcs is
    the root, a word is never its own head, and columns past a sentence's end are minus infinity. `relations` gives
    the relation logits for chosen heads.

    Args:
        width: of the hidden states.
        classes: number of relations.
        pooling: how sub-words stand for words.
        dropout: on states and projections.
    """

    def __init__(self, width: int, classes: int, *, pooling: str, dropout: float = 0.1) -> None:
        super().__init__()
        self.pooling = pooling
        arc, relation = min(width, 256), min(width, 128)
        self.dropout = nn.Dropout(dropout)
        self.root = nn.Parameter(torch.randn(width) / width**0.5)
        self.arc_dependent = _projection(width, arc, dropout)
        self.arc_governor = _projection(width, arc, dropout)
        self.relation_dependent = _projection(width, relation, dropout)
        self.relation_governor = _projection(width, relation, dropout)
        self.arc = nn.Parameter(torch.empty(arc + 1, arc))
        self.relation = nn.Parameter(torch.empty(classes, relation + 1, relation + 1))
        nn.init.xavier_uniform_(self.arc)
        nn.init.xavier_uniform_(self.relation)

    def forward(self, hidden: Tensor, batch: Batch) -> Batch:
        """See the class."""
        words = self.dropout(word_states(hidden, batch, self.pooling))
        root = self.root.to(words.dtype).expand(len(words), 1, -1)
        nodes = torch.cat([root, words], dim=1)
        arcs = _with_one(self.arc_dependent(words)) @ self.arc @ self.arc_governor(nodes).mT
        present = batch["word_size"] > 0
        absent = ~torch.cat([present.new_ones(len(present), 1), present], dim=1)
        itself = torch.eye(words.shape[1], dtype=torch.bool, device=words.device)
        itself = torch.cat([itself.new_zeros(len(itself), 1), itself], dim=1)
        return {
            "arcs": arcs.float().masked_fill(absent[:, None] | itself, float("-inf")),
            "dependents": self.relation_dependent(words),
            "governors": self.relation_governor(nodes),
        }

    def relations(self, outputs: Batch, heads: Tensor) -> Tensor:
        """Relation logits `[B, W, C]` of words that hang on `heads` `[B, W]`."""
        dependents = _with_one(outputs["dependents"])
        places = heads.clamp(min=0)[..., None].expand(-1, -1, outputs["governors"].shape[-1])
        governors = _with_one(outputs["governors"].gather(1, places))
        return torch.einsum("bwi,cij,bwj->bwc", dependents, self.relation, governors)

    def loss(self, outputs: Batch, batch: Batch, count: Tensor | int | None = None) -> Tensor:
        """Cross-entropy of the heads (`labels` `[B, W]`) plus that of the relations at the gold heads."""
        heads = batch["labels"]
        relations = self.relations(outputs, heads)
        return mean_loss(outputs["arcs"], heads, count) + mean_loss(
            relations, batch["relations"], count
        )


def _projection(width: int, out: int, dropout: float) -> nn.Module:
    return nn.Sequential(nn.Linear(width, out), nn.LeakyReLU(0.1), nn.Dropout(dropout))


def _with_one(states: Tensor) -> Tensor:
    return torch.cat([states, states.new_ones(*states.shape[:-1], 1)], dim=-1)
