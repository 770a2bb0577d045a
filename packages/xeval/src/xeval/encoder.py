"""Opening a model folder: its encoder, its tokenizer, its limits and its digest."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xeval.errors import XevalError

if TYPE_CHECKING:
    from torch import nn

# Up to this width the fused attention kernels of a CPU cost more than they save.
_NARROW = 256


def open_tokenizer(model: str) -> Any:
    """The fast tokenizer of a model folder or Hub name."""
    from transformers import AutoTokenizer

    with named(model, "tokenizer"), quiet():
        folder = transformer_folder(model)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise XevalError(
            f"{model}: expected a fast tokenizer (a tokenizer.json), got {type(tokenizer).__name__}; convert it first"
        )
    return tokenizer


def open_encoder(model: str) -> nn.Module:
    """The encoder of a model folder or Hub name, float32, without pooler and without any head."""
    from transformers import AutoConfig, AutoModel

    with named(model, "model"), quiet():
        folder = transformer_folder(model)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        kind = AutoModel._model_mapping.get(type(config), None)
        if isinstance(kind, (list, tuple)):
            kind = kind[0]
        options: dict[str, Any] = {}
        if kind is not None and "add_pooling_layer" in inspect.signature(kind.__init__).parameters:
            options["add_pooling_layer"] = False
        encoder, info = AutoModel.from_pretrained(
            folder,
            config=config,
            attn_implementation=attention_for(config),
            dtype="float32",
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    if info["missing_keys"]:
        raise XevalError(
            f"{model}: the weights of {sorted(info['missing_keys'])[0]!r} are missing, so the encoder would be partly random; "
            "save the whole model"
        )
    if getattr(config, "is_encoder_decoder", False) or not hasattr(config, "hidden_size"):
        raise XevalError(
            f"{model}: expected an encoder, got a {config.model_type!r} model; xeval judges encoders"
        )
    return encoder


def transformer_folder(model: str) -> str:
    """Where configuration, weights and tokenizer lie: there, or where older sentence-transformers put its first module.

    Args:
        model: a model folder or Hub name.

    Raises:
        XevalError: for a `modules.json` or `config.json` that cannot be read.
    """
    folder = Path(model)
    if (folder / "config.json").is_file():
        read_config(folder / "config.json")
        return model
    places = [path for kind, path in _listed_modules(folder) if kind.endswith("Transformer")]
    if len(places) != 1:
        return model
    read_config(folder / places[0] / "config.json")
    return str(folder / places[0])


def read_config(file: Path) -> dict[str, Any]:
    """A parsed `config.json`, empty where there is none, `model_type` and `architectures` of the kinds that transformers takes.

    Raises:
        XevalError: for a file that is no JSON object, or one of the two of another kind.
    """
    if not file.is_file():
        return {}
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise XevalError(f"{file}: not JSON ({error}); fetch the file again") from error
    if not isinstance(config, dict):
        raise XevalError(f"{file}: expected a JSON object, got {config!r}; fetch the file again")
    model_type = config.get("model_type", "")
    if not isinstance(model_type, str):
        raise XevalError(
            f'{file}: model_type: expected a name such as "bert", got {model_type!r}; mend it, or fetch the file again'
        )
    classes = config.get("architectures") or []
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise XevalError(
            f'{file}: architectures: expected a list of classes such as ["BertModel"], got {classes!r}; mend it, or fetch the '
            "file again"
        )
    return config


def module_folders(model: str) -> list[Path]:
    """Where the modules of sentence-transformers behind the transformer of a model folder lie, in order: Pooling, Dense and their like.

    Args:
        model: a model folder; of one without `modules.json` there are none.

    Raises:
        XevalError: for a `modules.json` that cannot be read.
    """
    folder = Path(model)
    modules = _listed_modules(folder)
    return [folder / path for kind, path in modules if path and not kind.endswith("Transformer")]


def _listed_modules(folder: Path) -> list[tuple[str, str]]:
    """Class and path of every module that `modules.json` lists."""
    listed = folder / "modules.json"
    if not listed.is_file():
        return []
    try:
        modules = json.loads(listed.read_text(encoding="utf-8"))
        return [(str(module["type"]), str(module["path"])) for module in modules]
    except (ValueError, TypeError, KeyError) as error:
        raise XevalError(
            f"{listed}: expected a list of modules with type and path ({type(error).__name__}: {error}); fetch the file again"
        ) from error


def attention_for(config: Any) -> str | None:
    """Eager attention for narrow models on a CPU, the model's own choice else."""
    import torch

    narrow = getattr(config, "hidden_size", _NARROW) <= _NARROW and not torch.cuda.is_available()
    return "eager" if narrow else None


def longest_row(encoder: nn.Module) -> int:
    """How many positions the encoder has embeddings for."""
    config: Any = encoder.config
    positions = getattr(config, "max_position_embeddings", None) or 1_000_000
    # RoBERTa and its kin number positions from the padding id on.
    for name, module in encoder.named_modules():
        if (
            name.endswith("position_embeddings")
            and getattr(module, "padding_idx", None) is not None
        ):
            return int(positions) - int(module.padding_idx) - 1
    return int(positions)


def model_name(model: str) -> str:
    """What results call a model: its folder's name, however the folder is named ("." as well); a Hub name as it is."""
    folder = Path(model)
    if not folder.is_dir():
        return model
    return folder.name if folder.name not in ("", "..") else folder.resolve().name


def model_digest(model: str) -> str:
    """A digest of the weights, configuration and tokenizer of a model folder; of a Hub name, of name and commit.

    Of a folder with `modules.json` the folders of its modules and the files that say how it encodes count as well.
    """
    folder = Path(model)
    if folder.is_file():
        raise XevalError(f"{model}: is a file; give the model's folder, {folder.parent}")
    if not folder.is_dir():
        return _hub_digest(model)
    has_modules = (folder / "modules.json").is_file()
    names = {*_PARTS, *(_MODULE_PARTS if has_modules else ())}
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*") if has_modules else folder.iterdir()):
        if path.is_file() and (path.suffix in _WEIGHTS or path.name in names):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


_WEIGHTS = (".safetensors", ".bin", ".model")
_PARTS = (
    *("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.txt", "vocab.json", "merges.txt"),
)
_MODULE_PARTS = (
    *("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"),
    "router_config.json",
)


def _hub_digest(model: str) -> str:
    from transformers import AutoConfig

    with named(model, "model"), quiet():
        config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    commit = getattr(config, "_commit_hash", None) or "unknown"
    return hashlib.sha256(f"{model}@{commit}".encode()).hexdigest()[:16]


@contextlib.contextmanager
def named(model: str, what: str) -> Iterator[None]:
    """Turns what transformers says of a missing or broken model into one sentence."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except StrictDataclassError as error:
        raise XevalError(
            f"{model}: config.json: {' '.join(str(error).split())}; mend it, or fetch the file again"
        ) from error
    except (OSError, ValueError, KeyError, SafetensorError, pickle.UnpicklingError) as error:
        if isinstance(error, XevalError):
            raise
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise XevalError(
            f"{model}: no {what} could be opened there ({first}); give a model folder with config.json, "
            "model.safetensors and tokenizer.json, or a Hub name while online"
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No table of keys that a headless encoder rightly leaves aside, and no bar for loading them."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
