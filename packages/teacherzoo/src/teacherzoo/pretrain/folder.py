"""The folder of a pretrained teacher: model, tokenizer, what was done, and a card."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from teacherzoo.pretrain.config import PretrainedTeacher
from teacherzoo.text.corpora import Corpus
from vocabmerge.open_models import quiet_transformers


def write_teacher(
    model: Any,
    tokenizer: Any,
    corpora: Sequence[Corpus],
    teacher: PretrainedTeacher,
    folder: Path,
    *,
    what: str,
    notes: Mapping[str, Any],
    licence: Mapping[str, str] | None = None,
) -> None:
    """Write a masked LM and its tokenizer as transformers does, with `run.json` and a card.

    Args:
        model: of transformers.
        tokenizer: of transformers.
        corpora: it was trained on.
        teacher: how well it does.
        folder: to write.
        what: it is, for the card's first sentence.
        notes: of `run.json`.
        licence: what the card of the source says of it to the Hub.
    """
    with quiet_transformers():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    run = {
        "what": "a teacher pretrained by teacherzoo",
        **notes,
        "corpora": [{**asdict(corpus), "source": str(corpus.source)} for corpus in corpora],
        "parameters": teacher.parameters,
        "held_out_loss": teacher.loss,
        "held_out_accuracy": teacher.accuracy,
        "seconds": round(teacher.seconds, 1),
        "versions": {
            name: version(name) for name in ("teacherzoo", "torch", "transformers", "tokenizers")
        },
    }
    (folder / "run.json").write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(
        _card(what, corpora, teacher, licence or {}), encoding="utf-8"
    )


def _card(
    what: str,
    corpora: Sequence[Corpus],
    teacher: PretrainedTeacher,
    licence: Mapping[str, str],
) -> str:
    languages = [corpus.language for corpus in corpora]
    rows = [
        f"| {language} | {teacher.loss[language]:.3f} | {math.exp(teacher.loss[language]):.1f} "
        f"| {100 * teacher.accuracy[language]:.1f} % |"
        for language in languages
        if language in teacher.loss
    ]
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            "pipeline_tag: fill-mask",
            f"language: {json.dumps(languages)}",
            *(f"{key}: {json.dumps(value)}" for key, value in licence.items()),
            "---",
            "",
            f"A masked LM for {', '.join(languages)}: {what}.",
            "It was pretrained to teach others. `run.json` says how.",
            "",
            "| language | held-out loss | perplexity of a masked piece | accuracy |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )
