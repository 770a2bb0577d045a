"""The models that `bistil_export` quantises, made where they are missing: a student, a tagger, and one with planted outliers; no question itself."""

from __future__ import annotations

from pathlib import Path

from trimmed_encoders import PROMPT, texts_to_choose_by

PAIR = ("en", "de")
PIECES = 32_768
LINES, QUICK_LINES = 5_000, 200


def make_trim(model: Path, data: Path, work: Path, *, quick: bool) -> Path:
    """The whole model with the pieces of two languages."""
    from vocabmerge import trim

    out = work / "trim"
    if not out.exists():
        files = texts_to_choose_by(data, PAIR, QUICK_LINES if quick else LINES, work / "texts", [])
        trim(model, files, out, budget=PIECES // 32 if quick else PIECES)
    return out


def make_student(model: Path, data: Path, work: Path, *, quick: bool) -> Path:
    """Half of the layers of that trim, after 200 steps of an extraction."""
    from bistil import Extraction, extract

    out = work / "student"
    if not out.exists():
        trimmed = make_trim(model, data, work, quick=quick)
        extract(
            trimmed,
            {language: work / "texts" / f"{language}.txt" for language in PAIR},
            out,
            source=PAIR[0],
            targets=PAIR[1:],
            extraction=Extraction(
                keep_vocabulary=True, steps=2 if quick else 200, batch=16, length=32 if quick else 64,
                learning_rate=1e-3, prompts=(PROMPT,),
            ),
        )  # fmt: skip
    return out


def make_tagger(model: Path, data: Path, work: Path, *, quick: bool) -> Path:
    """The trim tuned on English parts of speech."""
    from xeval import LocalFolder
    from xeval.finetune.tune import tune
    from xeval.protocol import Protocol

    out = work / "tagger"
    if not out.exists():
        steps = 4 if quick else 400
        tune(
            str(make_trim(model, data, work, quick=quick)),
            out,
            task="pos",
            source=LocalFolder(data, work / "cache"),
            language=PAIR[0],
            protocol=Protocol(
                learning_rate=2e-4, batch_size=16, steps=steps, evaluate_every=steps, max_length=96
            ),
        )
    return out
