"""A model written into a folder of its teacher's layout: tokenizer, modules of sentence-transformers and prompts travel."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from bistil.errors import ExtractError
from teacherzoo import Teacher
from vocabmerge import Layout
from vocabmerge.open_models import quiet_transformers

_COPIED = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
    "vocab.json", "merges.txt", "*.model", "LICENSE*", "NOTICE", "modules.json",
    "config_sentence_transformers.json", "sentence_*_config.json", "router_config.json", "*_linear.pt",
)  # fmt: skip
_ANY_WIDTH = ("Transformer", "MLMTransformer", "Pooling", "Normalize", "SpladePooling", "Dropout")
_WEIGHTS = ("*.safetensors", "*.bin", "*.index.json")


def write_model(model: Any, teacher: Teacher, folder: Path) -> None:
    """Write a model in a teacher's layout, with the teacher's tokenizer, modules and prompts.

    Args:
        model: of the teacher's class; it may be narrower where `require_narrowable_modules` takes the teacher.
        teacher: whose folder's other parts are copied.
        folder: where to.
    """
    layout = teacher.layout
    place = folder if layout is None else folder / layout.transformers[0]
    copy_side_files(teacher.folder, layout, folder)
    for module in () if layout is None else layout.modules:
        if module.name == "Pooling":
            _set_width(folder / module.file, model.config.hidden_size)
    with quiet_transformers():
        model.save_pretrained(place)


def copy_side_files(source: Path, layout: Layout | None, folder: Path) -> None:
    """Copy what lies beside an encoder's weights and configuration: tokenizer, licence, modules of sentence-transformers.

    Args:
        source: the model's folder.
        layout: of it, where it was read.
        folder: where to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in _COPIED:
        for file in source.glob(pattern):
            shutil.copy(file, folder)
    for module in () if layout is None else layout.modules:
        if (source / module.path).is_dir() and module.path != Path():
            skipped = _WEIGHTS if module.path in layout.transformers else ()  # type: ignore[union-attr]  # it has modules
            shutil.copytree(source / module.path, folder / module.path, ignore=shutil.ignore_patterns(*skipped), dirs_exist_ok=True)  # fmt: skip


def _set_width(file: Path, width: int) -> None:
    """Where a pooling's configuration names another width, this one."""
    settings = json.loads(file.read_text(encoding="utf-8"))
    named = [name for name in ("embedding_dimension", "word_embedding_dimension") if name in settings]  # fmt: skip
    if any(settings[name] != width for name in named):
        settings |= dict.fromkeys(named, width)
        file.write_text(json.dumps(settings, indent=4) + "\n", encoding="utf-8")


def require_narrowable_modules(layout: Layout, width: int | None) -> None:
    """Refuse a narrower student where modules behind the encoder have weights for its width.

    Raises:
        ExtractError: naming the first.
    """
    if width is None:
        return
    behind = [str(module.path) for module in layout.modules if module.name not in _ANY_WIDTH]
    behind += sorted(file.name for file in layout.folder.glob("*_linear.pt"))
    if behind:
        raise ExtractError(
            f"width {width!r}: {behind[0]} of {layout.folder} reads states as wide as the teacher's; leave width out, and narrow "
            "the feed-forward layers alone."
        )
