"""A model by its name on the Hugging Face Hub: the files that a trim needs, and no second copies of the weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from vocabmerge.errors import VocabularyError

_WANTED = (".json", ".safetensors", ".txt", ".model", ".pt", ".jinja")
_LEGAL = ("LICENSE", "LICENCE", "NOTICE", "COPYING", "README.md")
_OTHER_FORMATS = {"onnx", "openvino", "coreml", "tflite"}
_TRAINING = re.compile(r"(optimizer|scheduler|rng_state|scaler|training_args).*")
_CHECKPOINT = re.compile(r"checkpoint-\d+")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def model_folder(source: str | Path, *, revision: str | None = None) -> Path:
    """The folder of a model: the path itself, or the Hub's snapshot of what has that name there.

    Args:
        source: a folder or file, or `OWNER/NAME` on the Hub. A `Path` is never asked of the Hub.
        revision: branch, tag or commit, for a name on the Hub.

    Returns:
        The path, or the snapshot in the local cache, with every file of `files_to_fetch`.

    Raises:
        VocabularyError: nothing of that name here, or on the Hub, or none that can be reached.

    Example:
        >>> from pathlib import Path
        >>> Path("model").mkdir()
        >>> model_folder("model").name
        'model'
    """
    path = Path(source)
    if path.exists():
        if revision is not None:
            raise VocabularyError(
                f"{source}: --revision {revision} is for a name on the Hub, and this is a {'folder' if path.is_dir() else 'file'} "
                "here; leave --revision out, or move the folder aside"
            )
        return path
    if not is_hub_name(source):
        raise VocabularyError(f"{source}: no such file or folder, and no name on the Hub")
    return _snapshot(str(source), revision)


def is_hub_name(source: str | Path) -> bool:
    """Whether what is not a path here may be a model on the Hub: OWNER/NAME, and no misspelt path.

    Example:
        >>> is_hub_name("intfloat/multilingual-e5-small"), is_hub_name("./model"), is_hub_name("tokenizer.json")
        (True, False, False)
    """
    name = str(source)
    return (
        isinstance(source, str)
        and _HUB_NAME.fullmatch(name) is not None
        and not name.startswith(".")
        and PurePosixPath(name).suffix not in _WANTED
        and not ("/" in name and Path(name).parent.is_dir())
    )


def files_to_fetch(names: Sequence[str]) -> list[str]:
    """Of a repository's files those that a model of any kind needs, sorted.

    Settings, vocabularies, side files and licences; weights as safetensors, and as `.bin` in a folder that has no
    safetensors. Not: other frameworks' and formats' weights, checkpoints of a training, code.

    Args:
        names: paths in the repository, with `/`.

    Example:
        >>> files_to_fetch(["config.json", "model.safetensors", "pytorch_model.bin", "onnx/model.onnx",
        ...                 "2_Dense/pytorch_model.bin", "tf_model.h5", "LICENSE"])
        ['2_Dense/pytorch_model.bin', 'LICENSE', 'config.json', 'model.safetensors']
    """
    paths = [PurePosixPath(name) for name in names]
    with_safetensors = {path.parent for path in paths if path.suffix == ".safetensors"}
    return sorted(str(path) for path in paths if _needed(path, with_safetensors))


def _needed(path: PurePosixPath, with_safetensors: set[PurePosixPath]) -> bool:
    if any(
        part.startswith(".") or part in _OTHER_FORMATS or _CHECKPOINT.fullmatch(part)
        for part in path.parts
    ):
        return False
    if path.name.split(".")[0] in _LEGAL or path.name == "README.md":
        return True
    if _TRAINING.fullmatch(path.name):
        return False
    if path.suffix == ".bin":
        return path.parent not in with_safetensors
    return path.suffix in _WANTED and not (
        path.name.endswith(".bin.index.json") and path.parent in with_safetensors
    )


def local_files(folder: Path) -> list[str]:
    """The files of a folder by their paths in it, with `/`, sorted."""
    return sorted(
        file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()
    )


def _snapshot(name: str, revision: str | None) -> Path:
    from glob import escape

    from huggingface_hub import HfApi, errors, snapshot_download

    try:
        listed = HfApi().model_info(name, revision=revision).siblings or []
        wanted = files_to_fetch([file.rfilename for file in listed])
        with _no_bars():
            return Path(
                snapshot_download(name, revision=revision, allow_patterns=[*map(escape, wanted)])
            )
    except errors.RevisionNotFoundError as error:
        raise VocabularyError(
            f"{name}: the Hub has no revision {revision!r} of it; give a branch, a tag or a commit"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise VocabularyError(
            f"{name}: no such file or folder, and no model of that name on the Hub that you may read; see to the "
            "name, ask for access on its page, or log in with `hf auth login`"
        ) from error
    except errors.HFValidationError as error:
        raise VocabularyError(f"{name}: no such file or folder, and no name on the Hub") from error
    except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]  # its client's, whichever that is
        return _cached(name, revision, error)


def _cached(name: str, revision: str | None, error: Exception) -> Path:
    """The snapshot that an earlier fetch left, where the Hub cannot be reached."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_CACHE

    at = f" --revision {revision}" if revision else ""
    advice = (
        f"fetch it where there is a connection, with `hf download {name}{at}`, into the same cache "
        f"({HF_HUB_CACHE}), or pass a folder"
    )
    unreachable = f"the Hub cannot be reached ({type(error).__name__})"
    for file in ("config.json", "modules.json", "tokenizer.json"):
        path = try_to_load_from_cache(name, file, revision=revision)
        if isinstance(path, str):
            folder = Path(path).parent
            weights = any(member.suffix in (".safetensors", ".bin") for member in folder.rglob("*"))
            if weights or file == "tokenizer.json":
                return folder
            raise VocabularyError(
                f"{name}: the local cache holds its settings without its weights, and {unreachable}; {advice}"
            ) from error
    raise VocabularyError(
        f"{name}: no such file or folder, not in the local cache, and {unreachable}; {advice}"
    ) from error


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without the Hub's progress bars: a library is silent."""
    from huggingface_hub import utils

    bars: Any = utils  # whose switches are not in its __all__
    shown = not bars.are_progress_bars_disabled()
    if shown:
        bars.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bars()
