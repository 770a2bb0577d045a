"""The models to fuse: read from their files' headers, and refused where their weights do not stand for the same things."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergedistill.errors import FuseError
from teacherzoo.encoders.kinds import PLAIN_NAMES, allows_several, model_layout
from vocabmerge import Kind, Layout, read_vocabulary
from vocabmerge.encoder_folder.weight_files import StoredTensor, read_tensors
from vocabmerge.model_files import has_weights
from vocabmerge.tokenizer_file.json_file import read_json

KINDS = (
    Kind.MASKED_LM, Kind.HEADLESS, Kind.SENTENCE, Kind.SPARSE, Kind.MULTI_VECTOR, Kind.CLASSIFIER, Kind.TOKEN_CLASSIFIER,
    Kind.QUESTION_ANSWERING,
)  # fmt: skip
FLOATS = ("F64", "F32", "F16", "BF16")
# Of a configuration: what says nothing of what the weights compute.
_NOTES = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache", "problem_type", "label2id"}  # fmt: skip
_TRAINING = ("dropout", "initializer", "gradient_checkpointing")

Parts = dict[Path, dict[str, StoredTensor]]
"""A folder with weights, relative to the model's, to its tensors by name."""
Fused = Callable[[Path, str, Sequence[StoredTensor]], StoredTensor]
"""Given a part, a tensor's name and that tensor of each model, the one to write."""


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """A model folder, none of whose values has been read.

    Attributes:
        folder: where it lies.
        layout: which kind it is, and where its parts are.
        parts: the tensors of its transformer and of the modules behind it.
    """

    folder: Path
    layout: Layout
    parts: Parts

    @property
    def encoder(self) -> Path:
        """Where configuration and weights of its transformer lie, relative to the folder."""
        return self.layout.transformers[0]


def read_models(folders: Sequence[Path]) -> list[ModelFiles]:
    """Read the headers of at least two models that have all in common but the values of their weights.

    Args:
        folders: of one architecture, one vocabulary, one set of labels and one precision.

    Raises:
        FuseError: naming the first difference.
        VocabularyError, TeacherzooError: for a folder that is not understood.
    """
    if len(folders) < 2:
        raise FuseError(f"Fusing takes at least two models, got {len(folders)}; name another.")
    models = [_read(folder) for folder in folders]
    for model in models[1:]:
        for difference in _differences(models[0], model):
            raise FuseError(
                f"{model.folder} and {folders[0]} cannot be fused: {difference}; fuse models that were tuned from one start."
            )
    return models


def _read(folder: Path) -> ModelFiles:
    if not folder.is_dir():
        raise FuseError(f"{folder}: expected the folder of a model, there is none; give its path.")
    if not has_weights(folder) and not (folder / "modules.json").is_file():
        raise FuseError(
            f"{folder}: expected config.json and weights, found no weights; fetch or save the model again."
        )
    layout = model_layout(folder)
    if layout.kind not in KINDS or len(layout.transformers) != 1:
        encoders = len(layout.transformers)
        several = f" of {encoders} encoders" if encoders > 1 else ""
        raise FuseError(
            f"{folder}: expected one encoder, alone or with a head, found {PLAIN_NAMES[layout.kind]}{several}; give the folder of "
            "one encoder."
        )
    places = dict.fromkeys([*layout.transformers, *(module.path for module in layout.modules)])
    parts = {
        place: {tensor.name: tensor for tensor in read_tensors(folder / place)[0]}
        for place in places
        if has_weights(folder / place)
    }
    return ModelFiles(folder=folder, layout=layout, parts=parts)


def _differences(first: ModelFiles, second: ModelFiles) -> Iterator[str]:
    """What keeps two models apart, the most telling first, each as half a sentence."""
    configs = [read_json(model.folder / model.encoder / "config.json") for model in (first, second)]
    for label, values in (
        ("its kind is", [PLAIN_NAMES[model.layout.kind] for model in (second, first)]),
        ("its architecture is", [model.layout.architecture for model in (second, first)]),
        ("its model type is", [config.get("model_type") for config in reversed(configs)]),
    ):
        if values[0] != values[1]:
            yield f"{label} {values[0]}, not {values[1]}"
    labels = [list((config.get("id2label") or {}).values()) for config in configs]
    if labels[0] != labels[1]:
        yield f"its labels are {_shortened(labels[1])}, not {_shortened(labels[0])}"
    exclusion = ["do not exclude" if allows_several(config.get("problem_type")) else "exclude" for config in configs]  # fmt: skip
    if exclusion[0] != exclusion[1]:
        yield f"its labels {exclusion[1]} one another, and those of the first {exclusion[0]} one another (problem_type)"
    if first.layout.tokenizers != second.layout.tokenizers or any(
        _vocabulary(first, place) != _vocabulary(second, place) for place in first.layout.tokenizers
    ):
        yield "its tokenizer is another one, so that rows of the embeddings mean other pieces"
    yield from _differences_of_tensors(first, second)
    for key in sorted(configs[0].keys() & configs[1].keys() - _NOTES):
        values = [config[key] for config in configs]
        if values[0] != values[1] and not any(word in key for word in _TRAINING):
            yield f"its {key} is {_shortened(values[1])}, not {_shortened(values[0])}"
    modules = [[(module.name, module.path) for module in model.layout.modules] for model in (first, second)]  # fmt: skip
    settings = [[_module_config(model.folder / place) for _, place in of] for model, of in zip((first, second), modules, strict=True)]  # fmt: skip
    if modules[0] != modules[1] or settings[0] != settings[1]:
        yield "the modules behind its encoder are others"


def _differences_of_tensors(first: ModelFiles, second: ModelFiles) -> Iterator[str]:
    """Names and shapes of all tensors, then precisions, then the values of those that are no weights."""
    before, after = (
        {
            (place / name).as_posix(): tensor
            for place, part in model.parts.items()
            for name, tensor in part.items()
        }
        for model in (first, second)
    )
    for name in sorted(before.keys() ^ after.keys()):
        yield f"{name} is in the files of one of them alone"
    pairs = [(name, before[name], after[name]) for name in before if name in after]
    for name, tensor, changed in pairs:
        if tensor.shape != changed.shape:
            yield f"{name} has the shape {list(changed.shape)}, not {list(tensor.shape)}"
    for name, tensor, changed in pairs:
        if tensor.dtype != changed.dtype:
            yield f"{name} is stored as {changed.dtype}, not as {tensor.dtype}"
    for name, tensor, changed in pairs:
        if tensor.dtype not in FLOATS and tensor.read(0, tensor.size) != changed.read(0, tensor.size):  # fmt: skip
            yield f"{name} holds other numbers, and has no mean"


def _vocabulary(model: ModelFiles, place: Path) -> str:
    return read_vocabulary(model.folder / place).digest


def _module_config(folder: Path) -> Any:
    file = folder / "config.json"
    config = read_json(file) if file.is_file() else {}
    return None if "model_type" in config else config


def _shortened(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
