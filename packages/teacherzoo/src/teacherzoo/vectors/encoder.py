"""A sentence encoder as sentence-transformers opens it, or one sentence why it cannot."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from teacherzoo.errors import TeacherError
from vocabmerge.open_models import quiet_transformers


def open_sentence_encoder(folder: Path, *, device: str | None = None) -> Any:
    """The `sentence_transformers.SentenceTransformer` of a folder, in float32; what is loaded meanwhile is not printed.

    Args:
        folder: with `modules.json`.
        device: where to; sentence-transformers chooses unless given.

    Raises:
        TeacherError: where sentence-transformers is not installed, or the folder is not one of its own or cannot be read.
    """
    if not (folder / "modules.json").is_file():
        raise TeacherError(
            f"{folder}: there is no modules.json, so nothing says how token states become a sentence's vector; save the model "
            "by sentence-transformers with its pooling, SentenceTransformer(modules=[Transformer(folder), Pooling(width, "
            "'mean')]).save(…), or leave sentence vectors out."
        )
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise TeacherError(
            f"{folder}: a sentence encoder is opened by sentence-transformers, which is not installed; "
            "pip install sentence-transformers (the extra `sentences`)."
        ) from error

    try:
        with quiet_transformers():
            return SentenceTransformer(str(folder), device=device, local_files_only=True).float()
    except (
        OSError,
        ValueError,
        KeyError,
        RuntimeError,
        TypeError,
        pickle.UnpicklingError,
    ) as error:
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise TeacherError(f"{folder}: sentence-transformers cannot open it: {first[0]}") from error
