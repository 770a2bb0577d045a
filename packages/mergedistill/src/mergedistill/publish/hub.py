"""A finished student on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from mergedistill.errors import StageError
from mergedistill.recipe.stages import FACTS
from teacherzoo.cache import NOTE


def refuse_bad_name(name: str) -> None:
    """Before anything is trained: a name that the Hub would not take.

    Raises:
        StageError: with what a name looks like.

    Example:
        >>> refuse_bad_name("someone/one-student")
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # not in __all__

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise StageError(
            f"{name!r} is no name for a model on the Hub ({' '.join(str(error).split())}); name it OWNER/MODEL."
        ) from error


def push(student: Path, name: str, *, public: bool = False) -> str:
    """Upload a student's folder as one commit, under the account that is logged in.

    Args:
        student: a folder that `run` finished.
        name: `owner/model`; made if it is not there.
        public: whether others see a model that is made now.

    Returns:
        Where it is.

    Raises:
        StageError: where the Hub cannot be reached or does not want it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # its client's, whichever that is

    refuse_bad_name(name)
    api = HfApi()
    try:
        api.create_repo(name, private=not public, exist_ok=True)
        made = api.upload_folder(
            repo_id=name,
            folder_path=student,
            commit_message="A student distilled by mergedistill",
            ignore_patterns=[FACTS, NOTE],
        )
    except (HTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise StageError(
            f"{student} is done, but the Hub did not take it as {name} ({reason}); log in with `hf auth login`, see to name and "
            "connection, and run again with --push."
        ) from error
    return str(made.repo_url)
