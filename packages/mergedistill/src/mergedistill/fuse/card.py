"""The card of a fused model: of which models, how, by which text, under which licence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from mergedistill.fuse.models import ModelFiles
from teacherzoo.catalogue.licence import UNKNOWN
from teacherzoo.encoders.kinds import PLAIN_NAMES
from vocabmerge import Kind
from vocabmerge.trim.card import stated_licence

_OPENED_AS: Mapping[Kind, tuple[str, str]] = {
    Kind.MASKED_LM: ("fill-mask", "AutoModelForMaskedLM"),
    Kind.SPARSE: ("feature-extraction", "AutoModelForMaskedLM"),
    Kind.CLASSIFIER: ("text-classification", "AutoModelForSequenceClassification"),
    Kind.TOKEN_CLASSIFIER: ("token-classification", "AutoModelForTokenClassification"),
    Kind.QUESTION_ANSWERING: ("question-answering", "AutoModelForQuestionAnswering"),
}
_METHODS = {
    "mean": "by the weighted mean of their weights",
    "regmean": "by RegMean (Jin et al. 2023)",
    "evolve": "by mixing weights that evolved (after Du et al. 2024)",
}


def card(
    models: Sequence[ModelFiles],
    *,
    name: str,
    by: str,
    shares: Sequence[float],
    options: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> str:
    """The card's Markdown under a header that the Hub reads; a licence where the cards of all models state the same."""
    from huggingface_hub import ModelCardData
    from jinja2 import Environment, StrictUndefined

    layout = models[0].layout
    kind_name = PLAIN_NAMES[layout.kind]
    task, loader = _OPENED_AS.get(layout.kind, ("feature-extraction", "AutoModel"))
    licences = [stated_licence(model.folder) for model in models]
    texts = [Path(text).name for text in options.get("texts", ())]
    mixture = facts.get("mixture", [shares])
    columns: list[list[Any]] = [
        [model.folder.name for model in models],
        [", ".join(f"{group[place]:.3g}" for group in mixture) for place in range(len(models))],
        [licence.get("license", UNKNOWN) for licence in licences],
    ]
    if texts:
        columns += [texts, [f"{count:,}" for count in facts["tokens"]]]
    engine = Environment(undefined=StrictUndefined, trim_blocks=True, autoescape=False)  # noqa: S701  # Markdown
    template = files("mergedistill.fuse").joinpath("card.md.jinja").read_text(encoding="utf-8")
    same: Mapping[str, Any] = (
        licences[0] if all(licence == licences[0] for licence in licences) else {}
    )
    metadata = ModelCardData(
        library_name="sentence-transformers" if layout.modules else "transformers",
        pipeline_tag=task,
        tags=["merge", "mergedistill"],
        model_name=name,
        **same,
    )
    return engine.from_string(template).render(
        metadata=metadata.to_yaml(),
        name=name,
        description=f"{kind_name[0].upper()}{kind_name[1:]}, made",
        method=_METHODS[by],
        loader=loader,
        sentences=bool(layout.modules),
        models=list(zip(*columns, strict=True)),
        texts=texts,
        options=options,
        facts={"verdict": "", **facts},
    )
