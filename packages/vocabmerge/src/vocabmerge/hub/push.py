"""A finished folder on the Hugging Face Hub: how every package of ours uploads."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vocabmerge.errors import VocabularyError

_NAME = re.compile(r"[^/]+/[^/]+")


def refuse_bad_name(name: str) -> None:
    """Before any work: a name that the Hub would not take.

    Raises:
        VocabularyError: with what a name looks like.

    Example:
        >>> refuse_bad_name("someone/multilingual-e5-small-en-sw")
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # not in __all__

    reason = "without an owner"
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        reason = " ".join(str(error).split())
    else:
        if _NAME.fullmatch(name):
            return
    raise VocabularyError(
        f"{name!r} is no name for a model on the Hub ({reason}); name it OWNER/NAME"
    )


def bare_names(stated: Any) -> Any:
    """What a run was given, as others may read it: of whatever lies on this machine the name alone, not where.

    Args:
        stated: the name of a model, a file or a folder; or mappings and lists of such and of other values, which stay.

    Example:
        >>> bare_names({"teacher": "/home/me/xlmr", "texts": ["org/text"], "steps": 3})
        {'teacher': 'xlmr', 'texts': ['org/text'], 'steps': 3}
    """
    if isinstance(stated, Mapping):
        return {key: bare_names(value) for key, value in stated.items()}
    if isinstance(stated, list | tuple):
        return [bare_names(value) for value in stated]
    if not isinstance(stated, str | Path):
        return stated
    name, place = str(stated), Path(stated)
    if not name or not (place.is_absolute() or place.exists()):
        return name
    return place.name if place.name not in ("", "..") else place.resolve().name


def push_folder(
    folder: str | Path,
    name: str,
    *,
    public: bool = False,
    message: str = "A folder of vocabmerge",
    ignore: Sequence[str] = (),
) -> str:
    """Upload a finished folder as one commit, under the account that is logged in.

    Args:
        folder: what a command finished.
        name: `OWNER/NAME`; made if it is not there.
        public: whether others see a model that is made now.
        message: of the commit.
        ignore: patterns of files that stay here.

    Returns:
        Where it is.

    Raises:
        VocabularyError: a bad name, or the Hub cannot be reached or does not want it.
        KeyboardInterrupt: as it came, with a sentence on what is there and how it is pushed alone.

    Example:
        Without a folder to push nothing is asked of the Hub.

        >>> push_folder("nowhere", "someone/small")
        Traceback (most recent call last):
        vocabmerge.errors.VocabularyError: nowhere: expected a folder to push, there is none
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # its client's, whichever that is

    refuse_bad_name(name)
    if not Path(folder).is_dir():
        raise VocabularyError(f"{folder}: expected a folder to push, there is none")
    api, alone = HfApi(), _command(folder, name, public=public, ignore=ignore)
    try:
        api.create_repo(name, private=not public, exist_ok=True)
        made = api.upload_folder(
            repo_id=name,
            folder_path=folder,
            commit_message=message,
            ignore_patterns=list(ignore),
        )
    except (HTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise VocabularyError(
            f"{folder} is done, but the Hub did not take it as {name} ({reason}); log in with `hf auth login`, see to name "
            f"and connection, and push again, for example with `{alone}`"
        ) from error
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(
            f"Interrupted; {folder} is done, but not all of it is on the Hub as {name}; push it with `{alone}`."
        ) from error
    return str(made.repo_url)


def _command(folder: str | Path, name: str, *, public: bool, ignore: Sequence[str]) -> str:
    """What pushes a folder alone, as it is typed into a shell."""
    left_out = [word for pattern in ignore for word in ("--exclude", pattern)]
    return shlex.join(["hf", "upload", name, str(folder), *([] if public else ["--private"]), *left_out])  # fmt: skip
