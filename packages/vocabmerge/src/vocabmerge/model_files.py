"""A model folder's weights, read and written tensor by tensor under the names that they have in its files.

A class of transformers may hold more parameters than a file (a pooler that was never trained, then random) or fewer (a
head that another class had). What is written here has the tensors of the file that was read, no more and no fewer.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vocabmerge.errors import VocabularyError
from vocabmerge.tokenizer_file.json_file import read_json

if TYPE_CHECKING:
    import torch

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_LARGEST_FILE = "50GB"


def has_weights(folder: Path) -> bool:
    """Whether a folder holds a model's weights."""
    return any((folder / name).is_file() for name in WEIGHTS)


def read_model_config(folder: Path) -> dict[str, Any]:
    """The parsed `config.json` of a model folder, `model_type` and `architectures` of the kinds that transformers takes.

    Raises:
        VocabularyError: for a file that is missing or no JSON object, and for one of the two settings of another kind.

    Example:
        >>> from pathlib import Path
        >>> _ = Path("config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
        >>> read_model_config(Path("."))["architectures"]
        ['BertModel']
    """
    file = folder / "config.json"
    config = read_json(file)
    model_type = config.get("model_type", "")
    if not isinstance(model_type, str):
        raise VocabularyError(
            f'{file}: model_type: expected a name such as "bert", got {model_type!r}; mend it, or fetch or save the model again'
        )
    architectures = config.get("architectures") or []
    if not isinstance(architectures, list) or not all(isinstance(n, str) for n in architectures):
        raise VocabularyError(
            f'{file}: architectures: expected a list of classes such as ["BertForMaskedLM"], got {architectures!r}; mend it, or fetch '
            "or save the model again"
        )
    return config


def stored_tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a model folder by its name in the files; its values are read from disk when they are used.

    Raises:
        VocabularyError: for a file of PyTorch's own format that holds more than tensors.
    """
    import torch
    from safetensors import safe_open

    for file in weight_files(folder):
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 -- no mapping
                    yield name, opened.get_tensor(name)
            continue
        try:
            content = torch.load(
                file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file)
            )
        except pickle.UnpicklingError as error:
            raise VocabularyError(
                f"{file}: holds more than tensors, and such a file is not unpickled; get or save the weights as .safetensors"
            ) from error
        places = set[tuple[int, torch.Size, tuple[int, ...]]]()
        for name, tensor in content.items():
            if not isinstance(tensor, torch.Tensor):
                continue
            place = (tensor.data_ptr(), tensor.shape, tensor.stride())
            if place not in places or not tensor.numel():
                # One tensor under two names; safetensors writes it once.
                places.add(place)
                yield name, tensor


def stored_names(folder: Path, model: Any) -> dict[str, str]:
    """For each tensor of a folder's files that a model of it holds: the model's name for it, and the file's."""
    model_names = set(model.state_dict(keep_vars=True))
    names = {name_in_model(model, name, model_names): name for name, _ in stored_tensors(folder)}
    names.pop("", None)
    return names


def save_model(
    model: Any,
    folder: Path,
    *,
    source: Path,
    before: Mapping[str, torch.Tensor],
) -> list[str]:
    """Write a changed model's config and weights into a folder that exists.

    A tensor that was replaced since `before` is the model's, any other is the file's, bit for bit. A table of the
    vocabulary's length that the model's class does not have, such as the head of another class, is left out.

    Args:
        model: what to write.
        folder: where to.
        source: the folder that the model was opened from.
        before: the model's `state_dict(keep_vars=True)` as it was opened.

    Returns:
        The names in the files of what was left out.
    """
    from huggingface_hub import save_torch_state_dict

    after = model.state_dict(keep_vars=True)
    embedding = model.get_input_embeddings().weight
    rows = next(len(before[name]) for name, tensor in after.items() if tensor is embedding)
    written: dict[str, torch.Tensor] = {}
    left_out: list[str] = []
    shared = set[int]()
    for name, tensor in stored_tensors(source):
        model_name = name_in_model(model, name, after)
        if model_name and after[model_name] is not before[model_name]:
            changed = after[model_name].detach().to(tensor.dtype)
            written[name] = (
                changed.clone() if id(after[model_name]) in shared else changed.contiguous()
            )
            shared.add(id(after[model_name]))
        elif not model_name and tensor.dim() and len(tensor) == rows:
            left_out.append(name)
        else:
            written[name] = tensor
    model.config.dtype = str(model.dtype).removeprefix("torch.")
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    if model.can_generate():
        # save_pretrained refuses what published files say, such as a temperature without do_sample, once an id has changed.
        model.generation_config.to_json_file(folder / "generation_config.json")
    save_torch_state_dict(written, folder, max_shard_size=_LARGEST_FILE, metadata={"format": "pt"})
    return left_out


def weight_files(folder: Path) -> list[Path]:
    """The files of the first kind of weights that there is, in transformers' order of preference."""
    name = next(name for name in WEIGHTS if (folder / name).is_file())
    if not name.endswith(".index.json"):
        return [folder / name]
    parts = read_json(folder / name).get("weight_map")
    if not isinstance(parts, dict):
        raise VocabularyError(
            f"{folder / name}: expected a weight_map, got none; fetch or save the model again"
        )
    return [folder / part for part in sorted(set(parts.values()))]


def name_in_model(model: Any, name: str, model_names: Mapping[str, Any] | set[str]) -> str:
    """A file's name in the model, with or without the prefix of the model's body; "" where it has none."""
    prefix = f"{model.base_model_prefix}."
    candidates = (name, prefix + name, name.removeprefix(prefix))
    return next((candidate for candidate in candidates if candidate in model_names), "")
