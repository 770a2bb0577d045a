"""Opens a model folder as the class of transformers that its config names, silently; imports torch and transformers late."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vocabmerge.config_ids import ids_named, token_ids
from vocabmerge.errors import VocabularyError
from vocabmerge.model_files import read_model_config, stored_names
from vocabmerge.models import token_ids_of

_NO_CODE = (
    "code that comes with a model is not run here, convert the model to a stock architecture first"
)


def open_model(folder: Path) -> Any:
    """Load a model folder as the class that its config names, in the precision of its file.

    Raises:
        VocabularyError: no config, an architecture that transformers does not have, or unreadable weights.
    """
    _, architecture = config_and_class(folder)
    with _loading(folder):
        model = architecture.from_pretrained(folder, dtype="auto")
    embedding = model.get_input_embeddings().weight
    names = {
        name for name, tensor in model.state_dict(keep_vars=True).items() if tensor is embedding
    }
    if not names & stored_names(folder, model).keys():
        raise VocabularyError(
            f"{folder}: expected the embedding in its weights, found no {min(names)}, which transformers would make "
            "up; fetch or save the model again"
        )
    return model


def config_and_class(folder: Path) -> tuple[Any, Any]:
    """The config of a model folder, and the class of transformers that it names.

    Raises:
        VocabularyError: no config, or an architecture that transformers does not have.
    """
    try:
        import transformers
    except ImportError as error:
        raise VocabularyError(
            "models need torch and transformers: pip install 'vocabmerge[models]'"
        ) from error
    file = folder / "config.json"
    settings = read_model_config(folder) if file.is_file() else {}
    list(ids_named(token_ids(settings), file=file))  # transformers' own refusal is three sentences
    stated = settings.get("model_type")
    # Where none is stated, transformers takes the folder's name for one.
    if (
        "model_type" in settings or "auto_map" in settings
    ) and stated not in transformers.CONFIG_MAPPING:
        step = (
            _NO_CODE
            if "auto_map" in settings
            else "mend its config.json, or install a newer transformers"
        )
        raise VocabularyError(
            f"{folder}: transformers {transformers.__version__} has no model type {stated!r}; {step}"
        )
    with _loading(folder):
        # Said aloud: otherwise transformers asks whether to run the code, and runs it.
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    named = (config.architectures or ["AutoModel"])[0]
    architecture = getattr(transformers, named, None)
    if architecture is None:
        raise VocabularyError(
            f"{folder}: transformers {transformers.__version__} has no {named!r}; {_NO_CODE}"
        )
    return config, architecture


def model_without_values(folder: Path, *, rows: int | None = None) -> Any:
    """The model of a folder's class and config on torch's meta device: names, shapes and ties, and no weights.

    Args:
        folder: the model's.
        rows: of its vocabulary, by default the config's.

    Raises:
        VocabularyError: no config, or an architecture that transformers does not have.
    """
    config, architecture = config_and_class(folder)
    import torch

    if rows is not None:
        config.vocab_size = rows
    with _loading(folder), torch.device("meta"):
        return getattr(architecture, "from_config", architecture)(config)


def config_token_ids(folder: Path) -> dict[str, Any]:
    """Every `…_token_id` of a model folder's config, those that are its class's defaults included."""
    config, _ = config_and_class(folder)
    return token_ids_of(config)


@contextmanager
def _loading(folder: Path) -> Iterator[None]:
    """Silently, and what transformers says of a folder that it cannot load in one sentence."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        with quiet_transformers():
            yield
    except (OSError, ValueError, KeyError, RuntimeError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise VocabularyError(f"{folder}: cannot load the model: {reason}") from error


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without the progress bars and load reports of transformers: a library is silent.

    The report lists the parameters that the file lacks and transformers made up; whoever loads refuses them or does not write them.
    """
    from transformers.utils import logging

    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
