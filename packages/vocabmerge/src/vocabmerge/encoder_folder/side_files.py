"""Sorts the files of a model folder: written anew, copied as they are, or left out as of no use to a smaller model."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from vocabmerge.encoder_folder.layout import CONFIG, GENERATION_CONFIG, Kind, Layout
from vocabmerge.encoder_folder.weight_files import side_shapes
from vocabmerge.errors import VocabularyError
from vocabmerge.model_files import weight_files

_TOKENIZER = re.compile(
    r"(tokenizer(_config)?|special_tokens_map|added_tokens|vocab|unigram)\.json|vocab\.txt|merges\.txt|bpe\.codes"
    r"|.*\.(model|spm|tiktoken)"
)
_WEIGHTS = re.compile(r"(pytorch_model|model)([-.].*)?\.(safetensors|bin)(\.index\.json)?")
_EXPORT_FOLDERS = ("onnx", "openvino", "coreml", "tflite", "gguf", "mlx", "tensorrt")
_EXPORTS = re.compile(
    r"tf_model.*|flax_model.*|rust_model.*|openvino_.*|.*\.(onnx|onnx_data|gguf|h5|msgpack|ot|tflite|mlmodel|engine)"
)
_TRAINING = re.compile(
    r"checkpoint-\d+|runs|training_args\.bin|optimizer\..*|scheduler\..*|rng_state.*|trainer_state\.json|events\.out.*"
    r"|stage\.json|made_of\.json"  # mergedistill's and teacherzoo's notes of what a folder was made from
)
_REPORTS = ("report.json", "maps")  # of an earlier trim
_CARD = re.compile(r"readme(\.(md|rst|txt))?", re.IGNORECASE)
_TERMS = re.compile(r"(licen[cs]e|notice|copying).*|chat_template\.jinja", re.IGNORECASE)
_TENSORS = (".pt", ".pth", ".bin", ".safetensors", ".npy", ".npz")
_FORMAT = {".safetensors": "model.safetensors", ".bin": "pytorch_model.bin"}
_PICKLES = (".pkl", ".pickle", ".joblib", ".ckpt")


@dataclass(frozen=True, kw_only=True)
class SideFiles:
    """What becomes of the files beside the weights and the tokenizer; paths are relative to the model's folder.

    Args:
        copied: as they are.
        left_out: exports and copies of the whole model, what training left behind, the report and maps of an earlier
            trim.
    """

    copied: tuple[Path, ...]
    left_out: tuple[Path, ...]


def sort_side_files(layout: Layout) -> SideFiles:
    """Tell the files that travel from those that would describe another model.

    Hidden files, a README (the card of the whole model), older forms of the tokenizer and what is written anew are in
    neither list. Of a tokenizer alone its licence travels.
    """
    if not layout.folder.is_dir():
        return SideFiles(copied=(), left_out=())
    files = [path.relative_to(layout.folder) for path in sorted(layout.folder.rglob("*"))]
    files = [file for file in files if (layout.folder / file).is_file() and not _hidden(file)]
    if layout.kind is Kind.TOKENIZER:
        terms = [file for file in files if len(file.parts) == 1 and _TERMS.fullmatch(file.name)]
        return SideFiles(copied=tuple(terms), left_out=())
    anew = _written_anew(layout)
    files = [file for file in files if file not in anew]
    left_out = [file for file in files if _is_left_out(file, layout)]
    stale = [file for file in files if _is_tokenizer(file, layout)]
    return SideFiles(
        copied=tuple(file for file in files if file not in {*left_out, *stale}),
        left_out=tuple(left_out),
    )


def side_parameters(
    folder: Path, files: Collection[Path], rows: Collection[int]
) -> dict[Path, int]:
    """Count the parameters of side files, and refuse one with a tensor that may have one value per piece.

    Args:
        folder: the model's.
        files: what is to be copied from it.
        rows: how many rows the tables of its vocabulary have.

    Returns:
        How many values each file with tensors has.

    Raises:
        VocabularyError: such a tensor, or a file whose tensors cannot be read.
    """
    parameters = {}
    for file in files:
        if file.suffix in _PICKLES:
            raise VocabularyError(
                f"{folder / file}: a pickle is not read here, so that what it knows of the vocabulary cannot be told; "
                "take it out of the folder, or save its tensors as safetensors"
            )
        if file.suffix not in _TENSORS:
            continue
        shapes = dict(side_shapes(folder / file))
        for name, shape in shapes.items():
            if set(shape) & set(rows):
                raise VocabularyError(
                    f"{folder / file}: {name or 'its tensor'} has the shape {list(shape)}, as long as the vocabulary, "
                    "and what it means is not known here; take the file out of the folder"
                )
        parameters[file] = sum(math.prod(shape) for shape in shapes.values())
    return parameters


def _hidden(file: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in file.parts)


def _parts(layout: Layout) -> set[Path]:
    """The folders whose weights have one row per piece."""
    return {*layout.transformers, *(module.path for module in layout.tables)}


def _written_anew(layout: Layout) -> set[Path]:
    """Weights and configs that a trim changes, and the card."""
    names = {path.name for path in layout.folder.iterdir() if _CARD.fullmatch(path.name)}
    anew = {Path(name) for name in names}
    for part in _parts(layout):
        read = weight_files(layout.folder / part)
        anew.update(part / file.name for file in read)
        anew.add(part / f"{_FORMAT[read[0].suffix]}.index.json")
    anew.update(part / CONFIG for part in layout.transformers)
    anew.update(part / GENERATION_CONFIG for part in layout.transformers)
    return anew


def _is_left_out(file: Path, layout: Layout) -> bool:
    return (
        file.parts[0] in (*_EXPORT_FOLDERS, *_REPORTS)
        or any(_TRAINING.fullmatch(part) for part in file.parts)
        or bool(_EXPORTS.fullmatch(file.name))
        or (file.parent in _parts(layout) and bool(_WEIGHTS.fullmatch(file.name)))
    )


def _is_tokenizer(file: Path, layout: Layout) -> bool:
    return file.parent in layout.tokenizers and bool(_TOKENIZER.fullmatch(file.name))
