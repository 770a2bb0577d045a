"""A teacher: a model folder, a masked LM or of another kind, opened, checked and named by the digests of its weights and tokenizer."""

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
from teacherzoo.encoders.kinds import (
    PLAIN_NAMES,
    encoder_folder,
    in_one_line,
    model_layout,
    open_whole,
)
from teacherzoo.errors import TeacherError
from teacherzoo.text.masking import TokenSpace
from vocabmerge import Kind, Layout, VocabularyError, tokenizer_digest
from vocabmerge.model_files import read_model_config
from vocabmerge.open_models import quiet_transformers

_VOCABULARY_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
_ENDLESS = 10**6  # tokenizers without a limit state an astronomical one


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A model from which others learn: what it says stands behind a mask, or what its encoder computes.

    Attributes:
        name: as the user named it: a folder or a Hub name.
        folder: where its files are.
        model: the whole model, in evaluation mode.
        head: the parts of a masked LM; None where it has no such head.
        layout: where the parts of its folder lie, of a model that was opened as what it was saved as; None for a masked LM.
        backend: its `tokenizers.Tokenizer`, without truncation and padding.
        space: the ids that masking must know; the mask is -1 where the tokenizer has none.
        max_length: the longest input in tokens.
        weights_digest: of weights and configuration.
        tokenizer_digest: of the tokenizer.
    """

    name: str
    folder: Path
    model: Any
    head: SplitHead | None
    backend: Any
    space: TokenSpace
    max_length: int
    weights_digest: str
    tokenizer_digest: str
    layout: Layout | None = None

    @property
    def kind(self) -> Kind:
        """What it was saved as."""
        return Kind.MASKED_LM if self.layout is None else self.layout.kind

    @property
    def tokenizer_folder(self) -> Path:
        """Where its tokenizer lies, in a folder of sentence-transformers with one of its own for each module."""
        return self.folder if self.layout is None else self.folder / self.layout.tokenizer

    @property
    def vocabulary_size(self) -> int:
        """Rows of the vocabulary: the ids that a masked LM distributes its probability over."""
        return int(self.model.config.vocab_size)

    @property
    def masked_lm(self) -> SplitHead:
        """`head`, for what asks it.

        Raises:
            TeacherError: where there is none.
        """
        if self.head is None:
            raise TeacherError(
                f"{self.name}: it is {PLAIN_NAMES[self.kind]}, whose files hold no masked-LM head, so it cannot say which token "
                "stands behind a mask; choose a model saved with its masked-LM head."
            )
        return self.head


@dataclass(frozen=True, kw_only=True)
class TextSide:
    """What of a teacher cuts text into tokens; see `Teacher` for the attributes."""

    name: str
    backend: Any
    space: TokenSpace
    vocabulary_size: int
    tokenizer_digest: str


def load_teacher(name: str | Path, *, headless: bool = False) -> Teacher:
    """Open a teacher.

    Args:
        name: a model folder, or a name in the catalogue or on the Hub (fetched if it is not in the local cache and the
            machine is online).
        headless: whether a model without a masked-LM head serves, too: an encoder alone, a sentence-transformers folder, a
            classifier, a reranker. It is opened as what it was saved as, without what its files lack, such as a pooler.

    Returns:
        The teacher in float32, in evaluation mode, on the CPU.

    Raises:
        TeacherError: where there is no such model; where it has no fast tokenizer, or, unless `headless`, no masked-LM
            head or no mask token; where weights are missing or need code of their own.
        VocabularyError: where a part of the folder is not understood.

    Example:
        >>> teacher = load_teacher("FacebookAI/xlm-roberta-base")  # doctest: +SKIP
        >>> teacher.max_length, teacher.vocabulary_size  # doctest: +SKIP
        (512, 250002)
    """
    folder = teacher_folder(name)
    if headless and (layout := model_layout(folder)).kind is not Kind.MASKED_LM:
        return _load_headless(name, layout)
    config = read_config(folder, name)
    tokenizer = read_tokenizer(folder, name)
    model = _read_model(folder, name)
    return assemble_teacher(name, folder, config=config, tokenizer=tokenizer, model=model)


def assemble_teacher(
    name: str | Path, folder: Path, *, config: Any, tokenizer: Any, model: Any
) -> Teacher:
    """Put a masked-LM teacher together from its loaded parts, checking that they fit."""
    model.eval()
    cut = _text_side(name, folder, config=config, tokenizer=tokenizer)
    return Teacher(
        name=cut.name,
        folder=folder,
        model=model,
        head=split_head(model),
        backend=cut.backend,
        space=cut.space,
        max_length=longest_text(config, tokenizer),
        weights_digest=weights_digest(folder),
        tokenizer_digest=cut.tokenizer_digest,
    )


def _load_headless(name: str | Path, layout: Layout) -> Teacher:
    """A teacher of any kind, with a masked-LM head where it is a sparse encoder."""
    tokenizer = read_tokenizer(layout.folder / layout.tokenizer, name, needs_mask=False)
    model = open_whole(layout)
    cut = _text_side(name, layout.folder / layout.tokenizer, config=model.config, tokenizer=tokenizer)  # fmt: skip
    weights_digest(encoder_folder(layout))  # refuses a folder without weights
    parts = sorted(file for pattern in ("config.json", "*.safetensors", "pytorch_model*.bin", "*.pt") for file in layout.folder.rglob(pattern))  # fmt: skip
    return Teacher(
        name=cut.name,
        folder=layout.folder,
        model=model,
        head=split_head(model) if layout.kind is Kind.SPARSE else None,
        layout=layout,
        backend=cut.backend,
        space=cut.space,
        max_length=longest_text(model.config, tokenizer),
        weights_digest=files_digest(parts),
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

    hub = find_teacher(str(name))
    patterns = ["*.json", "*.safetensors", "*.txt", "*.model", "*_linear.pt"]
    try:
        fetched = Path(snapshot_download(hub, allow_patterns=patterns))
        # Older repositories have weights in PyTorch's own format alone, of the model or of a module.
        if bare := [place for place in (fetched, *fetched.glob("[0-9]*_*")) if not any(place.glob("*.safetensors"))]:  # fmt: skip
            wanted = [(place / "pytorch_model*.bin").relative_to(fetched).as_posix() for place in bare]  # fmt: skip
            snapshot_download(hub, allow_patterns=wanted)
        return fetched
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
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    try:
        read_model_config(folder)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except VocabularyError as error:
        raise TeacherError(f"{error}.") from error
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        raise TeacherError(
            f"{name}: config.json cannot be read: {in_one_line(error)}; fetch or save the model again."
        ) from error
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


def read_tokenizer(folder: Path, name: str | Path, *, needs_mask: bool = True) -> Any:
    """The teacher's fast tokenizer, which must know a mask token where `needs_mask`.

    Raises:
        TeacherError: with the reason why it does not serve.
    """
    from transformers import AutoTokenizer

    require_tokenizer(folder, name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare Exception
        raise TeacherError(
            f"{name}: the tokenizer cannot be read: {in_one_line(error)}; fetch or save it again."
        ) from error
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise TeacherError(
            f"{name}: {type(tokenizer).__name__} has no fast form (tokenizer.json), and positions need its offsets."
        )
    if needs_mask and tokenizer.mask_token_id is None:
        raise TeacherError(
            f"{name}: its tokenizer has no mask token; a masked-LM teacher needs one, so name it as `mask_token` in its "
            "tokenizer_config.json, or choose another teacher."
        )
    return tokenizer


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has a file of a tokenizer; without any transformers may make up an empty one."""
    return any(True for pattern in _VOCABULARY_FILES for _ in folder.glob(pattern))


