"""The modules of a sentence-transformers folder, as `modules.json` and `router_config.json` list them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from vocabmerge.errors import VocabularyError
from vocabmerge.tokenizer_file.json_file import read_json, read_text

MODULES_FILE = "modules.json"
TRANSFORMERS = ("Transformer", "MLMTransformer")
ROUTERS = ("Router", "Asym")
TABLES = ("StaticEmbedding", "SparseStaticEmbedding")
"""Modules whose own weights have one row per piece; their tokenizer lies beside them."""
VECTOR_MODULES = (
    *("Pooling", "Dense", "Normalize", "Dropout", "LayerNorm", "WeightedLayerPooling", "LSTM", "CNN"),
    *("SpladePooling", "SparseAutoEncoder", "LogitScore", "MultiVectorMask", "HierarchicalTokenPooling"),
)  # fmt: skip
"""Modules that work on what a transformer gives out, and have no row per piece."""
MODULE_IDS = {
    "LogitScore": ("true_token_id", "false_token_id"),
    "MultiVectorMask": ("keep_only_token_ids",),
}
"""Settings of a module that name ids of pieces."""
MODULE_SIZES = {"SpladePooling": ("embedding_dimension", "word_embedding_dimension")}
"""Settings of a module that are the size of the vocabulary."""
OF_VOCABULARY = (*MODULE_IDS, *MODULE_SIZES)
"""Modules whose settings know ids or the size of the vocabulary."""
_REFUSED = {
    "BoW": "counts words of a list of its own",
    "WordEmbeddings": "has a table of words of its own",
    "WordWeights": "has a weight for each id of a list of words of its own",
    "CLIPModel": "encodes images too",
}


@dataclass(frozen=True, kw_only=True)
class Module:
    """One module of a sentence-transformers folder.

    Args:
        name: its class without the path, such as `Pooling`.
        path: its folder, relative to the model's.
        file: the config file that it reads, relative to the model's folder.
    """

    name: str
    path: Path
    file: Path


def read_modules(folder: Path) -> tuple[Module, ...]:
    """Every module of a folder in order; those behind a router follow it.

    Args:
        folder: has a `modules.json`.

    Raises:
        VocabularyError: a class that is not known here, or one that has a vocabulary of its own.
    """
    file = folder / MODULES_FILE
    try:
        entries = json.loads(read_text(file))
        listed = [(str(entry["type"]), Path(entry["path"])) for entry in entries]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise VocabularyError(
            f"{file}: expected a list of modules with type and path, cannot read it ({error}); fetch or save the "
            "model again with sentence-transformers"
        ) from error
    if not listed:
        raise VocabularyError(
            f"{file}: expected at least one module, got an empty list; fetch or save the model again"
        )
    return tuple(
        module for kind, path in listed for module in _modules_of(folder, file, kind, path)
    )


def module_config(folder: Path, module: Module) -> dict[str, Any]:
    """The settings of a module, empty where it has no file."""
    file = folder / module.file
    return read_json(file) if file.is_file() else {}


def _modules_of(folder: Path, file: Path, kind: str, path: Path) -> Iterator[Module]:
    if path.is_absolute() or ".." in path.parts:
        raise VocabularyError(
            f"{file}: expected module folders inside the model's, got {str(path)!r}"
        )
    name = kind.rpartition(".")[2]
    if name in _REFUSED and kind.startswith("sentence_transformers."):
        raise VocabularyError(
            f"{file}: the module {name} {_REFUSED[name]}, which does not shrink with the tokenizer; take a model "
            "without it"
        )
    known = (*TRANSFORMERS, *ROUTERS, *TABLES, *VECTOR_MODULES)
    if name not in known or not kind.startswith("sentence_transformers."):
        raise VocabularyError(
            f"{file}: {kind!r} is no module that is known here, and code that comes with a model is not run; what it "
            "does with the vocabulary cannot be told: take a model of stock sentence-transformers modules"
        )
    if name in ROUTERS:
        routes = _router_file(folder / path)
        yield Module(name=name, path=path, file=path / routes.name)
        types = read_json(routes).get("types")
        if not isinstance(types, Mapping):
            raise VocabularyError(
                f"{routes}: expected the types of the routed modules, got {types!r}; save the model again"
            )
        for inner, inner_kind in types.items():
            yield from _modules_of(folder, routes, str(inner_kind), path / PurePosixPath(inner))
        return
    yield Module(name=name, path=path, file=_config_file(folder, path, name))


def _router_file(folder: Path) -> Path:
    modern = folder / "router_config.json"
    return modern if modern.is_file() else folder / "config.json"


def _config_file(folder: Path, path: Path, name: str) -> Path:
    """The settings of a module: `config.json` beside most, `sentence_…_config.json` beside a transformer."""
    if name not in TRANSFORMERS:
        return path / "config.json"
    older = sorted((folder / path).glob("sentence_*_config.json"))
    return path / (older[0].name if older else "sentence_bert_config.json")
