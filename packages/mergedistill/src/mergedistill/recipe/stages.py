"""A run's stages: each is a folder that names the digest of what it was made from, and is made again only if that changes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergedistill.errors import StageError
from mergedistill.recipe.language_teachers import (
    TeacherEnsemble,
    choose_teachers,
    needs_ranking,
    teachers_in_use,
)
from mergedistill.recipe.recipe import Recipe, Recording, Teaching
from teacherzoo.atomic_write import remove
from teacherzoo.cache import DIGESTS, MADE, digest_of_values, is_made, made_once, work_dir
from teacherzoo.digests import (
    TOKENIZER_FILES,
    digest_of_arguments,
    digest_of_model,
    digest_of_text,
    keep_digests,
)
from teacherzoo.processes import rank
from teacherzoo.text.words import BITS_PER_BYTE_RULE, FIRST_WORD_RULE, WHOLE_WORD_RULE, WORD_RULE

STAGES = ("rank", "vocabulary", "record", "train", "card")
FACTS = "stage.json"
"""In a stage's folder, what was noted of it."""


def refuse_unfit_stages(until: str, force: str | None) -> None:
    """A stage to end with and one to make anew, or None, that are not there or that do not meet.

    Raises:
        StageError: naming those there are.
    """
    for name in (until, force):
        if name is not None and name not in STAGES:
            raise StageError(f"there is no stage {name!r}: they are {', '.join(STAGES)}.")
    if force is not None and STAGES.index(force) > STAGES.index(until):
        raise StageError(
            f"{force} is to be made anew, but the run ends with {until}, before it; run until {force} or later."
        )


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Attributes:
        name: one of `STAGES`.
        folder: what it makes.
        key: digest of all that it depends on.
    """

    name: str
    folder: Path
    key: str

    @property
    def place(self) -> Path:
        """Its outcome: stages that several recipes share or that resume inside keep a folder for each key."""
        keyed = self.name in ("rank", "record", "train")
        return self.folder / self.key[:12] if keyed else self.folder

    @property
    def checkpoints(self) -> Path:
        """Where an interrupted training goes on."""
        return work_dir(self.place) / "checkpoints"

    @property
    def done(self) -> bool:
        """Whether it is made, of these very inputs."""
        return is_made(self.place, self._inputs)

    @property
    def _inputs(self) -> dict[str, str]:
        return {"stage": self.name, "key": self.key}

    def facts(self) -> dict[str, Any]:
        """What was noted of it when it was done."""
        noted: dict[str, Any] = json.loads((self.place / FACTS).read_text())
        return noted

    def make(self, build: Callable[[Path], dict[str, Any]], *, together: bool = False) -> None:
        """Make it once, see `teacherzoo.cache.made_once`.

        Args:
            build: given a folder, fills it and returns what is to be noted.
            together: whether all processes of a launcher build it together.
        """

        def make(work: Path) -> None:
            folder = work / MADE
            if rank() == 0:
                folder.mkdir()
            facts = build(folder)
            if rank() == 0:
                (folder / FACTS).write_text(json.dumps(self._inputs | facts, indent=1) + "\n")

        made_once(self.place, self._inputs, make, together=together)

    def forget(self) -> None:
        """Have it made anew."""
        for folder in (self.place, work_dir(self.place)):
            remove(folder)


def stages(recipe: Recipe) -> dict[str, Stage]:
    """The stages of a recipe, each keyed by its inputs: the parts of the recipe that bear on it, text and teachers.

    Behind `rank` the keys follow from who teaches what. Where that is not yet known they are empty, and nothing is done.
    """
    out = Path(recipe.out)
    keep_digests(out / DIGESTS)
    first = Stage("rank", out / "rank", _ranking_key(recipe))
    places = {
        "vocabulary": out / "vocabulary",
        "record": signals_root(recipe),
        "train": out / "training",
        "card": out / "student",
    }
    ensembles = known_ensembles(recipe, first)
    keys = dict.fromkeys(places, "") if ensembles is None else _keys(recipe, ensembles)
    keep_digests(out / DIGESTS)
    return {first.name: first} | {
        name: Stage(name, folder, keys[name]) for name, folder in places.items()
    }


def inputs(recipe: Recipe, ensembles: Mapping[str, TeacherEnsemble]) -> dict[str, dict[str, str]]:
    """Digests of texts and teachers; of what is on the Hub `hub:NAME@COMMIT`, without the commit where it is not known."""
    states = recipe.states
    return {
        "texts": {
            language: digest_of_text(language, text.corpus)
            for language, text in recipe.languages.items()
        },
        "teachers": {
            name: digest_of_model(teacher.teacher)
            for name, (teacher, _) in teachers_in_use(recipe, ensembles).items()
        },
        **({"encoder": {states.called: digest_of_model(states.encoder)}} if states else {}),
    }


def known_ensembles(
    recipe: Recipe, first: Stage | None = None
) -> dict[str, TeacherEnsemble] | None:
    """Who teaches each language; None where ranking must come first."""
    if not needs_ranking(recipe):
        return choose_teachers(recipe)
    first = first or Stage("rank", Path(recipe.out) / "rank", _ranking_key(recipe))
    if not first.done:
        return None
    ratings = {
        language: {name: measures["charged"] for name, measures in of_language.items()}
        for language, of_language in first.facts()["ratings"].items()
    }
    return choose_teachers(recipe, ratings)


def ensembles_or_refuse(recipe: Recipe) -> dict[str, TeacherEnsemble]:
    """Who teaches each language.

    Raises:
        StageError: where ranking must come first and has not been run.
    """
    ensembles = known_ensembles(recipe)
    if ensembles is None:
        raise StageError(
            "who teaches what is not known before the ranking; run the recipe until rank."
        )
    return ensembles


def signals_root(recipe: Recipe) -> Path:
    """Where what teachers said is kept: of this run, or shared among several."""
    return Path(recipe.signals or Path(recipe.out) / "signals")


def rating_file(recipe: Recipe, teacher: Teaching, language: str) -> Path:
    """Where the measures of a teacher on a language are kept."""
    key = digest_of_values(
        [
            digest_of_model(teacher.teacher),
            _text(recipe, language),
            recipe.rank.documents,
            recipe.distil.block_length,
            BITS_PER_BYTE_RULE,
        ]
    )
    return signals_root(recipe) / teacher.called / f"{language}-{key[:12]}.rating.json"


def recording_folder(recipe: Recipe, teacher: Teaching, language: str) -> Path:
    """Where what a teacher said of a language is recorded, or with `distil.online` what it will be asked."""
    return (
        signals_root(recipe)
        / teacher.called
        / f"{language}-{_recording(recipe, teacher, language)}"
    )


def _recording(recipe: Recipe, teacher: Teaching, language: str) -> str:
    asked = {"mask_draws", "policy", "rate", "mask_seed", "block_length"}
    if recipe.distil.online:
        terms: Any = recipe.distil.model_dump(include=asked)
    else:
        # Neither where the weights are kept nor the batch decides a signal. The batch's default stands for all, as in older keys.
        batch = Recording.model_fields["tokens"].default
        terms = [
            recipe.distil.model_dump(include={"sampler", "k", "draws", "temperature", *asked}),
            recipe.record.model_dump(exclude={"offload"}) | {"tokens": batch},
            *([WHOLE_WORD_RULE] if recipe.combination(language) == "words" else []),
        ]
    # Masks of whole words, and the numbers of words, follow from the rule. The first one is not in the key, as in older keys.
    rule = [] if WORD_RULE == FIRST_WORD_RULE else [WORD_RULE]
    return digest_of_values(
        [digest_of_model(teacher.teacher), _text(recipe, language), terms, *rule]
    )[:12]


def _ranking_key(recipe: Recipe) -> str:
    return digest_of_values(
        {
            "files": [
                f"{teacher.called}/{rating_file(recipe, teacher, language).name}"
                for language in recipe.languages
                for teacher in recipe.candidates(language)
            ],
            "offload": recipe.record.offload is not None,
        }
    )


def _keys(recipe: Recipe, ensembles: Mapping[str, TeacherEnsemble]) -> dict[str, str]:
    used = teachers_in_use(recipe, ensembles)
    # Lists, for the order of languages and teachers decides what the first of them lends to all.
    vocabulary = digest_of_values(
        {
            "texts": [[language, _text(recipe, language)] for language in recipe.languages],
            "tokenizers": [
                [name, digest_of_model(teacher.teacher, TOKENIZER_FILES)]
                for name, (teacher, _) in used.items()
            ],
            "primary": {language: ensemble.primary for language, ensemble in ensembles.items()},
            "policy": recipe.vocabulary.model_dump(),
        }
    )
    record = digest_of_values(
        {
            name: [_recording(recipe, teacher, language) for language in languages]
            for name, (teacher, languages) in used.items()
        }
    )
    # Of teachers in memory; recordings have it in their own keys.
    precision = recipe.record.precision if recipe.distil.online else "float32"
    train = digest_of_values(
        {
            **({} if precision == "float32" else {"precision": precision}),
            "vocabulary": vocabulary,
            "record": record,
            "ensembles": {
                language: [ensemble.combine, [*ensemble.weights.items()]]
                for language, ensemble in ensembles.items()
            },
            "start": []
            if recipe.student.start == "scratch"
            else [[name, digest_of_model(teacher.teacher)] for name, (teacher, _) in used.items()],
            **recipe.model_dump(include={"distil", "seed"}),
            "student": recipe.student.model_dump() | {"positions": recipe.student.longest_row},
            "train": recipe.train.model_dump(exclude={"checkpoint_every", "evaluate_every"})
            | {"arguments": digest_of_arguments(recipe.train.arguments)},
            **_states(recipe),
        }
    )
    licences = {code: text.licence for code, text in recipe.languages.items() if text.licence}
    card = {"train": train, "figures": BITS_PER_BYTE_RULE}
    return {
        "vocabulary": vocabulary,
        "record": record,
        "train": train,
        "card": digest_of_values(card | ({"licences": licences} if licences else {})),
    }


def _states(recipe: Recipe) -> dict[str, Any]:
    """Nothing where there are none: a key is then what it was before there could be any."""
    if recipe.states is None:
        return {}
    terms = recipe.states.model_dump(exclude={"encoder"})
    return {
        "states": [terms, recipe.record.precision, digest_of_model(recipe.states.encoder)],
    }


def _text(recipe: Recipe, language: str) -> dict[str, Any]:
    text = recipe.languages[language]
    return {
        **text.model_dump(exclude={"corpus", "licence"}),
        "digest": digest_of_text(language, text.corpus),
        "held_out_share": recipe.held_out_share,
    }
