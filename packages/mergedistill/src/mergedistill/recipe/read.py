"""A recipe from its YAML file, with other values, and told to others; what is wrong with it in one sentence."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from mergedistill.errors import RecipeError
from mergedistill.recipe.recipe import Recipe, Student, Teaching, Text
from teacherzoo.nearest import nearest
from teacherzoo.yaml_values import read_recipe_values
from vocabmerge.hub.push import bare_names


def read_recipe(file: Path) -> Recipe:
    """Read and check a recipe; names of files in it count from the recipe's own folder.

    Args:
        file: YAML with the keys of `Recipe`.

    Returns:
        What it states, defaults filled in.

    Raises:
        RecipeError: naming file and key, what was expected and what stands there, all faults at once.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "recipe.yaml"
        >>> stated = "{out: run, languages: {de: org/text}, teachers: [{teacher: org/bert, languages: [de]}]}"
        >>> _ = file.write_text(stated)
        >>> read_recipe(file).distil.alpha
        0.7
    """
    stated = read_recipe_values(file, keys="`languages:` and `teachers:`", refuse=RecipeError)
    try:
        recipe = Recipe.model_validate(stated)
    except ValidationError as error:
        raise RecipeError(f"{file}: {_sentences(error)}.") from error
    _refuse_idle_keys(recipe.student, file)
    return _from_folder(recipe, file.parent)


def altered(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with other values, checked again.

    Args:
        recipe: stays as it is.
        changes: dotted key to value, such as `{"distil.alpha": 0.5}`.

    Raises:
        RecipeError: naming the key and what is wrong with it.
    """
    # A default that another sampler would refuse counts as not stated.
    stated = recipe.model_dump() | {"distil": recipe.distil.model_dump(exclude_unset=True)}
    for key, value in changes.items():
        *parents, last = key.split(".")
        part: Any = stated
        for parent in parents:
            part = part.get(parent) if isinstance(part, dict) else None
        if part is None and parents[0] in stated:
            raise RecipeError(f"{key}: the recipe has no {'.'.join(parents)}; add that part to it.")
        if not isinstance(part, dict):
            raise RecipeError(f"{key}: a recipe has no such key{nearest(key, stated)}.")
        part[last] = value
    try:
        return Recipe.model_validate(stated)
    except ValidationError as error:
        raise RecipeError(f"{', '.join(changes)}: {_sentences(error)}.") from error


def _from_folder(recipe: Recipe, folder: Path) -> Recipe:
    def place(name: str) -> Path:
        return folder / os.path.expanduser(name)  # noqa: PTH111  # Path's refuses a user that is not there with a traceback

    def local(name: str) -> str:
        file = place(name)
        return str(file) if file.exists() else name

    offload, arguments = recipe.record.offload, recipe.train.arguments
    if offload not in (None, "cpu"):
        offload = str(place(offload))
    deepspeed = arguments.get("deepspeed")
    if isinstance(deepspeed, str):  # a file; a mapping is the configuration itself
        arguments = {**arguments, "deepspeed": local(deepspeed)}
    return recipe.model_copy(
        update={
            "out": str(place(recipe.out)),
            "signals": None if recipe.signals is None else str(place(recipe.signals)),
            "languages": {
                code: text.model_copy(update={"corpus": local(text.corpus)})
                for code, text in recipe.languages.items()
            },
            "teachers": tuple(
                teacher.model_copy(update={"teacher": local(teacher.teacher)})
                for teacher in recipe.teachers
            ),
            "record": recipe.record.model_copy(update={"offload": offload}),
            "states": recipe.states
            and recipe.states.model_copy(update={"encoder": local(recipe.states.encoder)}),
            "train": recipe.train.model_copy(update={"arguments": arguments}),
        }
    )


def without_places(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values for others to read: of what lies on this machine the name alone, not where."""
    stated = recipe.model_dump()
    stated["out"] = Path(recipe.out).name
    stated["signals"] = None if recipe.signals is None else Path(recipe.signals).name
    for text in stated["languages"].values():
        text["corpus"] = bare_names(text["corpus"])
    for teaching in stated["teachers"]:
        teaching["teacher"] = bare_names(teaching["teacher"])
    if stated["states"] is not None:
        stated["states"]["encoder"] = bare_names(stated["states"]["encoder"])
    stated["record"]["offload"] = bare_names(stated["record"]["offload"])
    stated["train"]["arguments"] = bare_names(stated["train"]["arguments"])
    return stated


def _refuse_idle_keys(student: Student, file: Path) -> None:
    """What a file states of how a student starts and its start does not use; variants of an ablation may inherit it."""
    idle = {"scratch": ("teacher", "take", "carry"), "carried": ("take",), "teacher": ()}
    for key in idle[student.start]:
        value = getattr(student, key)
        if value != Student.model_fields[key].default:
            raise RecipeError(
                f"{file}: student.{key}: does nothing with `start: {student.start}`, got {value!r}; leave it out, or set another "
                "student.start."
            )


def _sentences(error: ValidationError) -> str:
    """All faults; a list whose items are at fault is not called too short on top of it."""
    return "; ".join(
        _sentence(fault)
        for fault in error.errors()
        if fault["type"] != "too_short" or not fault["input"]
    )


def _sentence(fault: Any) -> str:
    path = fault["loc"][:-2] if fault["loc"][-1:] == ("[key]",) else fault["loc"]
    where = ".".join(str(part) for part in path)
    if fault["type"] == "extra_forbidden":
        parent, key = _part_at(fault["loc"][:-1]), str(fault["loc"][-1])
        there = f" (the keys there are {', '.join(parent.model_fields)})"
        return f"unknown key {where!r}{nearest(key, parent.model_fields) or there}"
    if fault["type"] == "model_type":
        keys = _part_at(fault["loc"]).model_fields
        return f"{where}: expected keys such as `{next(iter(keys))}:`, got {fault['input']!r}"
    if fault["type"] == "missing":
        return f"the key {where!r} is missing"
    if fault["type"] in ("value_error", "assertion_error"):
        message = str(fault["ctx"]["error"]).rstrip(".")
        return f"{where}: {message}" if where else message
    said = (fault["msg"][0].lower() + fault["msg"][1:]).replace("tuple", "list")
    return f"{where}: {said}, got {fault['input']!r}{_hint(fault)}"


def _hint(fault: Any) -> str:
    """What YAML made of something that was meant otherwise."""
    number = fault["type"] in ("int_type", "float_type")
    if isinstance(fault["input"], bool) and (number or fault["type"] == "string_type"):
        instead = "a number" if number else "it in quotes"
        return f" (YAML reads no, yes, on and off as true or false: write {instead})"
    if fault["type"] == "string_type" and isinstance(fault["input"], int | float | date):
        return " (write it in quotes)"
    return " (a number stands without quotes)" if number and isinstance(fault["input"], str) else ""


def _part_at(path: tuple[Any, ...]) -> type[BaseModel]:
    """The model whose keys stand at a place of the recipe."""
    if not path:
        return Recipe
    if path[0] == "languages":
        return Text
    if path[0] == "teachers":
        return Teaching
    annotation = Recipe.model_fields[path[0]].annotation
    (part,) = (
        part
        for part in get_args(annotation)
        or (annotation,)  # a part that may be absent is a union with None
        if isinstance(part, type) and issubclass(part, BaseModel)
    )
    return part
