"""A teacher: a masked-LM model folder, opened, checked and named by the digests of its weights and tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from teacherzoo.catalogue.catalogue import find_teacher, local_folder
from teacherzoo.encoders.families import longest_row
from teacherzoo.encoders.heads import SplitHead, split_head
from teacherzoo.errors import TeacherError
from teacherzoo.text.masking import TokenSpace
from vocabmerge import tokenizer_digest

_ENDLESS = 10**6  # tokenizers without a limit state an astronomical one


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A model that can say what stands behind a mask.

    Attributes:
        name: as the user named it: a folder or a Hub name.
        folder: where its files are.
        model: the whole model, in evaluation mode.
        head: its parts.
        backend: its `tokenizers.Tokenizer`, without truncation and padding.
        space: the ids that masking must know.
        max_length: the longest input in tokens.
        weights_digest: of weights and configuration.
        tokenizer_digest: of the tokenizer.
    """

    name: str
    folder: Path
    model: Any
    head: SplitHead
    backend: Any
    space: TokenSpace
    max_length: int
    weights_digest: str
    tokenizer_digest: str

    @property
    def vocabulary_size(self) -> int:
        """Rows of the decoder: the ids the teacher distributes its probability over."""
        return int(self.model.config.vocab_size)


@dataclass(frozen=True, kw_only=True)
class TextSide:
    """What of a teacher cuts text into tokens; see `Teacher` for the attributes."""

    name: str
    backend: Any
    space: TokenSpace
    vocabulary_size: int
    tokenizer_digest: str


def load_teacher(name: str | Path) -> Teacher:
    """Open a teacher.

    Args:
        name: a model folder, or a name in the catalogue or on the Hub (fetched if it is not in the local cache and the
            machine is online).

    Returns:
        The teacher in float32, in evaluation mode, on the CPU.

    Raises:
        TeacherError: where there is no such model; where it has no masked-LM head, no mask token, no fast tokenizer;
            where weights are missing or need code of their own.

    Example:
        >>> teacher = load_teacher("FacebookAI/xlm-roberta-base")  # doctest: +SKIP
        >>> teacher.max_length, teacher.vocabulary_size  # doctest: +SKIP
        (512, 250002)
    """
    folder = teacher_folder(name)
    config = read_config(folder, name)
    tokenizer = read_tokenizer(folder, name)
    model = _read_model(folder, name)
    return assemble_teacher(name, folder, config=config, tokenizer=tokenizer, model=model)


def assemble_teacher(
    name: str | Path, folder: Path, *, config: Any, tokenizer: Any, model: Any
) -> Teacher:
    """Put a teacher together from its loaded parts, checking that they fit."""
    model.eval()
    cut = _text_side(name, folder, config=config, tokenizer=tokenizer)
    return Teacher(
        name=cut.name,
        folder=folder,
        model=model,
        head=split_head(model),
        backend=cut.backend,
        space=cut.space,
        max_length=_max_length(config, tokenizer),
        weights_digest=weights_digest(folder),
        tokenizer_digest=cut.tokenizer_digest,
    )


def read_text_side(name: str | Path) -> TextSide:
    """What of a teacher cuts text, without its weights.

    Args:
        name: see `load_teacher`.

    Raises:
        TeacherError: where there is no such model; where it can be no masked LM, has no mask token or no fast tokenizer.
    """
    folder = teacher_folder(name)
    config, tokenizer = read_config(folder, name), read_tokenizer(folder, name)
    return _text_side(name, folder, config=config, tokenizer=tokenizer)


def _text_side(name: str | Path, folder: Path, *, config: Any, tokenizer: Any) -> TextSide:
    rows = int(config.vocab_size)
    space = _token_space(name, tokenizer)
    if space.size > rows:
        raise TeacherError(
            f"{name}: the tokenizer has {space.size:,} ids but the model only {rows:,} rows; they do not belong together."
        )
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return TextSide(
        name=str(name),
        backend=backend,
        space=space,
        vocabulary_size=rows,
        tokenizer_digest=_tokenizer_digest(folder, backend),
    )


