"""A run's stages: each is a folder that names the digest of what it was made from, and is made again only if that changes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergedistill.recipe import Recipe
from teacherzoo.catalogue import find_teacher

STAGES = ("vocabulary", "record", "train", "card")
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
    def done(self) -> bool:
        """Whether it is made, from these very inputs."""
        note = self.folder / _NOTE
        return note.is_file() and json.loads(note.read_text())["key"] == self.key

    def finish(self, facts: dict[str, Any]) -> None:
        """Say, last of all, that the folder is whole."""
        part = self.folder / f"{_NOTE}.part"
        part.write_text(json.dumps({"stage": self.name, "key": self.key, **facts}, indent=1) + "\n")
        part.replace(self.folder / _NOTE)

    def make(self, build: Callable[[Path], dict[str, Any]]) -> None:
        """Build the folder anew beside its place and put it there in one step."""
        work = self.folder.with_name(f".{self.folder.name}.making")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        facts = build(work)
        Stage(self.name, work, self.key).finish(facts)
        shutil.rmtree(self.folder, ignore_errors=True)
        work.rename(self.folder)


def stages(recipe: Recipe) -> dict[str, Stage]:
    """The stages of a recipe, each keyed by its inputs: the parts of the recipe that bear on it, text and teachers."""
    out = Path(recipe.out)
    text = {
        code: {**its.model_dump(exclude={"corpus"}), "digest": _content(its.corpus)}
        for code, its in recipe.languages.items()
    }
    taught = [{**each.model_dump(), "digest": _teacher(each.teacher)} for each in recipe.teachers]
    common = {"languages": text, "teachers": taught, "held_out_share": recipe.held_out_share}
    vocabulary = _digest({**common, "vocabulary": recipe.vocabulary.model_dump()})
    recorded = recipe.distil.model_dump(
        include={"k", "temperature", "draws", "policy", "rate", "mask_seed", "block_length"}
    )
    asked = recipe.record.model_dump(exclude={"offload"})  # it changes no signal
    record = _digest({**common, "recorded": recorded, "asked": asked})
    train = _digest(
        {
            "vocabulary": vocabulary,
            "record": record,
            **recipe.model_dump(include={"student", "distil", "train", "seed"}),
        }
    )
    return {
        "vocabulary": Stage("vocabulary", out / "vocabulary", vocabulary),
        "record": Stage("record", out / "signals", record),
        "train": Stage("train", out / "training", train),
        "card": Stage("card", out / "student", _digest({"train": train})),
    }


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _content(source: str) -> str:
    """The digest of a local corpus; a data set on the Hub stands for itself."""
    path = Path(source)
    if not path.exists():
        return f"hub:{source}"
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return _files(files)


def _teacher(name: str) -> str:
    """The digest of a teacher's files; a name on the Hub stands for itself."""
    folder = Path(find_teacher(name))
    if not folder.is_dir():
        return f"hub:{folder}"
    wanted = ("*.safetensors", "config.json", "tokenizer*.json", "vocab.txt", "*.model")
    return _files(sorted(file for pattern in wanted for file in folder.glob(pattern)))


def _files(files: list[Path]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        if file.is_file():
            digest.update(f"{file.name}:{file.stat().st_size}\n".encode())
            with file.open("rb") as stream:
                while chunk := stream.read(1 << 22):
                    digest.update(chunk)
    return digest.hexdigest()
