"""Words of an encoder's Unigram and of a student's WordPiece, both as published, against a walk along the pieces' own letters.

DISTILLERY_E5 names a folder of multilingual-e5-small, whose tokenizer is that of XLM-R; DISTILLERY_SHARED, or `../shared` beside the
repository, has `real/tokenizers/bert-base-uncased/tokenizer.json.xz` and `data/corpora/CODE.txt.xz`.
"""

import lzma
import os
from collections.abc import Mapping
from itertools import accumulate, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from mergedistill.targets.encoder_words import EncoderWords
from teacherzoo.text.words import word_spans

SHARED = Path(os.environ.get("DISTILLERY_SHARED", Path(__file__).resolve().parents[4] / "shared"))
WORDPIECE = SHARED / "real/tokenizers/bert-base-uncased/tokenizer.json.xz"
E5 = os.environ.get("DISTILLERY_E5")
ODD = [
    "The ﬁrst ﬂoor, № ½ of Ⅷ, costs 25 ㎏ or x² …",
    "ＮＡＳＡ and Ｆｕｌｌ－ｗｉｄｔｈ letters; “Quotes”, École, naïve ÅNGSTRÖM",
    "NEWTON's iPhone weighed McDonald–Smith in U.S.A.",
    "她说：“你好，世界！” Then 東京タワー stood there.",
    "I 🙂 laugh 👩‍👩‍👧 and ☃ snow",
    "e\u0301 is the letter é in two code points",
]

pytestmark = [
    pytest.mark.slow,
    # A published tokenizer and corpora are others' files, which are not copied into the project.
    pytest.mark.skipif(E5 is None or not WORDPIECE.is_file(), reason="no real tokenizers and text"),
]


@pytest.fixture(scope="module")
def student() -> Tokenizer:
    return Tokenizer.from_str(lzma.decompress(WORDPIECE.read_bytes()).decode())


@pytest.fixture(scope="module")
def encoder() -> Tokenizer:
    return Tokenizer.from_file(str(Path(E5 or "", "tokenizer.json")))


@pytest.fixture(scope="module")
def lines() -> list[str]:
    prose = list(ODD)
    for code in ("en", "de", "zh"):
        with lzma.open(SHARED / f"data/corpora/{code}.txt.xz", "rt", encoding="utf-8") as file:
            prose += islice(file, 0, 6000, 60)
    return prose


def _pieces_of_words(words: list[str], pieces: list[str]) -> dict[int, list[int]]:
    """Of each word that pieces spell to the letter, their numbers; a piece without letters is of the word behind it."""
    assert "".join(words) == "".join(pieces)
    ends = [*accumulate(map(len, words))]
    stops = [0, *accumulate(map(len, pieces))]
    spelled = {}
    for word, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        inside = [
            number
            for number in range(len(pieces))
            if start <= stops[number] < end and stops[number + 1] <= end
        ]
        if "".join(pieces[number] for number in inside) == words[word] != "":
            spelled[word] = inside
    return spelled


def _expected(student: Tokenizer, encoder: Tokenizer, text: str, ids: list[int]) -> list[Any]:
    """The words that both spell: places in the block, and among the encoder's pieces with one special token before them."""
    special = {student.token_to_id(token) for token in ("[CLS]", "[SEP]", "[UNK]")}
    places = [place for place, piece in enumerate(ids) if piece not in special]
    letters = [student.id_to_token(ids[place]).removeprefix("##") for place in places]
    words = [text[start:stop] for start, stop in word_spans(text).tolist()]
    encoded = encoder.encode(text, add_special_tokens=False)
    normalized = [_without_spaces(encoder.normalizer.normalize_str(word)) for word in words]
    known = encoder.token_to_id("<unk>")
    theirs = _pieces_of_words(normalized, [_without_spaces(piece) for piece in encoded.tokens])
    ours = _pieces_of_words(words, letters)
    return [
        ([places[number] for number in ours[word]], [1 + number for number in theirs[word]])
        for word in range(len(words))
        if word in ours and word in theirs and known not in (encoded.ids[number] for number in theirs[word])
    ]  # fmt: skip


def _without_spaces(text: str) -> str:
    return "".join(text.replace("▁", " ").split())


def _numbers(words: Any) -> Mapping[int, list[int]]:
    return {word: (words == word).nonzero()[0].tolist() for word in range(1 + int(words.max()))}


def test_words_of_real_prose_are_met_where_both_tokenizers_spell_them_to_the_letter(
    student: Tokenizer, encoder: Tokenizer, lines: list[str]
) -> None:
    space = SimpleNamespace(unknown=encoder.token_to_id("<unk>"), pad=encoder.token_to_id("<pad>"))
    words_of = EncoderWords(student, SimpleNamespace(backend=encoder, max_length=512, space=space))
    met = total = in_pieces = 0

    for line in lines:
        ids = student.encode(line).ids
        text = student.decode(ids)
        if " don't" in text:  # as the library decodes "do not", which no pieces spell
            continue
        batch = SimpleNamespace(
            token_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.int64)
        )
        (block,) = words_of.blocks(batch)

        assert block.encoder_ids.tolist() == encoder.encode(text).ids
        own, theirs = _numbers(block.words), _numbers(block.encoder_words)
        expected = _expected(student, encoder, text, ids)
        assert [*zip(own.values(), theirs.values(), strict=True)] == expected, text
        met += len(expected)
        total += block.text_words
        in_pieces += sum(len(places) != len(numbers) for places, numbers in expected)
    assert 0.6 * total < met < total  # SentencePiece glues marks to words
    assert in_pieces > 100
