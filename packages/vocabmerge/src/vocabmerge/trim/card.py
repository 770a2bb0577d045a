"""The card of a trimmed model: what it was cut from, for which languages, what that changed, and how to load it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from vocabmerge.encoder_folder.layout import Kind, Layout
from vocabmerge.hub.card_metadata import card_metadata

_LICENCE = ("license", "license_name", "license_link")


@dataclass(frozen=True)
class _Use:
    """How a kind of model is listed on the Hub and loaded.

    Args:
        library: that loads it.
        task: the Hub's name of what it does, None where it does nothing alone.
        loader: the class that users load it with.
        tags: further words by which it is found.
    """

    library: str
    task: str | None
    loader: str
    tags: tuple[str, ...] = ()


_USES = {
    Kind.SENTENCE: _Use("sentence-transformers", "sentence-similarity", "SentenceTransformer", ("feature-extraction",)),
    Kind.SPARSE: _Use("sentence-transformers", "feature-extraction", "SparseEncoder", ("sparse-encoder", "splade")),
    Kind.MULTI_VECTOR: _Use("sentence-transformers", "feature-extraction", "MultiVectorEncoder", ("multi-vector",)),
    Kind.CLASSIFIER: _Use("transformers", "text-classification", "AutoModelForSequenceClassification"),
    Kind.TOKEN_CLASSIFIER: _Use("transformers", "token-classification", "AutoModelForTokenClassification"),
    Kind.QUESTION_ANSWERING: _Use("transformers", "question-answering", "AutoModelForQuestionAnswering"),
    Kind.MULTIPLE_CHOICE: _Use("transformers", "multiple-choice", "AutoModelForMultipleChoice"),
    Kind.MASKED_LM: _Use("transformers", "fill-mask", "AutoModelForMaskedLM"),
    Kind.CAUSAL_LM: _Use("transformers", "text-generation", "AutoModelForCausalLM"),
    Kind.HEADLESS: _Use("transformers", "feature-extraction", "AutoModel"),
    Kind.TOKENIZER: _Use("transformers", None, "AutoTokenizer"),
}  # fmt: skip
_RERANKER = _Use("sentence-transformers", "text-ranking", "CrossEncoder", ("cross-encoder", "reranker"))  # fmt: skip


def card(report: Mapping[str, Any], layout: Layout, *, name: str) -> str:
    """The card's Markdown under a header that the Hub reads: `card.md.jinja` filled in.

    The licence is the one that the source's card states; none is made up. The Hub knows four relations to a base model,
    and no cut: `finetune` is the one that it would itself assume.

    Args:
        report: of the trim.
        layout: of the model that was cut.
        name: the trimmed model's, `OWNER/NAME` where it goes to the Hub.
    """
    from jinja2 import Environment, StrictUndefined

    use = _use(layout)
    engine = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False)  # noqa: S701  # Markdown  # fmt: skip
    engine.filters["percent"] = percent
    engine.filters["mebibytes"] = lambda size: f"{size / 2**20:,.1f}"
    template = files("vocabmerge.trim").joinpath("card.md.jinja").read_text(encoding="utf-8")
    base = report["base"]
    return engine.from_string(template).render(
        metadata=_metadata(report, layout, use),
        title=name.rpartition("/")[2],
        name=name,
        report=report,
        base=base["hub"] or report["source"],
        use=use,
        pairs=use is _RERANKER,
        kind=layout.kind.value,
        prompts=dict(layout.prompts),
        sizes=part_sizes(report["model"]),
        unseen=unseen_becomes(report["characters"], code="`"),
    )


def percent(share: float) -> str:
    """A share with as many digits as tell it from all and from nothing.

    Example:
        >>> percent(0.99), percent(0.99963), percent(1), percent(0.0000021)
        ('99 %', '99.96 %', '100 %', '0.0002 %')
    """
    shown = 100 * share
    for digits in range(2, 5):
        text = f"{shown:.{digits}f}"
        if share in (0.0, 1.0) or 0 < float(text) < 100:
            break
    return f"{text.rstrip('0').rstrip('.')} %"


def unseen_becomes(characters: Mapping[str, Any], *, code: str = "") -> str:
    """What happens to characters without a piece, in words that follow their name."""
    whole = "take their words with them and " if characters["unseen_word"] else ""
    if characters["unseen"] == "bytes":
        return f"{whole}fall into bytes"
    if characters["unseen"] == "nothing":
        return f"{whole}vanish"
    return f"{whole}become {code}{characters['unseen']}{code}"


def stated_licence(folder: Path) -> dict[str, str]:
    """What a model's card says of its licence to the Hub; empty where it says nothing."""
    stated = card_metadata(folder)
    return {key: str(stated[key]) for key in _LICENCE if stated.get(key)}


def _use(layout: Layout) -> _Use:
    # Behind a modules.json, a head of transformers is a cross-encoder's.
    cross_encoder = bool(layout.modules) and layout.kind in (Kind.CLASSIFIER, Kind.CAUSAL_LM)
    return _RERANKER if cross_encoder or layout.reranker else _USES[layout.kind]


def _metadata(report: Mapping[str, Any], layout: Layout, use: _Use) -> str:
    from huggingface_hub import ModelCardData

    base = report["base"]
    licence: Mapping[str, Any] = stated_licence(layout.folder)
    languages = [code for code in report["languages"] if re.fullmatch("[a-z]{2,3}", code)]
    return ModelCardData(
        language=languages or None,
        library_name=use.library,
        pipeline_tag=use.task,
        base_model=base["hub"],
        base_model_relation="finetune" if base["hub"] else None,
        tags=["trimmed-vocabulary", "vocabmerge", *use.tags],
        **licence,
    ).to_yaml()


def part_sizes(model: Mapping[str, Any]) -> list[tuple[str, dict[str, int], dict[str, int]]]:
    """Each part of the model, and the whole, before and after; nothing for a tokenizer alone."""
    if not model["before"]["parts"]:
        return []
    before, after = model["before"], model["after"]
    rows = [(name, part, after["parts"][name]) for name, part in before["parts"].items()]
    return [*rows, ("all", before, after)]
