"""How a figure is obtained: every setting that changes it."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from xeval.errors import XevalError

_WINDOW = 256
_FINE_TUNING = (
    *("learning_rate", "batch_size", "steps", "evaluate_every", "patience", "warmup"),
    *("weight_decay", "pooling", "precision"),
)
PROMPTS = ("text_prompt", "query_prompt", "document_prompt")
"""What a model's card may say instead of its folder, so that two models may differ in it and be compared."""
_CHOICES = {
    "pooling": ("first", "mean"),
    "precision": ("auto", "float32"),
    "labels": ("common", "own"),
}


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The settings of one task; the defaults are those of a base-sized encoder.

    Args:
        learning_rate: peak, linear warm-up and decay.
        batch_size: examples per optimizer step, whatever fits in memory at once.
        steps: at most so many optimizer steps.
        evaluate_every: steps between evaluations on the development set of the source language.
        patience: evaluations without improvement before tuning stops.
        warmup: share of the steps.
        weight_decay: of AdamW.
        max_length: sub-words per window, or of a text; the model's own limit where that is smaller. None is 256, and of a
            sentence encoder or reranker its own limit.
        pooling: how sub-words stand for a word, and tokens for a text: "first" or "mean".
        precision: of tuning: "auto" is bfloat16 where the machine has it, "float32" never. Scoring is float32.
        labels: NER: "common" maps entity types to PER, LOC and ORG, "own" takes them as they are.
        layer: texts of a model that is no sentence encoder: which hidden states are averaged; -1 is the last, None the
            middle one. Of words (`pos_probe`) None chooses it on the development set.
        csls: bitext: cross-domain similarity local scaling over so many neighbours; 0 is plain similarity.
        text_prompt: bitext, sts, probes: what stands before every text; None is the model's own prompt, which may be none.
        query_prompt: retrieval, rerank: likewise before queries.
        document_prompt: retrieval, rerank: likewise before documents.
        inverse_regularisation: probes: C, of logistic or of ridge regression; None chooses it on the development set.
        mask_rate: bits per byte: share of the words of a block that one pass masks.
        lines: bits per byte: at most so many lines of a text, evenly spread; 0 is all.
    """

    learning_rate: float = 5e-5
    batch_size: int = 32
    steps: int = 2000
    evaluate_every: int = 200
    patience: int = 4
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_length: int | None = None
    pooling: str = "first"
    precision: str = "auto"
    labels: str = "common"
    layer: int | None = None
    csls: int = 0
    text_prompt: str | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    inverse_regularisation: float | None = None
    mask_rate: float = 0.15
    lines: int = 1000

    def __post_init__(self) -> None:
        """Check ranges once."""
        for name in ("batch_size", "steps", "evaluate_every", "patience"):
            if getattr(self, name) < 1:
                raise XevalError(f"{name} must be at least 1, got {getattr(self, name)!r}")
        if self.max_length is not None and self.max_length < 8:
            raise XevalError(f"max_length must be at least 8, got {self.max_length!r}")
        if not self.learning_rate > 0:
            raise XevalError(f"learning_rate must be positive, got {self.learning_rate!r}")
        if self.inverse_regularisation is not None and not 0 < self.inverse_regularisation < 1e12:
            raise XevalError(
                f"inverse_regularisation must be positive, got {self.inverse_regularisation!r}"
            )
        if not 0 <= self.warmup <= 1:
            raise XevalError(f"warmup must lie between 0 and 1, got {self.warmup!r}")
        if not 0 < self.mask_rate <= 1:
            raise XevalError(f"mask_rate must be above 0 and at most 1, got {self.mask_rate!r}")
        for name in ("csls", "lines"):
            if getattr(self, name) < 0:
                raise XevalError(f"{name} must be 0 or more, got {getattr(self, name)!r}")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise XevalError(
                    f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}"
                )

    @property
    def window(self) -> int:
        """Sub-words per window."""
        return _WINDOW if self.max_length is None else self.max_length

    def settings(self, task_settings: Sequence[str] = (), *, finetuned: bool) -> dict[str, Any]:
        """The settings that bear on a task.

        Args:
            task_settings: those that not every task has. `max_length` bears on every one; where it is among these, None
                stays the model's own limit, else it is the 256 that it means.
            finetuned: whether it has a head that is fine-tuned.
        """
        bearing = {*task_settings, *(_FINE_TUNING if finetuned else ())}
        settings = {s.name: getattr(self, s.name) for s in fields(self)}
        settings["max_length"] = self.max_length if "max_length" in bearing else self.window
        return {name: settings[name] for name in settings if name in {*bearing, "max_length"}}
