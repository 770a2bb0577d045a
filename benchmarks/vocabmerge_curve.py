"""vocabmerge: how many pieces a sentence encoder needs for two languages and for six.

Needs `--model FOLDER` and `--data FOLDER`, as `vocabmerge_languages`. Bitext accuracy at 8, 16, 32
and 64 thousand pieces, chosen by the fair rule (`budget`) from 100,000 lines of each language, which is what a trim reads unless told
otherwise, and from 20,000; the last point is the whole model. Texts that a trim segments as the
whole model does have the whole model's vectors, which `vocabmerge_languages` checks.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from record import Recorder, parser
from trimmed_encoders import (
    LANGUAGE_SETS,
    TranslatedTexts,
    read_options,
    size_of,
    texts_to_choose_by,
    translations,
)

from vocabmerge import VocabularyError, read_layout, trim_vocabulary
from vocabmerge.encoder_folder.layout import named_ids
from vocabmerge.language_texts import language_texts
from vocabmerge.trim.folder import open_vocabulary_in, write_cut
from vocabmerge.trim.segmented_text import SegmentedText

LINES, PAIRS, SIZES = (100_000, 20_000), 400, (8_192, 16_384, 32_768, 65_536)
QUICK = {"LINES": (200,), "PAIRS": 40}


def main() -> None:
    options = read_options(parser(__doc__.splitlines()[0]))
    by_lines, most = (QUICK["LINES"], QUICK["PAIRS"]) if options.quick else (LINES, PAIRS)
    recorder = Recorder("vocabmerge_curve", options)
    for languages in LANGUAGE_SETS:
        pairs = {
            language: translations(options.data, language, most)
            for language in languages
            if language != "en"
        }
        tests = TranslatedTexts(options.model, pairs)
        shape = {
            "model": options.model.name,
            "languages": " ".join(languages),
            "pairs": most,
            "rule": "budget",
        }
        means: dict[int, dict[str, list[float]]] = {}
        for lines in by_lines:
            for size, accuracy in record_curve(recorder, options, tests, lines, shape).items():
                means.setdefault(size, {})[f"{lines:,} lines"] = [accuracy]
        for size, samples in means.items():
            recorder.add(
                "mean of the languages' bitext accuracy, by lines of text",
                samples,
                unit="%",
                shape={**shape, "pieces": size},
                along="pieces",
            )
    recorder.close()


def record_curve(
    recorder: Recorder,
    options: Any,
    tests: TranslatedTexts,
    lines: int,
    shape: Mapping[str, object],
) -> dict[int, float]:
    """The curve of some languages, pieces chosen by so many lines of each; pieces to the mean of the languages."""
    pieces = int(size_of(options.model)["pieces"])
    sizes = [size for size in SIZES if size < pieces] or [pieces // 2]
    shape = {**shape, "lines": lines}
    means = {}
    with tempfile.TemporaryDirectory() as scratch:
        files = texts_to_choose_by(
            options.data,
            str(shape["languages"]).split(),
            lines,
            Path(scratch) / "texts",
            [side for rows in tests.pairs.values() for pair in rows for side in pair],
        )
        cut = trims_by_budget(options.model, files)
        for size in sizes:
            out = Path(scratch) / str(size)
            try:
                cut(size, out)
            except VocabularyError as error:
                print(f"absent: {shape['languages']} at {size} pieces: {error}")
                continue
            alike = tests.alike(out)
            scores = tests.accuracies(tests.vectors_of_trim(out, alike))
            means[size] = record_scores(recorder, scores, {**shape, "pieces": size})
            recorder.add(
                "test sentences segmented as by the whole model",
                {"all": [100 * float(alike.mean())]},
                unit="%",
                shape={**shape, "pieces": size},
                along="pieces",
            )
            shutil.rmtree(out)
    whole = tests.accuracies(tests.vectors)
    means[pieces] = record_scores(recorder, whole, {**shape, "pieces": pieces})
    return means


def trims_by_budget(
    model: Path, files: Mapping[str, Sequence[Path]]
) -> Callable[[int, Path], None]:
    """What `vocabmerge.trim(model, files, out, budget=size)` writes, but for report and card; the text is segmented once for all sizes."""
    layout = read_layout(model)
    vocabulary, segmenter = open_vocabulary_in(layout)
    texts = {
        language: SegmentedText(vocabulary, text, segmenter=segmenter)
        for language, text in language_texts(files).items()
    }
    counts = {language: text.counts for language, text in texts.items()}
    seen = {language: text.characters for language, text in texts.items()}
    prompts = [number for text in layout.prompts.values() for number in segmenter.encode(text).ids]
    protect = [*named_ids(layout), *prompts]

    def cut(size: int, out: Path) -> None:
        trimmed = trim_vocabulary(vocabulary, counts, budget=size, seen=seen, protect=protect)
        out.mkdir()
        write_cut(layout, trimmed, out)

    return cut


def record_scores(
    recorder: Recorder, scores: dict[str, tuple[float, float]], shape: dict[str, object]
) -> float:
    """One point of the curve of each language, and of their mean where there are several; their mean."""
    samples = {language: [mean(both)] for language, both in scores.items()}
    overall = mean(value for (value,) in samples.values())
    if len(samples) > 1:
        samples["mean"] = [overall]
    recorder.add(
        "bitext accuracy@1 with English, mean of both ways",
        samples,
        unit="%",
        shape=shape,
        along="pieces",
    )
    return overall


if __name__ == "__main__":
    main()
