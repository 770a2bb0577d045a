"""How far tuning has taken a model's vectors from what they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bistil.encoders.closeness import compare_vectors, interval
from teacherzoo.progress import ProgressCallback, no_progress
from vocabmerge import Kind, read_layout
from vocabmerge.language_texts import LanguageText
from xeval import Protocol
from xeval.sentences.vectors import open_vectors

LINES = 200


@dataclass(frozen=True, kw_only=True)
class VectorsKept:
    """How near a tuned model's vectors are to the untuned one's in one language.

    Attributes:
        lines: that were compared.
        measures: name to (mean, low, high) in points of 100, the latter two the ends of the 95 % interval.
    """

    lines: int
    measures: Mapping[str, tuple[float, float, float]]

    def __str__(self) -> str:
        return ", ".join(
            f"{measure} {mean:.1f} ({low:.1f} to {high:.1f})"
            for measure, (mean, low, high) in self.measures.items()
        )


def vectors_kept(
    untuned: Path,
    tuned: Path,
    files: Mapping[str, Sequence[Path]],
    *,
    prompt: str | None,
    watch: ProgressCallback,
) -> dict[str, VectorsKept]:
    """By language cosines of a tuned model's vectors to the untuned one's, and the share of neighbours that are the same.

    Vectors are a sentence encoder's own, of other models the mean of their last hidden states.

    Args:
        untuned: the model's folder.
        tuned: the folder of the same model after its tuning.
        files: per language text, of which up to `LINES` different lines are compared.
        prompt: put in front of each; None for the folder's own.
        watch: told (done, total, what).
    """
    layer = None if read_layout(untuned).kind is Kind.SENTENCE else -1
    models = [open_vectors(str(folder), Protocol(text_prompt=prompt, layer=layer)) for folder in (untuned, tuned)]  # fmt: skip
    kept = {}
    for number, (language, sources) in enumerate(files.items()):
        watch(number, len(files), f"comparing the tuned teacher's vectors in {language}")
        read = (line.replace("\t", " ").strip() for line in LanguageText(sources, lines=LINES))
        lines = [line for line in dict.fromkeys(read) if line]
        if len(lines) < 2:  # nothing is near anything
            continue
        before, after = (model.encode(lines, "text", no_progress, "")[0] for model in models)
        kept[language] = VectorsKept(
            lines=len(lines),
            measures={
                measure: (100 * float(items.mean()), *interval(items, 0))
                for measure, items in compare_vectors(before, after).items()
            },
        )
    return kept
