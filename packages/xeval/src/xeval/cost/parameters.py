"""Where the parameters of a model folder are: embeddings, layers, head."""

from __future__ import annotations

import contextlib
import math
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xeval.encoder import module_folders, named, transformer_folder
from xeval.errors import XevalError

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Numbers of parameters; a tied matrix counts once, as an embedding.

    Args:
        architecture: the class they are counted for, as the folder's configuration names it.
        vocabulary: of the matrix with one row per piece, V·H.
        embeddings: of everything before the first layer: that matrix, positions, types, norm.
        body: of the layers.
        head: of what comes after the layers: pooler, language-model head, task head, a Dense of sentence-transformers.
    """

    architecture: str
    vocabulary: int
    embeddings: int
    body: int
    head: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.embeddings + self.body + self.head


def split_parameters(model: nn.Module) -> Parameters:
    """Split the parameters of a transformers model.

    Args:
        model: with or without a head; on any device, the meta device too.

    Example:
        >>> import torch
        >>> from transformers import BertConfig, BertModel
        >>> with torch.device("meta"):
        ...     split_parameters(BertModel(BertConfig(vocab_size=30_000, num_hidden_layers=6))).total
        66554112
    """
    inner: Any = model
    encoder = inner.base_model
    words = inner.get_input_embeddings()
    before = next(
        (
            child
            for name, child in encoder.named_children()
            if any(part is words for part in child.modules()) and "embed" in name
        ),
        words,
    )
    after = getattr(encoder, "pooler", None)
    embeddings = {id(p): p.numel() for p in before.parameters()}
    pooler = {id(p) for p in after.parameters()} if after is not None else set()
    body = {
        id(p): p.numel()
        for p in encoder.parameters()
        if id(p) not in embeddings and id(p) not in pooler
    }
    head = {
        id(p): p.numel()
        for p in model.parameters()
        if id(p) not in embeddings and id(p) not in body
    }
    return Parameters(
        architecture=type(model).__name__,
        vocabulary=words.weight.numel(),
        embeddings=sum(embeddings.values()),
        body=sum(body.values()),
        head=sum(head.values()),
    )


def parameters_of(folder: Path) -> Parameters:
    """The parameters of a model folder, from its configuration and the headers of its files: no weight is read.

    A pooler that the configuration implies but the weights lack is not counted; the task head of a tuned folder is, and so are
    the modules of sentence-transformers behind the encoder.

    Raises:
        XevalError: when the folder holds no configuration of a known class, or no weights.
    """
    import torch
    import transformers

    behind = parameters_behind(folder)
    folder = Path(transformer_folder(str(folder)))
    if not (folder / "config.json").is_file():
        raise XevalError(
            f"{folder}: expected a model folder, found no config.json; give a folder written by save_pretrained"
        )
    with named(str(folder), "model of a known class"):
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    try:
        name = (getattr(config, "architectures", None) or [None])[0]
        kind = getattr(transformers, name, None) if name else None
        with torch.device("meta"):
            model = kind(config) if kind else transformers.AutoModel.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        raise XevalError(
            f"{folder}: no model of a known class ({str(error).splitlines()[0]}); code that a model brings along is not run"
        ) from error
    names = _tensor_names(folder)
    encoder: Any = model.base_model
    if not any("pooler." in name for name in names) and hasattr(encoder, "pooler"):
        encoder.pooler = None
    counted = split_parameters(model)
    task_head = sum(_tensor_sizes(folder / "head.safetensors").values())
    return Parameters(
        architecture=counted.architecture + (" with a task head" if task_head else ""),
        vocabulary=counted.vocabulary,
        embeddings=counted.embeddings,
        body=counted.body,
        head=counted.head + task_head + behind,
    )


def parameters_behind(folder: Path) -> int:
    """Those of the modules of sentence-transformers behind the encoder of a model folder, as their files hold them: of a Dense, say."""
    return sum(sum(_tensor_sizes(path).values()) for path in _files_behind(folder))


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights: safetensors where there are any, else PyTorch's own format.

    Raises:
        XevalError: when there are none.
    """
    if files := _weight_files(folder):
        return files
    raise XevalError(
        f"{folder}: expected weights (model.safetensors), found none; save the model with save_pretrained"
    )


def bytes_on_disk(folder: Path) -> int:
    """Size of the weight files, those of modules behind the encoder included."""
    files = weight_files(Path(transformer_folder(str(folder)))) + _files_behind(folder)
    return sum(path.stat().st_size for path in files)


def _files_behind(folder: Path) -> list[Path]:
    return [file for place in module_folders(str(folder)) for file in _weight_files(place)]


def _weight_files(folder: Path) -> list[Path]:
    for pattern in ("*.safetensors", "pytorch_model*.bin"):
        if files := sorted(folder.glob(pattern)):
            return files
    return []


def _tensor_names(folder: Path) -> set[str]:
    """Names in the weight files of the model."""
    return {name for path in weight_files(folder) for name in _tensor_sizes(path)}


def _tensor_sizes(path: Path) -> dict[str, int]:
    """Entries of each tensor of floats in a weight file, whose values are not read; what counts (int64) is no parameter."""
    if path.suffix == ".safetensors":
        return _sizes_in_header(path)
    return {name: t.numel() for name, t in _pickled(path).items() if t.is_floating_point()}


def _pickled(path: Path) -> dict[str, Tensor]:
    """What a file of PyTorch's own format holds, without values."""
    import torch

    try:
        content: dict[str, Tensor] = torch.load(path, map_location="meta", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise XevalError(
            f"{path}: not a whole file of tensors alone ({str(error).splitlines()[0]}); save the model again as safetensors"
        ) from error
    return content


def _sizes_in_header(path: Path) -> dict[str, int]:
    from safetensors import SafetensorError, safe_open

    sizes: dict[str, int] = {}
    if not path.is_file():
        return sizes
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(safe_open(path, framework="numpy"))
        except SafetensorError as error:
            raise XevalError(
                f"{path}: not a whole safetensors file ({error}); copy or save it again"
            ) from error
        for name in file.keys():  # noqa: SIM118  # not a mapping
            tensor = file.get_slice(name)
            if tensor.get_dtype().startswith(("F", "BF")):
                sizes[name] = math.prod(tensor.get_shape())
    return sizes
