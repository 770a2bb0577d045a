"""One page with all of it: sizes, closeness, scores, vocabulary, training, and how to load what was made."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bistil.make.page_frame import page_templates
from bistil.make.scores import STUDENT, TRIMMED, WHOLE
from vocabmerge import Kind

_NAMES = {WHOLE: "the model", TRIMMED: "its trim", STUDENT: "its student"}
_LOADING = {
    Kind.SENTENCE: ("sentence_transformers", "SentenceTransformer"),
    Kind.SPARSE: ("sentence_transformers", "SparseEncoder"),
    Kind.HEADLESS: ("transformers", "AutoModel"),
    Kind.MASKED_LM: ("transformers", "AutoModelForMaskedLM"),
    Kind.CLASSIFIER: ("transformers", "AutoModelForSequenceClassification"),
    Kind.TOKEN_CLASSIFIER: ("transformers", "AutoModelForTokenClassification"),
}


def page(record: Mapping[str, Any], picture: bytes | None) -> str:
    """The page as HTML; it loads nothing from elsewhere.

    Args:
        record: what `make` returns.
        picture: the curves of training, a PNG.
    """
    kind = Kind(record["plan"]["kind"])
    module, loader = _LOADING[kind]
    return page_templates("bistil.make").get_template("report.html.jinja").render(
        record=record,
        title=Path(record["model"]).name,
        kind=record["plan"]["words"],
        names=_NAMES,
        verdict=verdict(record),
        module=module,
        loader=loader,
        opening="" if module == "sentence_transformers" else ".from_pretrained",
        timed="the encoder and its head" if kind is Kind.SPARSE else "the encoder alone",
        picture=base64.b64encode(picture).decode() if picture else None,
    )  # fmt: skip


def verdict(record: Mapping[str, Any]) -> list[str]:
    """What came out, in sentences."""
    costs = record["costs"]
    said = list(record["plan"]["assumed"])
    for name in (TRIMMED, STUDENT):
        size = costs[name]["parameters"] / costs[WHOLE]["parameters"]
        work = costs[name]["flops"] / costs[WHOLE]["flops"]
        means: dict[str, list[float]] = {}
        for row in record["closeness"]:
            means.setdefault(row["measure"], []).append(row["mean"][name])
        near = ", ".join(f"{measure} {min(values):.1f} %" for measure, values in means.items())
        said.append(
            f"{_NAMES[name].capitalize()} has {100 * size:.0f} % of the parameters and does {100 * work:.0f} % of the operations; "
            f"beside the model's answers, in the worst language: {near}."
        )
    fair = [row for row in record["scores"] if not row["needs"]]
    worse = [row for row in fair if row[f"{STUDENT}_verdict"].startswith(f"{WHOLE} better")]
    if fair:
        places = ", ".join(f"{row['task']} in {row['language']} ({row['metric']})" for row in worse)
        said.append(
            f"On the test sets the student is worse than the model at {places}, by a paired test."
            if worse
            else "On no test set is the student shown to be worse than the model by a paired test."
        )
    if unfair := dict.fromkeys(
        f"{row['task']} in {row['language']}" for row in record["scores"] if row["needs"]
    ):
        said.append(
            f"Not counted, for their translations are in a language that was not kept: {', '.join(unfair)}."
        )
    return said