def require_tokenizer(folder: Path, name: str | Path) -> None:
    """Refuse a folder without a tokenizer, before it is read.

    Args:
        folder: where the tokenizer should be.
        name: as the user named the model.

    Raises:
        TeacherError: saying what to add.
    """
    if not has_tokenizer(folder):
        raise TeacherError(
            f"{name}: there is no tokenizer (tokenizer.json) beside the model; save the model's own into the folder, "
            "AutoTokenizer.from_pretrained(…).save_pretrained(folder)."
        )


def weights_digest(folder: Path) -> str:
    """BLAKE2b over configuration and weight files: what tells one teacher from another.

    Raises:
        TeacherError: where the folder holds no weights.
    """
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise TeacherError(
            f"{folder}: there is no .safetensors file and no pytorch_model.bin; save the model with its weights."
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
        with quiet_transformers():
            model, info = AutoModelForMaskedLM.from_pretrained(
                folder, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
            )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise TeacherError(
            f"{name}: the weights cannot be read: {in_one_line(error)}; fetch or save the model again."
        ) from error
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
        mask=-1 if tokenizer.mask_token_id is None else int(tokenizer.mask_token_id),
        pad=int(pad) if pad is not None else 0,
        unknown=tokenizer.unk_token_id,
        special=tuple(sorted(int(index) for index in special)),
        size=size,
    )


def _tokenizer_digest(folder: Path, backend: Any) -> str:
    """As vocabulary maps name it: by the file where there is one."""
    file = folder / "tokenizer.json"
    return tokenizer_digest(json.loads(file.read_bytes() if file.is_file() else backend.to_str()))


def longest_text(config: Any, tokenizer: Any) -> int:
    """Tokens of a text at most, special ones included, as far as a model's configuration and its tokenizer tell."""
    limits = (tokenizer.model_max_length, longest_row(config), _ENDLESS)
    return int(min(limit for limit in limits if limit and limit > 0))
