"""The text of a tiny teacher: a tokenizer trained on it, and blocks packed with its pieces."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from teacherzoo.errors import TeacherError
from teacherzoo.pretrain.config import PretrainingConfig
from teacherzoo.progress import ProgressCallback
from teacherzoo.text.corpora import Corpus, Part

_SAMPLE = 200_000  # documents a language gives to the tokenizer's trainer: more changes no piece worth having
_LETTERS = 1000  # that a WordPiece tokenizer knows; the trainer has no more, either
_TOGETHER = 2000  # documents tokenized in one call
_CHARACTERS = 1 << 22  # after which no further ones are: a tokenizer holds some 35 bytes for each
_BERT = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_ROBERTA = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}


def train_tokenizer(
    corpora: Sequence[Corpus],
    config: PretrainingConfig,
    file: Path,
    *,
    watch: ProgressCallback,
) -> Any:
    """Train the tokenizer of `config` on the training parts, or read it from `file` where an earlier run left it.

    Returns:
        A fast tokenizer of transformers.
    """
    from transformers import PreTrainedTokenizerFast

    names = _BERT if config.family == "wordpiece" else _ROBERTA
    if not file.exists():
        watch(0, 1, "training the tokenizer")
        backend = _untrained(config, names)
        letters = _letters(backend, corpora) if config.family == "wordpiece" else []
        backend.train_from_iterator(_lines(corpora), _trainer(config, names, letters))
        backend = _without_special(backend, letters)
        cls, sep = names["cls"], names["sep"]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{cls} $A {sep}",
            pair=f"{cls} $A {sep} $B:1 {sep}:1",
            special_tokens=[(name, backend.token_to_id(name)) for name in (cls, sep)],
        )
        part = file.with_suffix(".part")
        backend.save(str(part))
        part.replace(file)
        watch(1, 1, "training the tokenizer")
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_file(str(file)),
        model_max_length=max(512, config.length),
        **{f"{role}_token": name for role, name in names.items()},
    )


def pack(
    corpora: Sequence[Corpus], tokenizer: Any, length: int, *, part: Part
) -> dict[str, NDArray[np.int32]]:
    """Documents behind one another, a separator after each, cut into blocks with the tokenizer's frame around.

    Returns:
        Per language [N, length]; a last block that would not be full is dropped.
    """
    return {
        corpus.language: np.concatenate([*stream_blocks(corpus, tokenizer, length, part=part)])
        for corpus in corpora
    }


def stream_blocks(
    corpus: Corpus, tokenizer: Any, length: int, *, part: Part
) -> Iterator[NDArray[np.int32]]:
    """A corpus packed as by `pack`, some documents at a time: the rows [n, length] that they fill.

    Raises:
        CorpusError: as `Corpus.documents` does.
        TeacherError: for a tokenizer without a token that begins or ends a text.
    """
    first, last = _edges(tokenizer)
    separator = np.array([last], dtype=np.int32)
    documents = (document.text for document in replace(corpus, part=part).documents())
    # The first place is for the classification token; a separator ends most blocks by itself.
    inside = length - 1
    left = np.empty(0, dtype=np.int32)
    while texts := _next_texts(documents):
        pieces = [left]
        for encoding in tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False):  # fmt: skip
            pieces += [np.array(encoding.ids, dtype=np.int32), separator]
        stream = np.concatenate(pieces)
        rows, left = np.split(stream, [len(stream) // inside * inside])
        rows = rows.reshape(-1, inside)
        yield np.hstack([np.full((len(rows), 1), first, dtype=np.int32), rows])


def _next_texts(documents: Iterator[str]) -> list[str]:
    texts, size = [], 0
    for text in islice(documents, _TOGETHER):
        texts.append(text)
        size += len(text)
        if size >= _CHARACTERS:
            break
    return texts


def _edges(tokenizer: Any) -> tuple[int, int]:
    """What begins and what ends a text: the tokens for classification and separation, or those of a decoder's tokenizer."""
    pairs = [
        (tokenizer.cls_token_id, tokenizer.bos_token_id),
        (tokenizer.sep_token_id, tokenizer.eos_token_id),
    ]
    edges = [token for pair in pairs for token in [t for t in pair if t is not None][:1]]
    if len(edges) < len(pairs):
        raise TeacherError(
            "The tokenizer names no token that begins a text (cls_token, bos_token) or none that ends it (sep_token, eos_token); "
            "name them in its tokenizer_config.json."
        )
    first, last = edges
    return int(first), int(last)


def _lines(corpora: Sequence[Corpus]) -> Iterator[str]:
    for corpus in corpora:
        for document in islice(replace(corpus, part="train").documents(), _SAMPLE):
            yield document.text


def _untrained(config: PretrainingConfig, names: dict[str, str]) -> Tokenizer:
    lower = [] if config.cased else [normalizers.Lowercase()]
    if config.family == "wordpiece":
        backend = Tokenizer(models.WordPiece(unk_token=names["unk"]))
        backend.normalizer = normalizers.BertNormalizer(
            lowercase=not config.cased, strip_accents=False
        )
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece()
    elif config.family == "unigram":
        backend = Tokenizer(models.Unigram())
        backend.normalizer = normalizers.Sequence([normalizers.NFKC(), *lower])
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
    else:
        backend = Tokenizer(models.BPE())
        backend.normalizer = normalizers.Sequence([normalizers.NFC(), *lower])
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
    return backend


def _letters(backend: Tokenizer, corpora: Sequence[Corpus]) -> list[str]:
    """The commonest letters, as they begin words and as they go on in them."""
    counts: Counter[str] = Counter()
    for line in _lines(corpora):
        counts.update("".join(backend.normalizer.normalize_str(line).split()))
    ordered = sorted(counts, key=lambda letter: (-counts[letter], letter))[:_LETTERS]
    return [*ordered, *(f"##{letter}" for letter in ordered)]


def _without_special(backend: Tokenizer, letters: Sequence[str]) -> Tokenizer:
    """The tokenizer, to which these pieces are ordinary again."""
    stated = json.loads(backend.to_str())
    plain = set(letters)
    stated["added_tokens"] = [
        added for added in stated["added_tokens"] if added["content"] not in plain
    ]
    return Tokenizer.from_str(json.dumps(stated))


def _trainer(config: PretrainingConfig, names: dict[str, str], letters: Sequence[str]) -> Any:
    options: dict[str, Any] = {
        "vocab_size": config.vocabulary,
        # The trainer numbers letters as it meets words, in an order that changes from run to run, and breaks ties by these
        # numbers. What is called special is numbered first, as stated.
        "special_tokens": [*names.values(), *letters],
        "show_progress": False,
    }
    if config.family == "wordpiece":
        return trainers.WordPieceTrainer(**options)
    if config.family == "unigram":
        return trainers.UnigramTrainer(unk_token=names["unk"], **options)
    return trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **options)
