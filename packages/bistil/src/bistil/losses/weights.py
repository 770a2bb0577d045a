"""The terms of phase 1's loss: their names, their weights, and the mixtures that have a name."""

from __future__ import annotations

from dataclasses import dataclass

from bistil.errors import ExtractError

# Each term of the loss, and what it is called where it is shown.
PLAIN_NAMES = {
    "attention": "mean squared difference of attention maps",
    "hidden": "mean squared difference of hidden states",
    "mlm": "cross-entropy with the text at masked positions",
    "logits": "divergence from the teacher's predictions at masked positions",
    "relations": "divergence of the last layer's relations",
    "cosine": "1 - cosine of the last hidden states",
}
TERMS = tuple(PLAIN_NAMES)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Weights of the loss's terms; a term of weight 0 is not computed.

    Args:
        attention: mean over layers of the mean squared difference of attention maps.
        hidden: mean over states of their mean squared difference; see `bistil.matching_loss`.
        mlm: cross-entropy with the text at masked positions.
        logits: T² KL(teacher ‖ student) over the vocabulary at masked positions (DistilBERT).
        relations: KL of the last layers' relations of queries, keys and values, mean of the three (MiniLMv2).
        cosine: 1 - cos of the last hidden states (DistilBERT).
        temperature: T of `logits`.
        relation_heads: into how many heads vectors are cut for `relations`; unless given, four times the attention
            heads where that divides the width, else as many as there are.

    Raises:
        ExtractError: for weights or temperatures that are none.
    """

    attention: float = 1.0
    hidden: float = 1.0
    mlm: float = 0.0
    logits: float = 0.0
    relations: float = 0.0
    cosine: float = 0.0
    temperature: float = 2.0
    relation_heads: int | None = None

    def __post_init__(self) -> None:
        for name in TERMS:
            if not 0 <= getattr(self, name) < float("inf"):
                raise ExtractError(
                    f"The weight of {name} must be a number from 0 on, got {getattr(self, name)!r}."
                )
        if not self.weights:
            raise ExtractError(f"Every term has weight 0; give one of {', '.join(TERMS)} another.")
        if not self.temperature > 0:
            raise ExtractError(f"temperature must be greater than 0, got {self.temperature!r}.")

    @property
    def weights(self) -> dict[str, float]:
        """Those that are not 0."""
        return {name: getattr(self, name) for name in TERMS if getattr(self, name)}

    @property
    def taught(self) -> bool:
        """Whether a teacher is needed."""
        return set(self.weights) != {"mlm"}


STYLES = {
    "bistil": Terms(),
    "distilmbert": Terms(attention=0, hidden=0, logits=5, mlm=2, cosine=1),
    "minilmv2": Terms(attention=0, hidden=0, relations=1),
    "mlm": Terms(attention=0, hidden=0, mlm=1),
}
