"""Words that are drawn alike for every tokenizer, and what that means where a token spans several."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from teacherzoo.text.blocks import blocks_of
from teacherzoo.text.corpora import Document, document_digest
from teacherzoo.text.masking import Masking, TokenSpace, masked_positions

MASKING = Masking(policy="whole_word", rate=0.3, seed=4)
SPACED = "der alte hund bellt und die neue katze sieht ihn an , so sagt man"
UNSPACED = {
    "zh": "今天天气很好我们一起去公园散步吧晚上回家吃饭再看一本书",
    "th": "วันนี้อากาศดีมากเราไปเดินเล่นในสวนกันเถอะ",
}


def tokenizer(text: str, *, longest: int) -> Tokenizer:
    """Cuts words into pieces of up to so many characters, the longest that fit."""
    words = text.split() + list("a")
    parts = {
        word[i : i + n] for word in words for n in range(1, longest + 1) for i in range(len(word))
    }
    pieces = [
        ("<unk>", 0.0),
        *((part, -10.0) for part in sorted(parts)),
    ]  # fewer pieces, higher score
    made = Tokenizer(models.Unigram(pieces, 0, byte_fallback=False))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


def hidden_tokens(text: str, longest: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The spans in characters of all tokens, and of those that are hidden."""
    backend = tokenizer(text, longest=longest)
    (block,) = blocks_of([Document(text, document_digest(text))], backend, length=512)
    space = TokenSpace(mask=0, pad=0, unknown=0, special=(0,), size=backend.get_vocab_size())
    chosen = masked_positions(block, MASKING, space=space, draw=0)
    spans = backend.encode(text).offsets
    return spans, [spans[index] for index in chosen]


def characters(spans: list[tuple[int, int]]) -> set[int]:
    return {place for start, stop in spans for place in range(start, stop)}


@pytest.mark.parametrize("longest", [2, 3, 50])
def test_the_same_characters_are_hidden_whatever_the_tokenizer(longest: int) -> None:
    spans, hidden = hidden_tokens(SPACED, longest)
    finer_spans, finer = hidden_tokens(SPACED, 1)

    assert len(spans) < len(finer_spans)
    assert characters(hidden) == characters(finer) != set()


@pytest.mark.parametrize("language", UNSPACED)
@pytest.mark.parametrize("longest", [2, 4])
def test_without_spaces_the_same_characters_are_drawn_and_hide_the_tokens_they_end(
    language: str, longest: int
) -> None:
    text = UNSPACED[language]
    spans, hidden = hidden_tokens(text, longest)
    _, drawn = hidden_tokens(
        text, 1
    )  # a token for each character: what is hidden is what was drawn

    assert max(stop - start for start, stop in spans) == longest
    assert hidden == [span for span in spans if span[1] - 1 in characters(drawn)]
    assert hidden


@pytest.mark.parametrize("language", UNSPACED)
def test_without_spaces_the_share_hidden_is_that_of_the_masking(language: str) -> None:
    text = UNSPACED[language] * 8
    for longest in (1, 2, 4):
        spans, hidden = hidden_tokens(text, longest)

        assert len(hidden) / len(spans) == pytest.approx(MASKING.rate, abs=0.1)
