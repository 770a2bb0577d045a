"""vocabmerge: what a sentence encoder keeps when it is trimmed to two languages and to six.

Needs `--model FOLDER` (multilingual-e5-small: texts begin with its prompt) and `--data FOLDER`. Pieces are chosen by 100,000
lines of each language's corpus, none of which is a line of the test pairs; a rule keeps pieces for 99.9 % of the tokens of
every language. On all test pairs (Tatoeba, with English: 1,000 a language, 390 of Swahili, so that one sentence one way is 0.05 and
0.13 points): whether vectors are bit-equal wherever the text is segmented as
before, in the same batches; how often the nearest sentence by cosine is the translation; tokens. English alone is cut to
16,384 pieces as well.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from record import Recorder, parser
from trimmed_encoders import (
    LANGUAGE_SETS,
    PROMPTS,
    SentenceVectors,
    TranslatedTexts,
    read_options,
    segmented,
    size_of,
    texts_to_choose_by,
    translations,
)

from vocabmerge import trim

LINES, PAIRS, COVERAGE, TOP = 100_000, 1_000, 0.999, 16_384
QUICK = {"LINES": 200, "PAIRS": 40}
POINTS = 0.2  # of accuracy that may go


def main() -> None:
    options = read_options(parser(__doc__.splitlines()[0]))
    lines, most = (QUICK["LINES"], QUICK["PAIRS"]) if options.quick else (LINES, PAIRS)
    pairs = {
        language: translations(options.data, language, most)
        for language in dict.fromkeys(sum(LANGUAGE_SETS, ()))
        if language != "en"
    }
    tests = [side for rows in pairs.values() for pair in rows for side in pair]
    recorder = Recorder("vocabmerge_languages", options)
    with tempfile.TemporaryDirectory() as scratch:
        texts = texts_to_choose_by(
            options.data,
            dict.fromkeys(sum(LANGUAGE_SETS, ())),
            lines,
            Path(scratch) / "texts",
            tests,
        )
        for languages in LANGUAGE_SETS:
            chosen = {language: pairs[language] for language in languages if language != "en"}
            out = Path(scratch) / "-".join(languages)
            report = trim(
                options.model,
                {language: texts[language] for language in (*languages, PROMPTS)},
                out,
                coverage=COVERAGE,
            )
            shape = {
                "model": options.model.name,
                "languages": " ".join(languages),
                "lines": lines,
                "coverage": COVERAGE,
            }
            record_sizes(recorder, options.model, out, report, shape, {})
            record_tokens(recorder, options.model, out, chosen, shape)
            record_vectors(recorder, options.model, out, chosen, shape)
        out = Path(scratch) / "top"
        report = trim(options.model, {key: texts[key] for key in ("en", PROMPTS)}, out, top=TOP)
        shape = {"model": options.model.name, "languages": "en", "lines": lines, "top": TOP}
        record_sizes(
            recorder, options.model, out, report, shape, {"coverage": 99.0, "tokens": 1.02}
        )
    recorder.close()


def record_sizes(
    recorder: Recorder,
    model: Path,
    out: Path,
    report: Mapping[str, Any],
    shape: Mapping[str, object],
    bars: Mapping[str, float],
) -> None:
    """Pieces and weights, and what the report says of the text that the pieces were chosen by."""
    before, after = size_of(model), size_of(out)
    for what, unit in (("pieces", ""), ("MiB", "MiB")):
        recorder.add(
            {"pieces": "pieces", "MiB": "weights"}[what],
            {"whole": [before[what]], "trimmed": [after[what]]},
            unit=unit,
            floor="whole",
            shape=shape,
        )
    rows = {key: row for key, row in report["languages"].items() if key != PROMPTS}
    covered = {language: [100 * row["coverage"]] for language, row in rows.items()}
    goal = bars.get("coverage", 100 * shape.get("coverage", 0))
    recorder.add(
        "tokens of the text whose piece stayed",
        covered,
        unit="%",
        bar=dict.fromkeys(covered, goal) if goal else None,
        at_least=True,
        shape=shape,
    )
    for language, row in rows.items():
        recorder.add(
            f"tokens per word of the text, {language}",
            {
                "whole": [row["tokens_per_word_before"]],
                "trimmed": [row["tokens_per_word_after"]],
            },
            unit="",
            floor="whole",
            bar={"trimmed": bars["tokens"]} if bars else None,
            shape=shape,
        )


def record_tokens(
    recorder: Recorder,
    model: Path,
    out: Path,
    pairs: Mapping[str, Sequence[tuple[str, str]]],
    shape: Mapping[str, object],
) -> None:
    """Tokens per word of test sentences, which took no part in the choice of pieces."""
    texts = {language: [pair[0] for pair in rows] for language, rows in pairs.items()}
    texts["en"] = [pair[1] for rows in pairs.values() for pair in rows]
    for language, sentences in texts.items():
        words = sum(len(sentence.split()) for sentence in sentences)
        tokens = {
            name: sum(len(row) for row in segmented(folder, sentences, special=False)) / words
            for name, folder in (("whole", model), ("trimmed", out))
        }
        recorder.add(
            f"tokens per word of test sentences, {language}",
            {name: [value] for name, value in tokens.items()},
            unit="",
            floor="whole",
            shape=shape,
        )


def record_vectors(
    recorder: Recorder,
    model: Path,
    out: Path,
    pairs: dict[str, list[tuple[str, str]]],
    shape: Mapping[str, object],
) -> None:
    """Vectors of texts segmented alike, in the same batches; bitext accuracy of all."""
    tests = TranslatedTexts(model, pairs)
    alike = tests.alike(out)
    texts = [text for text, same in zip(tests.texts, alike, strict=True) if same]
    before, after = (SentenceVectors(folder)(texts) for folder in (model, out))
    equal = (before == after).all(axis=1)
    recorder.add(
        "texts with bit-equal vectors, of those segmented alike",
        {
            f"{equal.sum()} of {len(texts)}, of {len(tests.texts)} texts": [
                100 * float(equal.mean())
            ]
        },
        unit="%",
        bar={f"{equal.sum()} of {len(texts)}, of {len(tests.texts)} texts": 100.0},
        at_least=True,
        shape=shape,
    )
    vectors = tests.vectors_of_trim(out, alike)
    whole, trimmed = tests.accuracies(tests.vectors), tests.accuracies(vectors)
    lost = {}
    for language in pairs:
        scores = {"whole": mean(whole[language]), "trimmed": mean(trimmed[language])}
        lost[language] = abs(scores["whole"] - scores["trimmed"])
        recorder.add(
            f"bitext accuracy@1, both ways, {language} and en, {len(pairs[language])} pairs",
            {name: [score] for name, score in scores.items()},
            unit="%",
            shape=shape,
        )
    changes = {"mean of languages": abs(mean(map(mean, whole.values())) - mean(map(mean, trimmed.values()))), **lost}  # fmt: skip
    recorder.add(
        "change of bitext accuracy",
        {name: [points] for name, points in changes.items()},
        unit="points",
        bar=dict.fromkeys(changes, POINTS),
        shape=shape,
    )


if __name__ == "__main__":
    main()
