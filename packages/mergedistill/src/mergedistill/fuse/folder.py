"""Writes the folder of a fused model: the first model's files, with weights, card and record of its own."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from mergedistill.fuse.models import Fused, ModelFiles
from vocabmerge.encoder_folder.side_files import sort_side_files
from vocabmerge.encoder_folder.weight_files import PlannedTensor, write_safetensors
from vocabmerge.model_files import weight_files

_OF_ONE_MODEL = ("readme.md", "run.json", "curves.png")


def write_fused(models: Sequence[ModelFiles], out: Path, fused: Fused) -> None:
    """Write weights tensor by tensor, in the precision and under the names that they have, beside the first model's files.

    Tied weights are in files once, and stay tied. What describes the first model alone (card, record, exports, what a
    training left) is not copied.

    Args:
        models: see `read_models`.
        out: a new folder.
        fused: see `Fused`.
    """
    first = models[0]
    out.mkdir()
    for file in _copied(first):
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(first.folder / file, out / file)
    for place, part in first.parts.items():
        (out / place).mkdir(parents=True, exist_ok=True)
        planned = [
            PlannedTensor(stored=fused(place, name, [model.parts[place][name] for model in models]))
            for name in part
        ]
        write_safetensors(out / place / "model.safetensors", planned, {"format": "pt"})


def _copied(model: ModelFiles) -> list[Path]:
    weights = {
        file.relative_to(model.folder)
        for place in model.parts
        for file in (
            *weight_files(model.folder / place),
            *(model.folder / place).glob("*.index.json"),
        )
    }
    left_out = {*sort_side_files(model.layout).left_out, *weights}
    files = (path.relative_to(model.folder) for path in sorted(model.folder.rglob("*")) if path.is_file())  # fmt: skip
    return [
        file
        for file in files
        if file not in left_out
        and str(file).lower() not in _OF_ONE_MODEL
        and not any(part.startswith(".") or part == "__pycache__" for part in file.parts)
    ]
