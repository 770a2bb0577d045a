"""Texts that are not in the script of their language."""

import pytest

from vocabmerge.text_warnings import expected_scripts, text_warnings


@pytest.mark.parametrize(
    ("language", "scripts"),
    [
        ("en", {"Latin"}),
        ("pt-BR", {"Latin"}),
        ("swh_Latn", {"Latin"}),
        ("uz-Cyrl", {"Cyrillic"}),
        ("sr", {"Cyrillic", "Latin"}),
        ("zh-Hant", {"Han"}),
        ("ko", {"Hangul", "Han"}),
        ("hin", {"Devanagari"}),
        ("xx", set()),
    ],
)
def test_the_scripts_of_a_language(language, scripts):
    assert expected_scripts(language) == scripts


def test_a_text_in_another_script_is_suspicious():
    [sentence] = text_warnings("sw", {"Cyrillic": 0.9, "Latin": 0.1}, unknown=0, words=10)
    assert "sw: 90% of the letters are Cyrillic, where Latin is expected" in sentence


@pytest.mark.parametrize(
    ("language", "scripts"),
    [("ru", {"Cyrillic": 0.6, "Latin": 0.4}), ("xx", {"Thai": 1.0}), ("en", {})],
)
def test_what_may_be_right_is_not_suspicious(language, scripts):
    assert text_warnings(language, scripts, unknown=5, words=100) == []


def test_a_text_that_the_vocabulary_cannot_spell_is_suspicious():
    [sentence] = text_warnings("th", {"Thai": 1.0}, unknown=6, words=100)
    assert "no piece for 6 tokens in 100 words" in sentence
