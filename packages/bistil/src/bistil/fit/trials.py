"""A shape on trial: made by `extract`, trained for some steps or none, and judged; what was judged is kept by its contents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bistil.extract.config import Extraction
from bistil.extract.run import extract
from bistil.fit.config import Fitting
from bistil.fit.judge import Judge, Worth
from bistil.student.shape import Shape
from teacherzoo.cache import MADE, digest_of_values, made_once
from teacherzoo.progress import ProgressCallback, no_progress
from vocabmerge import Kind

_FILE = "trial.json"
_LEAST_SHARE = 0.03


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One shape after some steps.

    Attributes:
        shape: of the student.
        steps: of training.
        learning_rate: at its peak; 0 where nothing was trained.
        worth: of it.
        ranked: what shapes are ranked by, of that.
    """

    shape: Shape
    steps: int
    learning_rate: float
    worth: Worth
    ranked: float


class Trials:
    """Makes students of one model by their shape.

    Args:
        model: the teacher, as `extract` takes it.
        kind: of it.
        whole: its shape.
        lean: a folder of it with the pieces that the text needs, of which shapes with no more are cut.
        lean_pieces: how many these are.
        files: language to text, the source first.
        fitting: how students are trained.
        judge: of what they are worth.
        inputs: all else that decides a trial: digests of model and text.
        cache: where trimmed teachers, text and judgements stay.
    """

    def __init__(
        self,
        model: str | Path,
        kind: Kind,
        whole: Shape,
        lean: Path,
        lean_pieces: int,
        files: Mapping[str, Path],
        *,
        fitting: Fitting,
        judge: Judge,
        inputs: Mapping[str, Any],
        cache: Path,
    ) -> None:
        self._model, self._kind, self._whole, self._files = model, kind, whole, files
        self._lean, self._lean_pieces = lean, lean_pieces
        self._fitting, self._judge, self._cache = fitting, judge, cache
        self._inputs = {**inputs, "judge": dict(judge.inputs)}

    def trial(self, shape: Shape, steps: int, *, watch: ProgressCallback = no_progress) -> Trial:
        """Make, train and judge a shape, unless that was done before.

        Args:
            shape: of the student.
            steps: of training; 0 cuts the teacher and trains nothing.
            watch: told (done, total, what).
        """
        extraction = self.extraction(shape, steps)
        inputs = {**self._inputs, "extraction": extraction.to_json()}

        def make(work: Path) -> None:
            model = self._lean if shape.pieces <= self._lean_pieces else self._model
            self._extract(model, extraction, work / "student", watch)
            worth = self._judge.worth(work / "student")
            (work / MADE).mkdir()
            text = json.dumps(worth.to_json())
            (work / MADE / _FILE).write_text(text, encoding="utf-8")

        place = self._cache / "trials" / digest_of_values(inputs)[:16]
        place.parent.mkdir(parents=True, exist_ok=True)
        made = made_once(place, inputs, make, watch=watch)
        stated = json.loads((made / _FILE).read_text(encoding="utf-8"))
        stated["interval"] = {name: tuple(ends) for name, ends in stated["interval"].items()}
        rate = extraction.learning_rate if steps else None
        worth = Worth(**stated)
        return Trial(
            shape=shape,
            steps=steps,
            learning_rate=rate or 0.0,
            worth=worth,
            ranked=worth.ranked(self._judge.by),
        )

    def make(self, shape: Shape, steps: int, out: Path, *, watch: ProgressCallback) -> None:
        """Extract a student of a shape into a folder, unless it is there."""
        self._extract(self._model, self.extraction(shape, steps), out, watch)

    def _extract(
        self, model: str | Path, extraction: Extraction, out: Path, watch: ProgressCallback
    ) -> None:
        if out.exists():
            return
        source, *targets = self._files
        extract(
            model,
            self._files,
            out,
            source=source,
            targets=targets,
            extraction=extraction,
            cache_dir=self._cache / "text",
            watch=watch,
        )

    def _rate(self, shape: Shape) -> float:
        """The kind's, times the share of the whole model's worth that the untrained cut has lost.

        Adam's steps are as long as the rate in every weight, whatever is left to learn: at a rate that suits a student which has
        everything to learn, one that is cut near the whole model loses in its first steps what it had.
        """
        usual = Extraction().decided(self._kind).learning_rate
        assert usual is not None
        lost = 1 - self.trial(shape, 0).worth.mean / 100
        return usual * float(f"{min(1.0, max(lost, _LEAST_SHARE)):.2g}")

    def extraction(self, shape: Shape, steps: int) -> Extraction:
        """How a student of a shape is extracted."""
        whole = self._whole
        narrow = shape.width != whole.width
        asked = self._fitting
        rate = asked.learning_rate
        if steps and rate is None:
            rate = self._rate(shape)
        return asked.extraction(
            layers=shape.layers,
            width=shape.width if narrow else None,
            feed_forward=None if shape.feed_forward == whole.feed_forward else shape.feed_forward,
            heads=None if shape.heads == whole.heads else shape.heads,
            units=asked.units if narrow or shape.feed_forward != whole.feed_forward else None,
            budget=shape.pieces,
            steps=steps,
            checkpoint_every=max(50, steps // 5),
            learning_rate=rate,
        )