def teacher_folder(name: str | Path) -> Path:
    """The folder of a teacher: the path itself, or the Hub's snapshot of what the catalogue or the Hub calls so.

    Raises:
        TeacherError: where there is none.
    """
    folder = local_folder(name)
    if folder is not None:
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.txt", "*.model"]
    try:
        return Path(snapshot_download(find_teacher(str(name)), allow_patterns=patterns))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise TeacherError(
            f"{name}: neither a folder, nor in the local cache, nor to be had from the Hub "
            f"({type(error).__name__}); give a folder, or fetch it while online."
        ) from error


def read_config(folder: Path, name: str | Path) -> Any:
    """The model's configuration, if it can be a masked LM.

    Raises:
        TeacherError: with the reason why not.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise TeacherError(f"{name}: config.json cannot be read: {_one_line(error)}") from error
    if config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        raise TeacherError(
            f"{name}: a {config.model_type!r} model has no masked-LM form in transformers; choose an encoder."
        )
    saved = (getattr(config, "architectures", None) or [None])[0]
    # BERT-like `ForPreTraining` checkpoints hold the masked-LM head; ELECTRA's holds a discriminator.
    usable = saved is None or "MaskedLM" in saved or saved == "BertForPreTraining"
    if not usable:
        raise TeacherError(
            f"{name}: it was saved as {saved}, whose head cannot say which token stands behind a mask; "
            "choose a model saved with its masked-LM head."
        )
    return config


def read_tokenizer(folder: Path, name: str | Path) -> Any:
    """The teacher's fast tokenizer, which must know a mask token.

    Raises:
        TeacherError: with the reason why it does not serve.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise TeacherError(f"{name}: the tokenizer cannot be read: {_one_line(error)}") from error
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise TeacherError(
            f"{name}: {type(tokenizer).__name__} has no fast form (tokenizer.json), and positions need its offsets."
        )
    if tokenizer.mask_token_id is None:
        raise TeacherError(
            f"{name}: its tokenizer has no mask token; a masked-LM teacher needs one."
        )
    return tokenizer


def weights_digest(folder: Path) -> str:
    """BLAKE2b over configuration and weight files: what tells one teacher from another.

    Raises:
        TeacherError: where the folder holds no weights.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise TeacherError(
            f"{folder}: there is no .safetensors file; save the model with safetensors."
        )
    return files_digest([folder / "config.json", *files])


def files_digest(files: Iterable[Path]) -> str:
    """BLAKE2b over the bytes of files, in the order given, 16 bytes as hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()


def _read_model(folder: Path, name: str | Path) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoModelForMaskedLM

    try:
        model, info = AutoModelForMaskedLM.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise TeacherError(f"{name}: the weights cannot be read: {_one_line(error)}") from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise TeacherError(
            f"{name}: {len(missing)} weights are not in its files, among them {missing[0]!r}, and would be random; "
            "choose a model saved with its masked-LM head."
        )
    return model


def _token_space(name: str | Path, tokenizer: Any) -> TokenSpace:
    special = set(tokenizer.all_special_ids)
    special.update(
        index for index, token in tokenizer.added_tokens_decoder.items() if token.special
    )
    size = max(tokenizer.get_vocab().values()) + 1
    if len(special) >= size:
        raise TeacherError(
            f"{name}: every one of its {size} tokens is special; nothing can be masked."
        )
    pad = tokenizer.pad_token_id
    return TokenSpace(
        mask=int(tokenizer.mask_token_id),
        pad=int(pad) if pad is not None else 0,
        unknown=tokenizer.unk_token_id,
        special=tuple(sorted(int(index) for index in special)),
        size=size,
    )


def _tokenizer_digest(folder: Path, backend: Any) -> str:
    """As vocabulary maps name it: by the file where there is one."""
    file = folder / "tokenizer.json"
    return tokenizer_digest(json.loads(file.read_bytes() if file.is_file() else backend.to_str()))


def _max_length(config: Any, tokenizer: Any) -> int:
    limits = (tokenizer.model_max_length, longest_row(config), _ENDLESS)
    return int(min(limit for limit in limits if limit and limit > 0))


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
