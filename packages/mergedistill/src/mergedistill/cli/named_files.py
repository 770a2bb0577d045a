"""What `fuse` is told as NAME=FILE, and as numbers with commas between."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mergedistill.errors import FuseError


def named_files(option: str, given: Sequence[str]) -> dict[str, Path]:
    """NAME=FILE, given again and again.

    Raises:
        FuseError: for what is not of that form, and for a name that comes twice.

    Example:
        >>> named_files("--dev", ["de=dev.txt"])["de"].name
        'dev.txt'
    """
    files: dict[str, Path] = {}
    for text in given:
        name, separator, file = text.partition("=")
        if not (separator and name and file):
            raise FuseError(f"{option} must be NAME=FILE, got {text!r}.")
        if name in files:
            raise FuseError(f"{option} names {name!r} twice; give each a name of its own.")
        files[name] = Path(file)
    return files


def files_of_models(models: Sequence[Path], given: Sequence[str]) -> list[Path]:
    """The file of each model, in the models' order; a model is named by its folder's path or last name, or by its number.

    Raises:
        FuseError: for a name that is of no model or of several, and for a model without a file.

    Example:
        >>> [file.name for file in files_of_models([Path("x/de"), Path("x/fi")], ["fi=b.txt", "1=a.txt"])]
        ['a.txt', 'b.txt']
    """
    files: dict[int, Path] = {}
    for name, file in named_files("--text", given).items():
        places = [
            place
            for place, model in enumerate(models)
            if name in (str(model), model.name, str(place + 1))
        ]
        if len(places) != 1 or places[0] in files:
            raise FuseError(
                f"--text {name}={file}: expected the name of one model that has no text yet, found {len(places)} of that name; "
                f"the models are {', '.join(f'{place} {model}' for place, model in enumerate(models, start=1))}, and their "
                "numbers name them, too."
            )
        files[places[0]] = file
    for place, model in enumerate(models):
        if place not in files:
            raise FuseError(
                f"{model}: expected a text of this model, got none; add --text {model.name}=FILE."
            )
    return [files[place] for place in range(len(models))]


def read_weights(given: str) -> list[float]:
    """Numbers with commas between.

    Raises:
        FuseError: for anything else.

    Example:
        >>> read_weights("0.25, 0.75")
        [0.25, 0.75]
    """
    try:
        return [float(part) for part in given.split(",")]
    except ValueError as error:
        raise FuseError(f"--weights must be numbers such as 0.3,0.7, got {given!r}.") from error
