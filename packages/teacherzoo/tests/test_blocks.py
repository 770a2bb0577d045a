import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from teacherzoo.text.blocks import blocks_of
from teacherzoo.text.corpora import Document, document_digest
from teacherzoo.text.words import word_ends, words_of_tokens


def document(text: str) -> Document:
    return Document(text, document_digest(text))


def byte_level(texts: list[str]) -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    return tokenizer


def metaspace(texts: list[str]) -> Any:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120,
        special_tokens=["<s>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return tokenizer


@pytest.fixture(scope="module")
def backends(lines: list[str], tokenizer: Any) -> dict[str, Any]:
    return {
        "WordPiece": tokenizer.backend_tokenizer,
        "byte-level BPE": byte_level(lines),
        "Unigram": metaspace(lines),
    }


@pytest.mark.parametrize("family", ["WordPiece", "byte-level BPE", "Unigram"])
def test_blocks_joined_are_the_tokens_of_the_document(
    backends: dict[str, Any], family: str, lines: list[str]
) -> None:
    backend = backends[family]
    long = document(" ".join(lines[:40]))

    blocks = list(blocks_of([long], backend, length=16))

    assert len(blocks) > 10
    assert all(len(block.token_ids) <= 16 for block in blocks)
    inside = np.concatenate([block.token_ids[block.words >= 0] for block in blocks])
    assert inside.tolist() == backend.encode(long.text, add_special_tokens=False).ids
    assert [block.part for block in blocks] == list(range(len(blocks)))


@pytest.mark.parametrize("family", ["WordPiece", "byte-level BPE", "Unigram"])
def test_blocks_are_cut_between_words(
    backends: dict[str, Any], family: str, lines: list[str]
) -> None:
    blocks = list(blocks_of([document(" ".join(lines[:40]))], backends[family], length=16))

    for left, right in itertools.pairwise(blocks):
        assert left.words.max() < right.words[right.words >= 0].min()


def test_blocks_never_cross_documents(backends: dict[str, Any], lines: list[str]) -> None:
    documents = [document(line) for line in dict.fromkeys(lines[:50])]

    blocks = list(blocks_of(documents, backends["WordPiece"], length=16))

    assert list(dict.fromkeys(block.document for block in blocks)) == [d.digest for d in documents]


def test_special_tokens_stand_around_every_block(backends: dict[str, Any]) -> None:
    blocks = list(blocks_of([document("abc " * 60)], backends["WordPiece"], length=16))

    assert len(blocks) > 1
    assert {(int(b.token_ids[0]), int(b.token_ids[-1])) for b in blocks} == {(2, 3)}


def test_a_word_longer_than_a_block_is_cut_inside(backends: dict[str, Any]) -> None:
    blocks = list(blocks_of([document("ab" * 60)], backends["byte-level BPE"], length=8))

    assert max(len(block.token_ids) for block in blocks) <= 8


@given(st.text(alphabet="ab ,.是ไ\n", max_size=40))
@settings(max_examples=100, deadline=None)
def test_every_visible_character_is_in_exactly_one_word(text: str) -> None:
    ends = word_ends(text)
    characters = [index for index, letter in enumerate(text) if not letter.isspace()]
    offsets = np.array([[index, index + 1] for index in characters]).reshape(-1, 2)

    words = words_of_tokens(offsets, ends).tolist()

    expected, word, open_word = [], -1, False
    for letter in text:
        if letter.isspace():
            open_word = False
            continue
        alone = letter in ",.是ไ"
        if alone or not open_word:
            word += 1
        open_word = not alone
        expected.append(word)
    assert words == expected


def test_a_token_with_its_leading_space_belongs_to_the_word_behind() -> None:
    ends = word_ends("one two")

    assert words_of_tokens(np.array([[0, 3], [3, 7], [3, 4]]), ends).tolist() == [0, 1, 1]
