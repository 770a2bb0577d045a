"""A run's stages: each is a folder that names the digest of what it was made from, and is made again only if that changes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mergedistill.errors import StageError
from mergedistill.faculty import Faculty, faculties, needs_ranking, teachers_in_use
from mergedistill.recipe import Recipe, Teaching
from teacherzoo.catalogue import find_teacher

STAGES = ("rank", "vocabulary", "record", "train", "card")
_NOTE = "stage.json"


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
        """Where it works: stages that several recipes share or that resume inside keep a folder for each key."""
        keyed = self.name in ("rank", "record", "train")
        return self.folder / self.key[:12] if keyed else self.folder

    @property
    def done(self) -> bool:
        """Whether it is made, from these very inputs."""
        note = self.place / _NOTE
        return note.is_file() and json.loads(note.read_text())["key"] == self.key

    def facts(self) -> dict[str, Any]:
        """What was noted of it when it was done."""
        noted: dict[str, Any] = json.loads((self.place / _NOTE).read_text())
        return noted

    def finish(self, facts: dict[str, Any]) -> None:
        """Say, last of all, that its place is whole."""
        self.place.mkdir(parents=True, exist_ok=True)
        self._note(self.place, facts)

    def _note(self, folder: Path, facts: dict[str, Any]) -> None:
        part = folder / f"{_NOTE}.part"
        part.write_text(json.dumps({"stage": self.name, "key": self.key, **facts}, indent=1) + "\n")
        part.replace(folder / _NOTE)

    def make(self, build: Callable[[Path], dict[str, Any]]) -> None:
        """Build the folder anew beside its place and put it there in one step."""
        work = self.folder.with_name(f".{self.folder.name}.making")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        facts = build(work)
        self._note(work, facts)
        shutil.rmtree(self.folder, ignore_errors=True)
        work.rename(self.folder)


def stages(recipe: Recipe) -> dict[str, Stage]:
    """The stages of a recipe, each keyed by its inputs: the parts of the recipe that bear on it, text and teachers.

    Behind `rank` the keys follow from who teaches what. Where that is not yet known they are empty, and nothing is done.
    """
    out = Path(recipe.out)
    first = Stage("rank", out / "rank", _ranking_key(recipe))
    places = {
        "vocabulary": out / "vocabulary",
        "record": signals_root(recipe),
        "train": out / "training",
        "card": out / "student",
    }
    found = settled(recipe, first)
    keys = dict.fromkeys(places, "") if found is None else _keys(recipe, found)
    return {first.name: first} | {
        name: Stage(name, folder, keys[name]) for name, folder in places.items()
    }


def settled(recipe: Recipe, first: Stage | None = None) -> dict[str, Faculty] | None:
    """Who teaches each language; None where ranking must come first."""
    if not needs_ranking(recipe):
        return faculties(recipe)
    first = first or Stage("rank", Path(recipe.out) / "rank", _ranking_key(recipe))
    if not first.done:
        return None
    ratings = {
        language: {name: its["charged"] for name, its in of_language.items()}
        for language, of_language in first.facts()["ratings"].items()
    }
    return faculties(recipe, ratings)


def settled_or_refuse(recipe: Recipe) -> dict[str, Faculty]:
    """Who teaches each language.

    Raises:
        StageError: where ranking must come first and has not been run.
    """
    found = settled(recipe)
    if found is None:
        raise StageError(
            "who teaches what is not known before the ranking; run the recipe until rank."
        )
    return found


def signals_root(recipe: Recipe) -> Path:
    """Where what teachers said is kept: of this run, or shared among several."""
    return Path(recipe.signals or Path(recipe.out) / "signals")


def rating_file(recipe: Recipe, each: Teaching, language: str) -> Path:
    """Where the measures of a teacher on a language are kept."""
    key = _digest(
        [
            _teacher(each.teacher),
            _text(recipe, language),
            recipe.rank.documents,
            recipe.distil.block_length,
        ]
    )
    return signals_root(recipe) / each.called / f"{language}-{key[:12]}.rating.json"


def recording_folder(recipe: Recipe, each: Teaching, language: str) -> Path:
    """Where what a teacher said of a language is recorded, or with `distil.online` what it will be asked."""
    return signals_root(recipe) / each.called / f"{language}-{_recording(recipe, each, language)}"


def _recording(recipe: Recipe, each: Teaching, language: str) -> str:
    asked = {"draws", "policy", "rate", "mask_seed", "block_length"}
    if recipe.distil.online:
        terms: Any = recipe.distil.model_dump(include=asked)
    else:
        # Where offloading keeps the weights changes no signal.
        terms = [
            recipe.distil.model_dump(include={"k", "temperature", *asked}),
            recipe.record.model_dump(exclude={"offload"}),
        ]
    return _digest([_teacher(each.teacher), _text(recipe, language), terms])[:12]


def _ranking_key(recipe: Recipe) -> str:
    return _digest(
        {
            "files": [
                str(rating_file(recipe, each, language).name)
                for language in recipe.languages
                for each in recipe.candidates(language)
            ],
            "offload": recipe.record.offload,
        }
    )


def _keys(recipe: Recipe, found: Mapping[str, Faculty]) -> dict[str, str]:
    used = teachers_in_use(recipe, found)
    vocabulary = _digest(
        {
            "texts": {language: _text(recipe, language) for language in recipe.languages},
            "tokenizers": {name: _tokenizer(each.teacher) for name, (each, _) in used.items()},
            "leads": {language: faculty.lead for language, faculty in found.items()},
            "policy": recipe.vocabulary.model_dump(),
        }
    )
    record = _digest(
        {
            name: [_recording(recipe, each, language) for language in its]
            for name, (each, its) in used.items()
        }
    )
    train = _digest(
        {
            "vocabulary": vocabulary,
            "record": record,
            "faculties": {language: vars(faculty) for language, faculty in found.items()},
            "start": {}
            if recipe.student.start == "scratch"
            else {name: _teacher(each.teacher) for name, (each, _) in used.items()},
            **recipe.model_dump(include={"student", "distil", "seed"}),
            "train": recipe.train.model_dump(exclude={"checkpoint_every", "evaluate_every"}),
        }
    )
    licences = {code: its.licence for code, its in recipe.languages.items() if its.licence}
    return {
        "vocabulary": vocabulary,
        "record": record,
        "train": train,
        "card": _digest({"train": train} | ({"licences": licences} if licences else {})),
    }


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _text(recipe: Recipe, language: str) -> dict[str, Any]:
    text = recipe.languages[language]
    return {
        **text.model_dump(exclude={"corpus", "licence"}),
        "digest": _content(text.corpus),
        "held_out_share": recipe.held_out_share,
    }


def _content(source: str) -> str:
    """The digest of a local corpus; a data set on the Hub stands for itself."""
    path = Path(source)
    if not path.exists():
        return f"hub:{source}"
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return _files(files)


def _teacher(name: str) -> str:
    """The digest of a teacher's files; a name on the Hub stands for itself."""
    return _model_files(name, ("*.safetensors", "config.json", *_TOKENIZER_FILES))


def _tokenizer(name: str) -> str:
    return _model_files(name, _TOKENIZER_FILES)


_TOKENIZER_FILES = ("tokenizer*.json", "vocab.txt", "*.model")


def _model_files(name: str, patterns: tuple[str, ...]) -> str:
    folder = Path(find_teacher(name))
    if not folder.is_dir():
        return f"hub:{folder}"
    return _files(sorted(file for pattern in patterns for file in folder.glob(pattern)))


def _files(files: list[Path]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        if file.is_file():
            state = file.stat()
            digest.update(f"{file.name}:{state.st_size}\n".encode())
            digest.update(_file(file, state.st_size, state.st_mtime_ns))
    return digest.hexdigest()


@cache
def _file(file: Path, *state: int) -> bytes:  # noqa: ARG001  # a file in another state is read again
    """Of a file's bytes; read once for each time that it changes."""
    digest = hashlib.blake2b(digest_size=16)
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.digest()
