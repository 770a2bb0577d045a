"""vocabmerge: how many pieces a sentence encoder needs for two languages and for six.

Needs `--model FOLDER` and `--data FOLDER`, as `vocabmerge_languages`. Bitext accuracy at 8, 16, 32
and 64 thousand pieces, chosen by the fair rule (`budget`); the last point is the whole model. Texts that a trim segments as the
whole model does have the whole model's vectors, which `vocabmerge_languages` checks.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import mean

from record import Recorder, parser
from trimmed_encoders import (
    LANGUAGE_SETS,
    TranslatedTexts,
    read_options,
    size_of,
    texts_to_choose_by,
    translations,
)

from vocabmerge import VocabularyError, trim

LINES, PAIRS, SIZES = 5_000, 200, (8_192, 16_384, 32_768, 65_536)
QUICK = {"LINES": 200, "PAIRS": 40}


def main() -> None:
    options = read_options(parser(__doc__.splitlines()[0]))
    lines, most = (QUICK["LINES"], QUICK["PAIRS"]) if options.quick else (LINES, PAIRS)
    pieces = int(size_of(options.model)["pieces"])
    sizes = [size for size in SIZES if size < pieces] or [pieces // 2]
    recorder = Recorder("vocabmerge_curve", options)
    for languages in LANGUAGE_SETS:
        pairs = {
            language: translations(options.data, language, most)
            for language in languages
            if language != "en"
        }
        tests = TranslatedTexts(options.model, pairs)
        whole = tests.accuracies(tests.vectors)
        with tempfile.TemporaryDirectory() as scratch:
            files = texts_to_choose_by(
                options.data,
                languages,
                lines,
                Path(scratch) / "texts",
                [side for rows in pairs.values() for pair in rows for side in pair],
            )
            shape = {
                "model": options.model.name,
                "languages": " ".join(languages),
                "lines": lines,
                "pairs": most,
                "rule": "budget",
            }
            for size in sizes:
                out = Path(scratch) / str(size)
                try:
                    trim(options.model, files, out, budget=size)
                except VocabularyError as error:
                    print(f"absent: {' '.join(languages)} at {size} pieces: {error}")
                    continue
                alike = tests.alike(out)
                scores = tests.accuracies(tests.vectors_of_trim(out, alike))
                record_scores(recorder, scores, {**shape, "pieces": size})
                recorder.add(
                    "test sentences segmented as by the whole model",
                    {"all": [100 * float(alike.mean())]},
                    unit="%",
                    shape={**shape, "pieces": size},
                    along="pieces",
                )
            record_scores(recorder, whole, {**shape, "pieces": pieces})
    recorder.close()


def record_scores(
    recorder: Recorder, scores: dict[str, tuple[float, float]], shape: dict[str, object]
) -> None:
    """One point of the curve of each language, and of their mean where there are several."""
    samples = {language: [mean(both)] for language, both in scores.items()}
    if len(samples) > 1:
        samples["mean"] = [mean(value for (value,) in samples.values())]
    recorder.add(
        "bitext accuracy@1 with English, mean of both ways",
        samples,
        unit="%",
        shape=shape,
        along="pieces",
    )


if __name__ == "__main__":
    main()
