"""Which class reads which model: every class in a file of this folder that states a type."""

import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

from vocabmerge.errors import VocabularyError
from vocabmerge.families.model import TokenizerModel


@cache
def model_classes() -> Mapping[str, type[TokenizerModel]]:
    """By `model.type` in a file, the class that reads such a model.

    Example:
        >>> sorted(model_classes())
        ['BPE', 'Unigram', 'WordLevel', 'WordPiece']
    """
    package = __name__.rpartition(".")[0]
    for file in pkgutil.iter_modules(import_module(package).__path__, f"{package}."):
        import_module(file.name)
    return {known.type: known for known in TokenizerModel.__subclasses__()}


def model_of(tokenizer: Mapping[str, Any], *, name: str) -> TokenizerModel:
    """The model of a tokenizer.

    Args:
        tokenizer: a parsed `tokenizer.json` in the library's form.
        name: how messages call it.

    Raises:
        VocabularyError: a model type that no file of this folder is about.
    """
    known = model_classes()
    stated = tokenizer["model"]["type"]
    if stated not in known:
        raise VocabularyError(f"{name}: expected a {_either([*known])} model, got {stated!r}")
    return known[stated].read(tokenizer, name=name)


def _either(names: list[str]) -> str:
    *most, last = sorted(names, reverse=True)
    return f"{', '.join(most)} or {last}"
