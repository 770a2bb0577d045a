"""What a trim says of itself: the rule, the pieces, each language before and after, and what looks wrong."""

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vocabmerge.progress import ProgressCallback
from vocabmerge.text_warnings import text_warnings
from vocabmerge.trim.more_lines import more_lines
from vocabmerge.trim.segmentation_change import segmentation_change
from vocabmerge.trim.segmented_text import SegmentedText
from vocabmerge.trim.trim import Trim

_LIBRARIES = ("vocabmerge", "tokenizers", "numpy", "safetensors")


def trim_report(
    cut: Trim,
    segmented: Mapping[str, SegmentedText],
    *,
    source: str | Path,
    base: Path,
    watch: ProgressCallback,
) -> dict[str, Any]:
    """The report, but for the model's part.

    Args:
        cut: of the vocabulary.
        segmented: each language's text under the old vocabulary.
        source: what was asked for.
        base: where it lies here; the report does not say.
        watch: told how many languages are compared.
    """
    languages, warnings = {}, []
    changes = more_lines(cut, {language: text.halves for language, text in segmented.items()})
    segmenter = cut.after.segmenter()
    for number, (language, text) in enumerate(segmented.items()):
        watch(number, len(segmented), "languages compared")
        change = segmentation_change(text, cut.before, cut.after, cut.new_ids, segmenter=segmenter)
        languages[language] = {
            **change.as_record(),
            "coverage": cut.coverage[language],
            "more_lines": changes[language].as_record() if changes else None,
        }
        warnings += text_warnings(
            language,
            cut.characters.scripts[language],
            unknown=change.unknown_before,
            words=change.words,
        )
    fetched = Path(source) != base
    return {
        "format": "vocabmerge-trim/2",
        "source": cut.before.name,
        "base": {"hub": str(source) if fetched else None, "commit": base.name if fetched else None},
        "rule": cut.rule,
        "pieces": {
            "before": len(cut.before),
            "after": len(cut.kept),
            "always": cut.always,
            "ancestors": cut.ancestors,
        },
        "characters": cut.characters.as_record(),
        "languages": languages,
        "warnings": warnings,
        "fair_bound": cut.bound,
        "map": cut.map.counts,
        "digests": {"before": cut.before.digest, "after": cut.after.digest},
        "versions": library_versions(),
    }


def library_versions() -> dict[str, str]:
    """Of the libraries on which the bytes of a trim depend."""
    return {name: importlib.metadata.version(name) for name in _LIBRARIES}
