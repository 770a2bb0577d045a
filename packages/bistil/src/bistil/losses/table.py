"""The table of loss terms: an entry for each, of phase 1 (`extract`) and of phase 2 (`adapt`).

A term is a function `(student, teacher, context) -> Tensor` in a file of its own, which states its formula, and an entry
here. Options, checks, help, logs and cards follow from the entry. Nothing here imports torch, so that `--help` is quick.
"""

from __future__ import annotations

import enum
import functools
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass
from typing import Any


class Sees(enum.Flag):
    """What a term must see of a model; models are run and recorded for what the terms in use see, and no more."""

    MAPPED_LAYERS = enum.auto()
    """The embeddings, and queries, keys and hidden states of the layers that correspond to one another."""
    LAST_LAYER = enum.auto()
    """Queries, keys and values of the last layer."""
    LAST_STATES = enum.auto()
    """What the encoder returns."""
    MASKED_ROWS = enum.auto()
    """What the masked-LM decoder reads at masked positions, and the decoder itself."""
    ANSWERS = enum.auto()
    """The logits of a task's head."""
    VECTORS = enum.auto()
    """The vectors of sentences, behind pooling and the modules after it."""
    PAIRS = enum.auto()
    """Sentences and their translations: terms that see them are computed on batches of pairs, all others on text."""


@dataclass(frozen=True)
class Setting:
    """A number in a term's formula that is not its weight.

    Attributes:
        name: of the option.
        kind: of its value.
        default: None where the term finds a value itself.
        plain_name: for help.
    """

    name: str
    kind: type[int] | type[float] | type[bool]
    default: float | None
    plain_name: str


@dataclass(frozen=True)
class Term:
    """An entry of the table.

    Attributes:
        name: of the option, and in logs.
        plain_name: what it is, for help and cards.
        function: where it lies, as "module:name".
        weight: by default; a term of weight 0 is not computed.
        sees: what it must see of the student.
        taught: whether it must see the same of the teacher.
        settings: further numbers of its formula.
    """

    name: str
    plain_name: str
    function: str
    _: KW_ONLY
    weight: float
    sees: Sees
    taught: bool = True
    settings: tuple[Setting, ...] = ()

    @functools.cached_property
    def loss(self) -> Callable[..., Any]:
        """The function, imported when it is first asked for."""
        function: Callable[..., Any] = pkgutil.resolve_name(self.function)
        return function


_TEMPERATURE = Setting("temperature", float, 2.0, "T, by which logits are divided")

EXTRACT_TERMS = (
    Term(
        "attention", "mean squared difference of attention maps", "bistil.losses.terms.attention:attention_loss",
        weight=1.0, sees=Sees.MAPPED_LAYERS,
    ),
    Term(
        "hidden", "mean squared difference of hidden states", "bistil.losses.terms.hidden:hidden_loss",
        weight=1.0, sees=Sees.MAPPED_LAYERS,
    ),
    Term(
        "scores", "mean squared difference of attention scores before the softmax", "bistil.losses.terms.scores:scores_loss",
        weight=0.0, sees=Sees.MAPPED_LAYERS,
    ),
    Term(
        "relations", "divergence of the last layer's relations", "bistil.losses.terms.relations:relations_loss",
        weight=0.0, sees=Sees.LAST_LAYER, settings=(Setting("relation_heads", int, None, "heads that vectors are cut into"),),
    ),
    Term(
        "cosine", "1 - cosine of the last hidden states", "bistil.losses.terms.cosine:cosine_loss",
        weight=0.0, sees=Sees.LAST_STATES,
    ),
    Term(
        "mlm", "cross-entropy with the text at masked positions", "bistil.losses.terms.masked_lm:masked_lm_loss",
        weight=0.0, sees=Sees.MASKED_ROWS, taught=False,
    ),
    Term(
        "logits", "divergence from the teacher's predictions at masked positions", "bistil.losses.terms.logits:logits_loss",
        weight=0.0, sees=Sees.MASKED_ROWS, settings=(_TEMPERATURE,),
    ),
    Term(
        "logits_mse", "mean squared difference of logits at masked positions", "bistil.losses.terms.logits_mse:logits_mse_loss",
        weight=0.0, sees=Sees.MASKED_ROWS,
    ),
    Term(
        "embedding", "distance of sentence vectors", "bistil.losses.terms.embedding:embedding_loss",
        weight=0.0, sees=Sees.VECTORS,
    ),
    Term(
        "similarity", "divergence of nearness among a batch's sentences", "bistil.losses.terms.similarity:similarity_loss",
        weight=0.0, sees=Sees.VECTORS,
        settings=(Setting("similarity_temperature", float, 0.05, "τ, by which cosines of sentences are divided"),),
    ),
    Term(
        "parallel", "distance of translations' vectors from the teacher's of the source", "bistil.losses.terms.parallel:parallel_loss",
        weight=0.0, sees=Sees.VECTORS | Sees.PAIRS,
    ),
    Term(
        "answers", "divergence from a classifier's or reranker's answers", "bistil.losses.terms.answers:answers_loss",
        weight=0.0, sees=Sees.ANSWERS, settings=(_TEMPERATURE,),
    ),
    Term(
        "answers_mse", "mean squared difference of a classifier's or reranker's logits", "bistil.losses.terms.answers_mse:answers_mse_loss",
        weight=0.0, sees=Sees.ANSWERS,
    ),
)  # fmt: skip

ADAPT_TERMS = (
    Term(
        "soft", "cross-entropy with the teacher's softened answers", "bistil.losses.terms.soft_labels:soft_label_loss",
        weight=1.0, sees=Sees.ANSWERS, settings=(_TEMPERATURE, Setting("times_t_squared", bool, False, "whether soft answers weigh T² times as much")),
    ),
    Term(
        "gold", "cross-entropy with the labels", "bistil.losses.terms.gold_labels:gold_label_loss",
        weight=0.0, sees=Sees.ANSWERS, taught=False,
    ),
    *(term for term in EXTRACT_TERMS if term.name in ("attention", "hidden")),
)  # fmt: skip


def settings_of(terms: Iterable[Term]) -> dict[str, Setting]:
    """The settings of some terms, by name; terms may share one."""
    return {setting.name: setting for term in terms for setting in term.settings}
