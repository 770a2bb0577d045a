"""Which single characters stay: those of the text, and those of the scripts that it is written in."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vocabmerge import (  # fmt: skip
    VocabularyError,
    count_characters,
    count_pieces,
    parse_vocabulary,
    trim_vocabulary,
)
from vocabmerge.trim.characters import script_of, writing_scripts
from vocabmerge.trim.segmented_text import SegmentedText

ARTICLE_1 = {
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。テスト・ページ。",
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "sr": "Сва људска бића рађају се слободна и једнака. Sva ljudska bića rađaju se slobodna.",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
}
REAL = Path(__file__).parent / "real_tokenizers"


def published(name):
    return parse_vocabulary(json.loads((REAL / f"{name}.json").read_text("utf-8")), name=name)


def cut_to(vocabulary, lines, *, raw=True, **rule):
    return trim_vocabulary(
        vocabulary,
        {"xx": count_pieces(vocabulary, lines)},
        seen={"xx": count_characters(lines)} if raw else None,
        **rule,
    )


def single(vocabulary, numbers):
    """The characters of single-character pieces, without marks."""
    return {
        vocabulary.keys[number][1].decode().removesuffix("</w>")
        for number in numbers
        if vocabulary.roles[number] == "character"
    }


def are_known(vocabulary, texts):
    encodings = vocabulary.segmenter().encode_batch(texts, add_special_tokens=False)
    return [vocabulary.special_id("unk") not in encoding.ids for encoding in encodings]


def test_a_language_is_written_in_the_scripts_that_its_text_shows():
    scripts = {code: list(writing_scripts(count_characters([text]))) for code, text in ARTICLE_1.items()}  # fmt: skip
    assert scripts == {
        "ja": ["Hiragana", "Han", "Katakana"],
        "ko": ["Hangul"],
        "sr": ["Cyrillic", "Latin"],
        "hi": ["Devanagari"],
    }


@pytest.mark.parametrize(("foreign", "scripts"), [(9, ["Latin"]), (11, ["Latin", "Cyrillic"])])
def test_a_script_counts_from_a_hundredth_of_the_letters(foreign, scripts):
    assert list(writing_scripts({"a": 1000 - foreign, "ж": foreign, "1": 5000})) == scripts


def test_characters_stay_by_text_by_script_or_all(family, trained, lines_of):
    vocabulary = trained(family, "mixed")
    lines = lines_of("aa", 60)
    spared = single(vocabulary, vocabulary.model.indispensable())
    before = single(vocabulary, range(len(vocabulary))) - spared
    in_text = set("".join(lines))
    kept = {
        rule: single(vocabulary, cut_to(vocabulary, lines, characters=rule).kept) - spared
        for rule in ("seen", "scripts", "all")
    }
    latin = {text for text in before if text and script_of(text) == "Latin"}
    assert kept["seen"] - {""} == (before & in_text) - {""}
    assert kept["scripts"] - {""} == (before & in_text) - {""} | latin
    assert kept["all"] == before
    if family not in ("bpe-byte", "wordlevel"):  # their characters are bytes, and words
        assert {"z", "ñ"} <= kept["scripts"] - kept["seen"]
        assert {"ж", "ब"} <= kept["all"] - kept["scripts"]


def test_all_pieces_of_a_character_stay_together(trained, lines_of):
    vocabulary = trained("wordpiece", "mixed")
    cut = cut_to(vocabulary, lines_of("aa", 60))
    assert {"z", "##z", "##ñ"} <= set(vocabulary.pieces)
    assert {"z", "##z", "##ñ"} <= set(cut.after.pieces)


def test_a_digit_or_sign_that_the_text_has_not_goes(trained):
    vocabulary = trained("unigram", "mixed")
    cut = cut_to(vocabulary, ["bad dream 7"])
    assert {"7", "z"} <= set(cut.after.pieces)
    assert "!" in vocabulary.pieces
    assert "!" not in cut.after.pieces


def test_a_rare_foreign_script_is_kept_no_further_than_it_was_seen(trained, lines_of):
    vocabulary = trained("unigram", "mixed")
    cut = cut_to(vocabulary, [*lines_of("aa", 200), "ж"])
    assert "Cyrillic" not in cut.characters.scripts["xx"]
    assert "ж" in cut.after.pieces
    assert "и" in set(vocabulary.pieces) - set(cut.after.pieces)


def test_without_a_count_of_characters_the_used_pieces_show_the_same(family, trained, lines_of):
    if family == "wordlevel":
        pytest.skip("an unknown word shows none of its characters")
    vocabulary = trained(family, "mixed")
    lines = lines_of("mixed", 40)
    counted, shown = cut_to(vocabulary, lines), cut_to(vocabulary, lines, raw=False)
    assert counted.kept.tolist() == shown.kept.tolist()


WORDS = st.text("abzñжиबय7.!☃", min_size=1, max_size=6)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(words=st.lists(WORDS, min_size=1, max_size=5), rule=st.sampled_from(["seen", "scripts"]))
@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "bpe-metaspace", "bpe-plain", "bpe-byte"])
def test_no_character_of_the_text_becomes_unknown_by_the_cut(kind, words, rule, trained):
    vocabulary = trained(kind, "mixed")
    cut = cut_to(vocabulary, [" ".join(words)], characters=rule, threshold=0.4)
    characters = sorted(set("".join(words)))
    texts = [*characters, *(f"{first}{first}" for first in characters)]
    assert are_known(cut.after, texts) == are_known(vocabulary, texts)


@pytest.mark.parametrize(
    ("normalizer", "text", "stays"),
    [
        ({"type": "NFKC"}, "☃３ ☃ﬁ", {"3", "##i", "f", "##f"}),
        ({"type": "Lowercase"}, "☃ÄB", {"b", "##b", "ä"}),
        ({"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}]}, "☃é", {"e"}),
        ({"type": "NFD"}, "☃é", {"e", "##\u0301"}),
    ],
)  # fmt: skip
def test_characters_of_unknown_words_stay_as_the_tokenizer_would_have_them(normalizer, text, stays):
    """`☃` has no piece, so that WordPiece knows nothing of these words."""
    pieces = ["[UNK]", "3", "##i", "f", "##f", "b", "##b", "ä", "e", "##\u0301", "w"]
    vocabulary = parse_vocabulary(
        {
            "added_tokens": [],
            "normalizer": normalizer,
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                      "max_input_chars_per_word": 100, "vocab": {piece: i for i, piece in enumerate(pieces)}},
        },
        name="tiny",
    )  # fmt: skip
    cut = cut_to(vocabulary, [text], characters="seen")
    assert set(cut.after.pieces) == {"[UNK]"} | stays


def test_what_becomes_of_a_character_without_a_piece_is_as_said(family, trained, lines_of):
    vocabulary = trained(family, "mixed")
    cut = cut_to(vocabulary, lines_of("aa", 60))
    about = cut.characters
    ids = cut.after.segmenter().encode("baжab", add_special_tokens=False).ids
    tokens = [cut.after.pieces[number] for number in ids]
    roles = {cut.after.roles[number] for number in ids}
    if about.unseen == "bytes":
        assert "byte" in roles
    else:
        assert about.unseen in tokens
        assert about.unseen_word == (tokens == [about.unseen])
    assert ("Cyrillic" in about.dropped) == (family != "wordlevel")


@pytest.mark.parametrize(
    ("name", "unseen", "whole_word"),
    [("multilingual-e5-small", "<unk>", False), ("mistral-7b", "bytes", False), ("gpt2", "bytes", False),
     ("ModernBERT-base", "bytes", False), ("bert-base-uncased", "[UNK]", True), ("clip-vit", "bytes", False)],
)  # fmt: skip
def test_published_tokenizers_drop_other_scripts_and_say_what_becomes_of_them(
    name, unseen, whole_word
):
    vocabulary = published(name)
    cut = cut_to(vocabulary, ["The quick brown foxes weren't jumping over 13 lazy dogs."])
    about = cut.characters
    assert (about.unseen, about.unseen_word) == (unseen, whole_word)
    assert list(about.scripts["xx"]) == ["Latin"]
    kept = single(cut.after, range(len(cut.after)))
    assert {script_of(text) for text in kept if text} <= {"Latin", "Common", "Inherited"}
    dropped = {script_of(text) for text in single(vocabulary, range(len(vocabulary))) if text}
    assert {"Cyrillic", "Han"} & dropped == {"Cyrillic", "Han"} & set(about.dropped)


def test_the_record_says_what_each_rule_costs(trained, lines_of):
    vocabulary = trained("wordpiece", "mixed")
    lines = lines_of("aa", 60)
    used = count_pieces(vocabulary, lines) > 0
    record = cut_to(vocabulary, lines).characters.as_record()
    for rule in ("seen", "scripts", "all"):
        cut = cut_to(vocabulary, lines, characters=rule, threshold=1)
        stay = [number for number in cut.kept.tolist() if vocabulary.roles[number] == "character"]
        assert record["pieces"][rule] == len(stay)
        assert record["unused"][rule] == int((~used[stay]).sum())
    assert record["pieces"]["seen"] < record["pieces"]["scripts"] < record["pieces"]["all"]


def test_characters_do_not_eat_the_budget(trained, lines_of):
    vocabulary = trained("wordpiece", "mixed")
    lines = lines_of("aa", 200)
    size = cut_to(vocabulary, lines, characters="all", threshold=1).always + 5
    by_script, all_of_them = (
        cut_to(vocabulary, lines, characters=rule, top=size) for rule in ("scripts", "all")
    )
    assert len(by_script.kept) == len(all_of_them.kept) == size
    assert by_script.coverage["xx"] > all_of_them.coverage["xx"]


def test_a_text_counts_its_halves_and_characters_while_it_is_segmented(trained, lines_of):
    vocabulary, lines = trained("unigram"), [*lines_of("aa", 115) * 20, "bad dream"]
    text = SegmentedText(vocabulary, lines)
    for half in (0, 1):
        assert text.halves[half].tolist() == count_pieces(vocabulary, lines[half::2]).tolist()
    assert text.counts.tolist() == count_pieces(vocabulary, lines).tolist()
    assert text.characters == {
        character: sum(line.count(character) for line in lines) for character in set("".join(lines))
    }


def test_other_rules_and_characters_of_other_languages_are_refused(trained):
    vocabulary = trained("unigram")
    counts = {"xx": np.ones(len(vocabulary), dtype=int)}
    with pytest.raises(VocabularyError, match=r"one of seen, scripts, all, got 'latin'"):
        trim_vocabulary(vocabulary, counts, characters="latin")
    with pytest.raises(VocabularyError, match=r"characters of xx, got those of yy"):
        trim_vocabulary(vocabulary, counts, seen={"yy": {"a": 1}})
