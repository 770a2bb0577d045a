"""The student's folder, of its teacher's kind and layout: model, tokenizer, a card and curves made from the record of the run, and `run.json`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bistil.encoders.model_folder import write_model
from bistil.extract.card import card
from bistil.extract.plan import Plan
from bistil.losses.table import EXTRACT_TERMS
from teacherzoo import Teacher
from vocabmerge.hub.push import bare_names

_WITH_PLACES = ("offload", "arguments")  # of an extraction
_VERSIONS = ("bistil", "kdkernels", "teacherzoo", "vocabmerge", "torch", "transformers")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What happened.

    Attributes:
        plan: in figures.
        extraction: every option.
        sfts: language to the sparse fine-tuning that the teacher wore.
        texts: language to the name of its text.
        licences: language to the licence of its text, where that is known.
        digests: of the teacher that taught, its vocabulary trimmed.
        before: per language the terms on held-out text before training.
        after: the same after it.
        log: loss and terms by step.
        seconds: wall time.
    """

    plan: Plan
    extraction: Mapping[str, Any]
    sfts: Mapping[str, str]
    texts: Mapping[str, str]
    licences: Mapping[str, str]
    digests: Mapping[str, str]
    before: Mapping[str, Mapping[str, float]]
    after: Mapping[str, Mapping[str, float]]
    log: Sequence[Mapping[str, float]]
    seconds: float


def write_folder(
    student: Any, teacher: Teacher, record: RunRecord, folder: Path, *, name: str
) -> None:
    """Write a folder as the teacher's is: the student, the trimmed teacher's tokenizer and modules, card, curves, record.

    Args:
        student: a stock model of the teacher's class.
        teacher: whose tokenizer it shares, and what stands behind the encoder.
        record: of the run.
        folder: where to; what stands there is replaced.
        name: of the student, for its card.
    """
    shutil.rmtree(folder, ignore_errors=True)
    write_model(student, teacher, folder)
    if (teacher.folder / "maps").is_dir():
        shutil.copytree(teacher.folder / "maps", folder / "maps")
    if record.log:
        _draw_curves(record, folder / "curves.png")
    page = card(
        record.plan, record.extraction, sfts=record.sfts, texts=record.texts, licences=record.licences,
        before=record.before, after=record.after, name=name,
    )  # fmt: skip
    (folder / "README.md").write_text(page, encoding="utf-8")
    run = {
        "what": "a student extracted by bistil",
        "plan": record.plan.to_json() | {"teacher": bare_names(record.plan.teacher)},
        "extraction": {
            **record.extraction,
            **{name: bare_names(record.extraction[name]) for name in _WITH_PLACES},
        },
        "language_sfts": bare_names(record.sfts),
        "digests": record.digests,
        "held_out": {"before": record.before, "after": record.after},
        "log": record.log,
        "seconds": round(record.seconds, 1),
        "versions": {name: version(name) for name in _VERSIONS},
    }
    (folder / "run.json").write_text(
        json.dumps(run, indent=1, default=str) + "\n", encoding="utf-8"
    )


def _draw_curves(record: RunRecord, file: Path) -> None:
    from matplotlib.figure import Figure

    terms = [term.name for term in EXTRACT_TERMS if any(f"{term.name}_{language}" in entry for entry in record.log for language in record.plan.languages)]  # fmt: skip
    width = 4 * max(1, len(terms))
    # Margins in inches, for labels of a logarithmic axis: to have them computed takes as long as to draw.
    figure = Figure(figsize=(width, 3.2))
    figure.subplots_adjust(left=0.75 / width, right=1 - 0.15 / width, bottom=0.16, top=0.9, wspace=0.3)  # fmt: skip
    plots = figure.subplots(1, max(1, len(terms)), squeeze=False)[0]
    for axes, term in zip(plots, terms, strict=False):
        for language in record.plan.languages:
            name = f"{term}_{language}"
            points = [(entry["step"], entry[name]) for entry in record.log if name in entry]
            if points:
                axes.plot(*zip(*points, strict=True), label=language)
            if any(value > 0 for _, value in points):
                axes.set_yscale("log")
        axes.set_title(term)
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)
    if terms:
        plots[0].legend(frameon=False)
    figure.savefig(file, dpi=130)
