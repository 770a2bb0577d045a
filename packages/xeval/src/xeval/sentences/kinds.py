"""What a model folder is: a sentence encoder, sparse encoder or reranker of sentence-transformers, or any other encoder."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any, Literal

from xeval.encoder import named, quiet, read_config
from xeval.errors import XevalError

SENTENCE_ENCODER = "SentenceTransformer"
SPARSE_ENCODER = "SparseEncoder"
RERANKER = "CrossEncoder"
_OF_CROSS_ENCODERS = ("sentence_transformers", "sbert_ce_default_activation_function")


def kind_of(model: str) -> str | None:
    """The class of sentence-transformers that a model folder or Hub name is of; None for any other encoder.

    A folder with `modules.json` is of the class that `config_sentence_transformers.json` names, which older ones leave
    out where it is `SentenceTransformer`; one with SPLADE's pooling is a `SparseEncoder`. A sequence classifier with one label is a `CrossEncoder`, with or without them.

    Raises:
        XevalError: for a class that gives neither one vector nor one score.
    """
    if (modules := _read(model, "modules.json")) is not None:
        kind = (_read(model, "config_sentence_transformers.json") or {}).get(
            "model_type", SENTENCE_ENCODER
        )
        if kind == SENTENCE_ENCODER and "SpladePooling" in json.dumps(modules):
            return SPARSE_ENCODER
        if kind not in (SENTENCE_ENCODER, SPARSE_ENCODER, RERANKER):
            raise XevalError(
                f"{model}: expected a sentence encoder or sparse encoder with one vector per text, or a reranker, got a {kind}; "
                "this task does not judge that kind"
            )
        return str(kind)
    config = _config(model)
    architecture = (config.get("architectures") or [""])[0]
    labels = len(config.get("id2label") or {}) or config.get("num_labels")
    one_score = architecture.endswith("ForSequenceClassification") and labels == 1
    return RERANKER if one_score else None


def scores_pairs(model: str) -> Literal["stated", "assumed"]:
    """Whether the one score of a `CrossEncoder` is of pairs of texts: stated by settings of sentence-transformers, else assumed.

    Raises:
        XevalError: `config.json` names a `problem_type` instead, which transformers writes into scorers of texts that it trained.
    """
    config = _config(model)
    if _read(model, "modules.json") is not None or any(map(config.get, _OF_CROSS_ENCODERS)):
        return "stated"
    if problem := config.get("problem_type"):
        raise XevalError(
            f"{model}: expected a reranker, got a classifier whose one output is by its config.json that of a text "
            f"(problem_type {problem!r}); if it scores pairs of query and document, take problem_type out of config.json"
        )
    return "assumed"


def sentence_transformers(model: str) -> Any:
    """The library, imported late.

    Raises:
        XevalError: it is not installed.
    """
    try:
        with quiet():
            return importlib.import_module("sentence_transformers")
    except ModuleNotFoundError as error:
        raise XevalError(
            f"{model}: is judged by sentence-transformers, and {error.name} is not installed; "
            "pip install 'distillery-xeval[sentences]'"
        ) from error


def modules_behind(model: str) -> list[Any]:
    """The modules of a sentence or sparse encoder behind its transformer, in order and in float32.

    Raises:
        XevalError: sentence-transformers is not installed, or cannot open the model.
    """
    opened_by = getattr(sentence_transformers(model), kind_of(model) or SENTENCE_ENCODER)
    with named(model, "model"), quiet():
        opened = opened_by(
            model, device="cpu", trust_remote_code=False, model_kwargs={"dtype": "float32"}
        )
    return list(opened)[1:]


def device() -> str:
    """Where models are asked: the GPU if there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _config(model: str) -> dict[str, Any]:
    path = _file(model, "config.json")
    return read_config(path) if path else {}


def _file(model: str, name: str) -> Path | None:
    """A file of a model folder or Hub name, None where there is none."""
    if Path(model).is_dir():
        path = Path(model) / name
        return path if path.is_file() else None
    from transformers.utils import cached_file

    with named(model, "model"), quiet():
        cached = cached_file(
            model,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    return Path(cached) if cached else None


def _read(model: str, name: str) -> Any:
    """A JSON file of a model folder or Hub name, None where there is none."""
    path = _file(model, name)
    if path is None:
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise XevalError(f"{path}: not JSON ({error}); fetch the file again") from error
