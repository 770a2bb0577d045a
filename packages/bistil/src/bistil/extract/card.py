"""The student's folder: model, tokenizer, a card written from the run, and `run.json`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bistil.extract.plan import Plan
from bistil.losses.table import EXTRACT_TERMS
from teacherzoo.catalogue.catalogue import find_teacher, read_catalogue

_PLAIN_NAMES = {term.name: term.plain_name for term in EXTRACT_TERMS}
_TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
    "vocab.json", "merges.txt", "*.model", "LICENSE*", "NOTICE",
)  # fmt: skip
_VERSIONS = ("bistil", "kdkernels", "teacherzoo", "vocabmerge", "torch", "transformers")
_UNKNOWN = "not known: look it up"


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
    student: Any, teacher: Path, record: RunRecord, folder: Path, *, name: str
) -> None:
    """Write a plain Hugging Face folder: the student, the trimmed teacher's tokenizer, the card, the curves, the record.

    Args:
        student: a stock masked LM.
        teacher: the folder whose tokenizer it shares.
        record: of the run.
        folder: where to; what stands there is replaced.
        name: of the student, for its card.
    """
    shutil.rmtree(folder, ignore_errors=True)
    student.save_pretrained(folder)
    for pattern in _TOKENIZER:
        for file in teacher.glob(pattern):
            shutil.copy(file, folder)
    if (teacher / "maps").is_dir():
        shutil.copytree(teacher / "maps", folder / "maps")
    _draw_curves(record, folder / "curves.png")
    (folder / "README.md").write_text(card(record, name), encoding="utf-8")
    run = {
        "what": "a student extracted by bistil",
        "plan": record.plan.to_json(),
        "extraction": record.extraction,
        "language_sfts": record.sfts,
        "digests": record.digests,
        "held_out": {"before": record.before, "after": record.after},
        "log": record.log,
        "seconds": round(record.seconds, 1),
        "versions": {name: version(name) for name in _VERSIONS},
    }
    (folder / "run.json").write_text(
        json.dumps(run, indent=1, default=str) + "\n", encoding="utf-8"
    )


def card(record: RunRecord, name: str) -> str:
    """The model card's Markdown."""
    plan = record.plan
    hub = None if Path(plan.teacher).exists() else find_teacher(plan.teacher)
    source, *targets = plan.languages
    before, after = plan.teacher_parameters, plan.student_parameters
    shown = hub or Path(plan.teacher).name
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            "pipeline_tag: fill-mask",
            f"language: {json.dumps(list(plan.languages))}",
            *([f"base_model: {json.dumps(hub)}"] if hub else []),  # the Hub takes no path of a folder
            "tags: [knowledge-distillation, bistil]",
            "---",
            "",
            f"# {name}",
            "",
            f"A small masked language model for {source} and {', '.join(targets)}, extracted from `{shown}` (after "
            f"BiStil, Ansell et al. 2023). It is a stock {plan.architecture}; no further code is needed to use it. Tune it "
            f"on a task in {source}, use it on {', '.join(targets)}.",
            "",
            f"- Teacher: `{shown}`, licence: {_licence(plan.teacher, hub)}",
            *[
                f"- Text in {language}: `{record.texts[language]}`, licence: {record.licences.get(language, _UNKNOWN)}"
                for language in plan.languages
            ],
            f"- Layers: {len(plan.layers)} of {plan.teacher_layers} (numbers {', '.join(map(str, plan.layers))})",
            *[f"- Narrower: {words}" for words in plan.narrowed],
            f"- Vocabulary: {plan.pieces[1]:,} of {plan.pieces[0]:,} pieces",
            f"- Parameters: {after.total:,} of {before.total:,}, of which {after.embeddings:,} are embeddings",
            f"- Loss: {' + '.join(f'{weight:g} {term}' for term, weight in plan.terms.items())}",
            f"- Attention compared {plan.attention}",
            *[f"- In {language} the teacher wore `{Path(file).name}`" for language, file in record.sfts.items()],
            f"- Training: {plan.steps:,} steps, {plan.tokens:,} positions, learning rate "
            f"{record.extraction['learning_rate']:g}, seed {record.extraction['seed']}; `run.json` holds every option",
            "",
            "On held-out text, before and after:",
            "",
            *_table(record),
            "",
            "![terms of the loss by step](curves.png)",
            "",
            "## Limits",
            "",
            "It knows what its teacher knows of these languages, errors and biases included, and less of it. Other languages "
            "lost pieces of the vocabulary. The licences of the teacher and of the text bind those who use it.",
            "",
        ]
    )  # fmt: skip


def _licence(teacher: str, hub: str | None) -> str:
    """Of a teacher: as the catalogue has it, or its own folder's card."""
    from huggingface_hub import metadata_load

    stated = {entry.hub: entry.licence for entry in read_catalogue()}.get(hub or "")
    if stated is None and (own := Path(teacher) / "README.md").is_file():
        stated = (metadata_load(own) or {}).get("license")
    return str(stated or _UNKNOWN)


def _table(record: RunRecord) -> list[str]:
    rows = ["| language | term | before | after |", "| --- | --- | --- | --- |"]
    for language, terms in record.after.items():
        for term, value in terms.items():
            before = record.before[language][term]
            rows.append(f"| {language} | {_PLAIN_NAMES[term]} | {before:.4g} | {value:.4g} |")
    return rows if len(rows) > 2 else ["(no text was held out)"]


def _draw_curves(record: RunRecord, file: Path) -> None:
    from matplotlib.figure import Figure

    terms = [term for term in _PLAIN_NAMES if any(f"{term}_{language}" in entry for entry in record.log for language in record.plan.languages)]  # fmt: skip
    figure = Figure(figsize=(4 * max(1, len(terms)), 3.2), layout="constrained")
    plots = figure.subplots(1, max(1, len(terms)), squeeze=False)[0]
    for axes, term in zip(plots, terms, strict=False):
        for language in record.plan.languages:
            name = f"{term}_{language}"
            points = [(entry["step"], entry[name]) for entry in record.log if name in entry]
            if points:
                axes.plot(*zip(*points, strict=True), label=language)
        axes.set_title(term)
        axes.set_xlabel("step")
        axes.set_yscale("log")
        axes.spines[["top", "right"]].set_visible(False)
    if terms:
        plots[0].legend(frameon=False)
    figure.savefig(file, dpi=130)
