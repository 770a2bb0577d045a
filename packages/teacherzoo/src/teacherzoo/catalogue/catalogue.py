"""The catalogue: public masked-LM teachers, what is certain about each, and how a name becomes a model."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from teacherzoo.errors import TeacherError
from teacherzoo.nearest import nearest
from teacherzoo.yaml_values import values_of

Family = Literal["wordpiece", "unigram", "bpe"]
HeadKind = Literal["masked-lm", "discriminator"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is certain about one public teacher; None or empty where it is not.

    Attributes:
        name: the short name that recipes use.
        hub: `owner/model` on the Hub.
        languages: ISO 639 codes that its documentation lists.
        language_count: how many languages, where no list is certain.
        licence: SPDX identifier.
        family: of its tokenizer's model.
        vocabulary: its number of pieces.
        cased: whether it tells upper from lower case.
        head: what its published weights end in; only `masked-lm` can teach.
        parameters: in millions.
        citation: where it is described.
    """

    name: str
    hub: str
    languages: tuple[str, ...] = ()
    language_count: int | None = None
    licence: str | None = None
    family: Family | None = None
    vocabulary: int | None = None
    cased: bool | None = None
    head: HeadKind | None = None
    parameters: float | None = None
    citation: str | None = None

    @property
    def multilingual(self) -> bool:
        """Whether it knows more than one language."""
        return len(self.languages) != 1


def read_catalogue(file: Path | None = None) -> tuple[Entry, ...]:
    """The entries of the catalogue, or of a file like it, checked.

    Raises:
        TeacherError: naming the entry, the field, what was expected and what stands there.

    Example:
        >>> [entry.hub for entry in read_catalogue() if entry.languages == ("tr",)]
        ['dbmdz/bert-base-turkish-cased']
    """
    if file is None:
        return _own_catalogue()
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TeacherError(f"{file}: the catalogue cannot be read: {error}") from error
    return _parse(text, str(file))


def find_teacher(name: str) -> str:
    """What `load_teacher` takes for a name in a recipe: a catalogue name becomes its Hub name, all else stays itself.

    Raises:
        TeacherError: for an entry whose published weights cannot do masked LM.

    Example:
        >>> find_teacher("xlm-r-base"), find_teacher("./my-teacher")
        ('FacebookAI/xlm-roberta-base', './my-teacher')
    """
    entry = next((entry for entry in read_catalogue() if name in (entry.name, entry.hub)), None)
    if entry is None:
        return name
    if entry.head == "discriminator":
        raise TeacherError(
            f"{name}: its published weights end in a discriminator, which cannot say which token stands behind a "
            "mask; choose a teacher whose head is 'masked-lm' (`teacherzoo list`)."
        )
    return entry.hub


def catalogue_entry(name: str) -> Entry:
    """The entry of that name or Hub name.

    Raises:
        TeacherError: where there is none, with the nearest name.
    """
    entries = read_catalogue()
    for entry in entries:
        if name in (entry.name, entry.hub):
            return entry
    raise TeacherError(
        f"the catalogue has no teacher {name!r}{nearest(name, [entry.name for entry in entries])}; "
        "`teacherzoo list` shows all of them, and a local folder needs no entry."
    )


def local_folder(name: str | Path) -> Path | None:
    """The model folder of that path; None for what can only be a name in the catalogue or on the Hub.

    Raises:
        TeacherError: for a path where there is nothing, and for a folder without a model. `models/bert` is a path where there
            is a folder `models`; the Hub is never asked for a mistyped path.
    """
    folder = Path(name)
    if folder.is_dir():
        # Of a sentence encoder in the older layout the configuration lies in a folder below.
        if not any((folder / file).is_file() for file in ("config.json", "modules.json")):
            raise TeacherError(
                f"{name}: the folder has no config.json; name a Hugging Face model folder."
            )
        return folder
    if isinstance(name, Path) or is_local_path(name) or name.count("/") > 1:
        raise TeacherError(
            f"{name}: there is no such folder; name a model folder, or a model of the catalogue (`teacherzoo list`) or the Hub."
        )
    return None


def is_local_path(name: str) -> bool:
    """Whether a name can only be meant as a path: by how it begins, or because its first part is a folder here."""
    return name.startswith((".", "/", "~")) or ("/" in name and Path(name).parent.is_dir())


@cache
def _own_catalogue() -> tuple[Entry, ...]:
    return _parse(
        (files("teacherzoo.catalogue") / "catalogue.yaml").read_text(encoding="utf-8"), "catalogue"
    )


def _parse(text: str, where: str) -> tuple[Entry, ...]:
    try:
        rows = values_of(text)
    except yaml.YAMLError as error:
        raise TeacherError(f"{where}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise TeacherError(f"{where}: expected a list of entries, each `name: …, hub: …`.")
    entries = [_entry(row, f"{where}, entry {number}") for number, row in enumerate(rows, start=1)]
    for key in ("name", "hub"):
        seen: set[str] = set()
        for entry in entries:
            value = getattr(entry, key)
            if value in seen:
                raise TeacherError(f"{where}: {key} {value!r} stands twice; remove one of the two.")
            seen.add(value)
    return tuple(entries)


def _entry(row: dict[str, Any], where: str) -> Entry:
    known = [field.name for field in fields(Entry)]
    if "name" in row:
        where = f"{where} ({row['name']})"
    for key in row:
        if key not in known:
            there = f" (the fields are {', '.join(known)})"
            raise TeacherError(
                f"{where}: unknown field {key!r}{nearest(str(key), known) or there}."
            )
    for key in ("name", "hub"):
        if key not in row:
            raise TeacherError(f"{where}: the field {key!r} is missing.")
    for key, value in row.items():
        expected = _EXPECTED[key]
        if not _holds(key, value):
            raise TeacherError(f"{where}: {key} must be {expected}, got {value!r}.")
    return Entry(**{**row, "languages": tuple(row.get("languages", ()))})


_EXPECTED = {
    "name": "a short name without slash or space",
    "hub": "owner/model",
    "languages": "a list of language codes in lower case (quote `no`: YAML reads it as false)",
    "language_count": "a positive whole number",
    "licence": "text",
    "family": f"one of {', '.join(get_args(Family))}",
    "vocabulary": "a positive whole number",
    "cased": "true or false",
    "head": f"one of {', '.join(get_args(HeadKind))}",
    "parameters": "a positive number of millions",
    "citation": "text",
}


def _holds(key: str, value: object) -> bool:
    match key:
        case "name":
            return isinstance(value, str) and value != "" and not set(value) & set("/ ")
        case "hub":
            return isinstance(value, str) and value.count("/") == 1 and all(value.split("/"))
        case "languages":
            codes = value if isinstance(value, list) else [None]
            return all(
                isinstance(code, str) and code.isalpha() and code.islower() for code in codes
            )
        case "language_count" | "vocabulary":
            return isinstance(value, int) and not isinstance(value, bool) and value > 0
        case "parameters":
            return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
        case "cased":
            return isinstance(value, bool)
        case "family":
            return value in get_args(Family)
        case "head":
            return value in get_args(HeadKind)
        case _:
            return isinstance(value, str) and value != ""
