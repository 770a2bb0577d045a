import pytest

from xeval.task_templates.answers import SQUAD, answer_f1, answer_tokens, exact_match


@pytest.mark.parametrize(
    ("language", "text", "tokens"),
    [
        ("en", "The  Cat's, (an) apple!", ["cats", "apple"]),
        ("de", "Der Hund – die Katze", ["hund", "katze"]),
        ("es", "¿La casa?", ["casa"]),
        ("hi", "एक घर।", ["एक", "घर"]),
        ("ar", "الكتاب، كتاب", ["كتاب", "كتاب"]),
        ("vi", "những cái nhà", ["nhà"]),
        ("zh", "黑豹队 24 次，NFL", ["黑", "豹", "队", "24", "次", "nfl"]),
        ("ja", "カタカナ。", ["カ", "タ", "カ", "ナ"]),
        ("th", "ไทย 5", ["ไ", "ท", "ย", "5"]),
        ("zh-Hant", "臺北", ["臺", "北"]),
        ("zho_Hans", "308分。", ["308", "分"]),
        ("tha", "ไทย 5", ["ไ", "ท", "ย", "5"]),
        ("km", "ភ\u200bា 5\u200b", ["ភ", "ា", "5"]),
        ("deu", "Der Hund", ["hund"]),
        ("tr", "The bir", ["the", "bir"]),
    ],
)
def test_answers_are_normalised_by_their_language(
    language: str, text: str, tokens: list[str]
) -> None:
    assert answer_tokens(text, language) == tokens


def test_articles_case_and_punctuation_do_not_cost_an_exact_match() -> None:
    assert exact_match("the Denver Broncos.", ["Denver broncos"], "en") == 1
    assert exact_match("Denver", ["Denver Broncos"], "en") == 0


def test_f1_counts_shared_tokens_with_multiplicity_and_takes_the_best_answer() -> None:
    # shared: {new: 1, york: 1}; 2·2 / (3 + 2)
    assert answer_f1("new new york", ["york new", "paris"], "en") == pytest.approx(4 / 5)


def test_chinese_is_compared_character_by_character() -> None:
    assert answer_f1("308分", ["308"], "zh") == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("guess", "answers", "expected"), [("", ["a cat"], 0), ("the", ["cat"], 0), ("the", ["a"], 1)]
)
def test_empty_sides_match_only_each_other(guess: str, answers: list[str], expected: int) -> None:
    assert answer_f1(guess, answers, "en") == expected
    assert exact_match(guess, answers, "en") == expected


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("The  Cat's, (an) apple!", ["cats", "apple"]),
        # What SQuAD's script, made for English, leaves: other articles, other punctuation, words without spaces.
        ("Der Hund – die Katze", ["der", "hund", "–", "die", "katze"]),
        ("¿La casa?", ["¿la", "casa"]),
        ("黑豹队 24 次，NFL", ["黑豹队", "24", "次，nfl"]),
        ("an über-a", ["übera"]),
    ],
)
def test_squad_s_script_does_to_every_language_what_it_does_to_english(
    text: str, tokens: list[str]
) -> None:
    assert answer_tokens(text, SQUAD) == tokens


def test_squad_s_script_gives_two_answers_of_no_token_an_exact_match_and_no_f1() -> None:
    assert exact_match("the", ["a"], SQUAD) == 1
    assert answer_f1("the", ["a"], SQUAD) == 0
    assert answer_f1("308分", ["308"], SQUAD) == 0
