"""What the demo experiments with: its languages and models, and where everything lies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

REAL_LANGUAGES = ("en", "de", "hi", "tr")
STEPS = {"teacher": 600, "multilingual": 600, "student": 500, "extract": 400, "tagging": 100}
_QUICK = 10  # of these one step in so many
_WORDS = 150_000  # of the toy world, or a sixth of them


@dataclass(frozen=True)
class Experiment:
    """Who is in it.

    Attributes:
        out: where everything goes.
        data: a folder in the layout that `xeval` reads.
        teachers: the languages of the monolingual teachers.
        languages: of the multilingual teacher.
        pair: of the bilingual student: the source, on which tasks are learnt, and the target.
        vocabulary: pieces of a monolingual teacher.
        made_up: whether it is the toy world's, whose entropy is known.
        seed: of every training; the text is the same for all.
        quick: whether all train for a tenth of the steps, in the toy world on a sixth of the text: only to see the story go through.
    """

    out: Path
    data: Path
    teachers: tuple[str, ...]
    languages: tuple[str, ...]
    pair: tuple[str, str]
    vocabulary: int
    made_up: bool
    seed: int = 0
    quick: bool = False

    def steps(self, training: str) -> int:
        """Of one of the trainings in `STEPS`."""
        return STEPS[training] // (_QUICK if self.quick else 1)

    @property
    def source(self) -> str:
        """The language with labels."""
        return self.pair[0]

    @property
    def judged(self) -> Path:
        """What the judge reads: the labelled data, and of the text what no model has seen."""
        return self.out / "judged"

    @property
    def floors(self) -> Path:
        """Where the bits per byte stand that no model can beat."""
        return self.out / "floors.json"

    @property
    def extracted(self) -> Path:
        """The bilingual student."""
        return self.out / "bilingual"

    def tuned(self, model: str) -> Path:
        """Where a model of the table lies that was tuned to tag."""
        return self.out / "tuned" / model

    @property
    def results(self) -> Path:
        """What the judge found."""
        return self.out / "results.jsonl"

    @property
    def costs(self) -> Path:
        """What models cost."""
        return self.out / "costs.jsonl"

    def corpus(self, language: str) -> Path:
        """A language's text."""
        return next((self.data / "corpora").glob(f"{language}.txt*"))

    def models(self) -> dict[str, Path]:
        """All models of the table."""
        return {
            **{f"teacher-{code}": self.out / f"teacher-{code}" for code in self.teachers},
            "multilingual": self.out / "multilingual",
            "plain": self.out / "plain",
            "merged": self.out / "merged",
            "bilingual": self.extracted,
        }

    def known_to(self, model: str) -> tuple[str, ...]:
        """The languages that a model of the table was trained on."""
        if model.startswith("teacher-"):
            return (model.removeprefix("teacher-"),)
        if model == "bilingual":
            return self.pair
        return self.languages if model == "multilingual" else self.teachers


def toy_world(out: Path, *, seed: int = 0, quick: bool = False) -> Experiment:
    """Four made-up languages, of which two are kin and one is written in another script."""
    from toyworld import write_world

    data = out / "data"
    if not data.exists():
        write_world(
            data,
            languages=["qav", "qov", "qyr", "qag"],
            words=_WORDS // (6 if quick else 1),
            rows={"train": 600, "dev": 100, "test": 300},
            share=0.1,
            frames=40,
            tasks=["ud"],
        )
    return Experiment(
        out=out,
        data=data,
        teachers=("qav", "qov", "qyr"),
        languages=("qav", "qov", "qyr", "qag"),
        pair=("qav", "qov"),
        vocabulary=2500,
        made_up=True,
        seed=seed,
        quick=quick,
    )


def real_text(out: Path, data: Path, *, seed: int = 0, quick: bool = False) -> Experiment:
    """English, its teachers and three more, on real text."""
    return Experiment(
        out=out,
        data=data,
        teachers=("en", "de", "hi"),
        languages=REAL_LANGUAGES,
        pair=("en", "de"),
        vocabulary=4000,
        made_up=False,
        seed=seed,
        quick=quick,
    )
