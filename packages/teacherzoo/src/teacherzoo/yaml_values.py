"""The values that YAML states, read as recipes mean them: no key twice, numbers as they are usually written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml


def read_recipe_values(file: Path, *, keys: str, refuse: type[Exception]) -> dict[Any, Any]:
    """What a recipe states, by key.

    Args:
        file: YAML.
        keys: some that it has, for the message where it has none.
        refuse: what to raise.

    Raises:
        Exception: the given one, naming the file, for what cannot be read, is not YAML, has a key twice, or has no keys.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "recipe.yaml"
        >>> _ = file.write_text("model: org/bert")
        >>> read_recipe_values(file, keys="`model:`", refuse=ValueError)
        {'model': 'org/bert'}
    """
    try:
        stated = values_of(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise refuse(f"{file}: the recipe cannot be read: {error}.") from error
    except RepeatedKeyError as error:
        raise refuse(f"{file}, {error}") from error
    except yaml.YAMLError as error:
        raise refuse(f"{file}: not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(stated, dict):
        raise refuse(f"{file}: expected keys such as {keys}, got {stated!r}.")
    return stated


def values_of(text: str) -> Any:
    """What YAML states, a number such as 1e-3 as the number (YAML 1.1 wants 1.0e-3), no key twice.

    Raises:
        RepeatedKeyError: for a key that stands twice in one place.
        yaml.YAMLError: for what is not YAML.

    Example:
        >>> values_of("{learning_rate: 1e-3, steps: 10}")
        {'learning_rate': 0.001, 'steps': 10}
    """
    try:
        # The rule knows safe loaders by their names alone; `_Loader` is a `yaml.SafeLoader` by its class, and makes plain values.
        return yaml.load(text, Loader=_Loader)  # noqa: S506
    except ValueError as error:
        # PyYAML's own, of what looks like a date and is none.
        raise yaml.YAMLError(
            f"{error} (text that looks like a date or a number stands in quotes)"
        ) from error


class RepeatedKeyError(yaml.YAMLError):
    """A key that stands twice in one place."""


class _Loader(yaml.SafeLoader):
    """As YAML is read, but that the first of two equal keys is not lost without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Refuse a key that stands twice, before `<<` brings in those of another place."""
        node = super().compose_mapping_node(anchor)
        names = [key.value for key, _ in node.value]
        for number, (key, _) in enumerate(node.value):
            if key.value in names[:number]:
                raise RepeatedKeyError(
                    f"line {key.start_mark.line + 1}: the key {key.value!r} stands a second time; make one of the two."
                )
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)
