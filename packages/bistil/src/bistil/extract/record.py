"""The student's folder, of its teacher's kind and layout: model, tokenizer, a card and curves made from the record of the run, and `run.json`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bistil.errors import ExtractError
from bistil.extract.card import card
from bistil.extract.plan import Plan
from bistil.losses.table import EXTRACT_TERMS
from teacherzoo import Teacher
from vocabmerge import Layout

_COPIED = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
    "vocab.json", "merges.txt", "*.model", "LICENSE*", "NOTICE", "modules.json",
    "config_sentence_transformers.json", "sentence_*_config.json", "router_config.json", "*_linear.pt",
)  # fmt: skip
_ANY_WIDTH = ("Transformer", "MLMTransformer", "Pooling", "Normalize", "SpladePooling", "Dropout")
_WEIGHTS = ("*.safetensors", "*.bin", "*.index.json")
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
    _draw_curves(record, folder / "curves.png")
    page = card(
        record.plan, record.extraction, sfts=record.sfts, texts=record.texts, licences=record.licences,
        before=record.before, after=record.after, name=name,
    )  # fmt: skip
    (folder / "README.md").write_text(page, encoding="utf-8")
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


def write_model(model: Any, teacher: Teacher, folder: Path) -> None:
    """Write a model in a teacher's layout, with the teacher's tokenizer, modules and prompts.

    Args:
        model: of the teacher's class; it may be narrower where `require_narrowable_modules` takes the teacher.
        teacher: whose folder's other parts are copied.
        folder: where to.
    """
    layout = teacher.layout
    place = folder if layout is None else folder / layout.transformers[0]
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in _COPIED:
        for file in teacher.folder.glob(pattern):
            shutil.copy(file, folder)
    for module in () if layout is None else layout.modules:
        source, target = teacher.folder / module.path, folder / module.path
        if module.path != Path():
            skipped = _WEIGHTS if module.path in layout.transformers else ()  # type: ignore[union-attr]  # it has modules
            shutil.copytree(source, target, ignore=shutil.ignore_patterns(*skipped), dirs_exist_ok=True)  # fmt: skip
        if module.name == "Pooling":
            _set_width(folder / module.file, model.config.hidden_size)
    model.save_pretrained(place)


def _set_width(file: Path, width: int) -> None:
    """Where a pooling's configuration names another width, this one."""
    settings = json.loads(file.read_text(encoding="utf-8"))
    named = [name for name in ("embedding_dimension", "word_embedding_dimension") if name in settings]  # fmt: skip
    if any(settings[name] != width for name in named):
        settings |= dict.fromkeys(named, width)
        file.write_text(json.dumps(settings, indent=4) + "\n", encoding="utf-8")


def require_narrowable_modules(layout: Layout, width: int | None) -> None:
    """Refuse a narrower student where modules behind the encoder have weights for its width.

    Raises:
        ExtractError: naming the first.
    """
    if width is None:
        return
    behind = [str(module.path) for module in layout.modules if module.name not in _ANY_WIDTH]
    behind += sorted(file.name for file in layout.folder.glob("*_linear.pt"))
    if behind:
        raise ExtractError(
            f"width {width!r}: {behind[0]} of {layout.folder} reads states as wide as the teacher's; leave width out, and narrow "
            "the feed-forward layers alone."
        )


def _draw_curves(record: RunRecord, file: Path) -> None:
    from matplotlib.figure import Figure

    terms = [term.name for term in EXTRACT_TERMS if any(f"{term.name}_{language}" in entry for entry in record.log for language in record.plan.languages)]  # fmt: skip
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
