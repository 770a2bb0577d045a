"""Tiny teachers and texts, made where they are needed; nothing is fetched."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def sentences(count: int, *, seed: int = 0, longest: int = 30) -> list[str]:
    """Lines of made-up words, Zipf-like."""
    chance = random.Random(seed)
    words = ["".join(chance.choices("abcdefghij", k=chance.randint(2, 6))) for _ in range(200)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    return [
        " ".join(chance.choices(words, weights, k=chance.randint(1, longest))) + "."
        for _ in range(count)
    ]


def wordpiece(texts: list[str], size: int = 300) -> PreTrainedTokenizerFast:
    """A BERT-like tokenizer of these texts."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=SPECIALS, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def save_teacher(
    folder: Path, tokenizer: PreTrainedTokenizerFast, *, seed: int = 0, **options: Any
) -> Path:
    """A random BERT with that tokenizer, wide enough in its weights to have opinions."""
    torch.manual_seed(seed)
    config = BertConfig(
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 64,
            "initializer_range": 0.5,
            **options,
        }
    )
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def lines() -> list[str]:
    return sentences(300)


@pytest.fixture(scope="session")
def tokenizer(lines: list[str]) -> PreTrainedTokenizerFast:
    return wordpiece(lines)


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    return save_teacher(tmp_path_factory.mktemp("teacher"), tokenizer)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> Path:
    path = tmp_path_factory.mktemp("text") / "en.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory, teacher: Path, text: Path) -> Path:
    """One finished recording in several shards; tests that change it copy it first."""
    from teacherzoo import Corpus, record

    folder = tmp_path_factory.mktemp("signals")
    record(teacher, [Corpus("en", text)], folder, block_length=32, shard_bytes=8000)
    return folder


@pytest.fixture
def make_teacher() -> Callable[..., Path]:
    return save_teacher


@pytest.fixture
def make_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    return wordpiece


@pytest.fixture
def make_sentences() -> Callable[..., list[str]]:
    return sentences
