"""Words that are drawn alike for every tokenizer, and what that means where a token spans several."""

import hashlib
import sys
import unicodedata
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from teacherzoo.signals.shard_plan import plan_shards
from teacherzoo.text.blocks import blocks_of
from teacherzoo.text.corpora import Corpus, Document, document_digest
from teacherzoo.text.masking import Masking, TokenSpace, masked_positions
from teacherzoo.text.words import word_spans

MASKING = Masking(policy="whole_word", rate=0.3, seed=4)
SPACED = "der alte hund bellt und die neue katze sieht ihn an , so sagt man"
DIVIDED = {  # by signs of their own, behind each syllable or word
    "bo": "བོད་སྐད་ནི་བོད་ཡུལ་གྱི་སྐད་ཡིག་ཅིག་ཡིན་པ་དང་མི་མང་པོས་བཤད་ཀྱི་ཡོད། དེ་ལ་ཡི་གེ་ཡོད།",
    "am": "ሰው፡ሁሉ፡ሲወለድ፡ነጻና፡በክብርና፡በመብትም፡እኩልነት፡ያለው፡ነው።የተፈጥሮ፡ማስተዋልና፡ሕሊና፡ስላለው፡አንዱ፡ሌላውን፡ይወዳል።",
}
UNSPACED = {
    "zh": "今天天气很好我们一起去公园散步吧晚上回家吃饭再看一本书",
    "th": "วันนี้อากาศดีมากเราไปเดินเล่นในสวนกันเถอะ",
}


def tokenizer(text: str, *, longest: int, divider: str = "merged_with_previous") -> Tokenizer:
    """Cuts words into pieces of up to so many characters, the longest that fit; a sign that divides words ends one, or is one."""
    cut = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Split(Regex("[།።]"), "isolated"),
            pre_tokenizers.Split(Regex("[་፡]"), divider),
        ]
    )
    words = [word for word, _ in cut.pre_tokenize_str(text)] + list("a")
    parts = {
        word[i : i + n] for word in words for n in range(1, longest + 1) for i in range(len(word))
    }
    pieces = [
        ("<unk>", 0.0),
        *((part, -10.0) for part in sorted(parts)),
    ]  # fewer pieces, higher score
    made = Tokenizer(models.Unigram(pieces, 0, byte_fallback=False))
    made.pre_tokenizer = cut
    return made


def hidden_tokens(
    text: str, longest: int, divider: str = "merged_with_previous"
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The spans in characters of all tokens, and of those that are hidden."""
    backend = tokenizer(text, longest=longest, divider=divider)
    (block,) = blocks_of([Document(text, document_digest(text))], backend, length=512)
    space = TokenSpace(mask=0, pad=0, unknown=0, special=(0,), size=backend.get_vocab_size())
    chosen = masked_positions(block, MASKING, space=space, draw=0)
    spans = backend.encode(text).offsets
    return spans, [spans[index] for index in chosen]


def characters(spans: list[tuple[int, int]]) -> set[int]:
    return {place for start, stop in spans for place in range(start, stop)}


@pytest.mark.parametrize("text", [SPACED, *DIVIDED.values()], ids=["de", *DIVIDED])
@pytest.mark.parametrize("divider", ["merged_with_previous", "isolated"])
@pytest.mark.parametrize("longest", [2, 3, 50])
def test_the_same_characters_are_hidden_whatever_the_tokenizer(
    text: str, divider: str, longest: int
) -> None:
    spans, hidden = hidden_tokens(text, longest, divider)
    finer_spans, finer = hidden_tokens(text, 1)

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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("བོད་སྐད་ཡིན། །དེ་ཡང༌། ", ["བོད་", "སྐད་", "ཡིན", "།", "།", "དེ་", "ཡང༌", "།"]),
        ("༄༅། །ཞེས་སོ", ["༄", "༅", "།", "།", "ཞེས་", "སོ"]),
        ("ሰው፡ሁሉ፡ ነው። እሱ፣ሄደ", ["ሰው፡", "ሁሉ፡", "ነው", "።", "እሱ", "፣", "ሄደ"]),
        ("𐎀𐎁𐎟𐎂", ["𐎀𐎁𐎟", "𐎂"]),  # Ugaritic
        ("་བོད", ["་", "བོད"]),  # behind nothing
    ],
)
def test_a_sign_that_divides_words_ends_the_one_before_it(text: str, words: list[str]) -> None:
    assert [text[start:end] for start, end in word_spans(text)] == words


def test_a_space_without_width_is_white_space_between_words(tmp_path: Path) -> None:
    text = "ខ្មែរ\u200bជា ភាសា\u200b"
    (tmp_path / "text.txt").write_text(f"{text}\n\u200b\n \u200b\u00a0\n", encoding="utf-8")

    assert [text[start:end] for start, end in word_spans(text)] == list("ខ្មែរជាភាសា")
    assert [document.text for document in Corpus("km", tmp_path / "text.txt").documents()] == [text]


@pytest.mark.parametrize("language", DIVIDED)
def test_a_line_without_spaces_is_hidden_in_part(language: str) -> None:
    text = "".join(DIVIDED[language].split()) * 4
    spans, hidden = hidden_tokens(text, 50)

    assert len(hidden) / len(spans) == pytest.approx(MASKING.rate, abs=0.1)


def test_letters_of_scripts_that_need_a_dictionary_are_words() -> None:
    """Of the class SA (complex context) of Unicode's line breaking, by their names."""
    scripts = ("LAO", "MYANMAR", "KHMER", "TAI LE", "NEW TAI LUE", "TAI THAM", "TAI VIET", "AHOM")  # fmt: skip
    letters = [
        character
        for character in map(chr, range(sys.maxunicode + 1))
        if unicodedata.category(character) == "Lo"
        and unicodedata.name(character, "").startswith(
            ("THAI CHARACTER", *(f"{name} LETTER" for name in scripts))
        )
    ]

    assert len(letters) > 400
    for letter in letters:
        assert len(word_spans(letter * 3)) == 3, letter


@pytest.mark.parametrize(
    ("text", "other"),
    [
        (SPACED, False),
        (UNSPACED["th"], False),
        (f"{UNSPACED['th']}\u200b{UNSPACED['th']}", True),
        (DIVIDED["bo"], True),
        (DIVIDED["am"], True),
    ],
    ids=["de", "th", "th with spaces of no width", "bo", "am"],
)
def test_a_text_that_was_cut_into_other_words_before_has_another_digest(
    tmp_path: Path, text: str, other: bool
) -> None:
    (tmp_path / "text.txt").write_text(f"a\n{text}\n", encoding="utf-8")

    (plan,) = plan_shards([Corpus("xx", tmp_path / "text.txt")], shard_bytes=100)

    digests = b"".join(map(document_digest, ["a", text]))
    assert (plan.digest != hashlib.blake2b(digests, digest_size=16).hexdigest()) == other
