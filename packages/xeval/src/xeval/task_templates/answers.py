"""When an extracted answer is the right one: normalisation per language as in MLQA or as in SQuAD, exact match and F1."""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache

# Languages written without spaces: every character is a token, as in MLQA's script for Chinese.
SQUAD = "squad"
"""In place of a language: what SQuAD 1.1's script does to English, which published figures on XQuAD do to every language."""
UNSPACED = frozenset((
    *("zh", "yue", "wuu", "ja", "th", "lo", "km", "my", "bo", "dz"),
    *("zho", "cmn", "jpn", "tha", "lao", "khm", "mya", "bod", "dzo"),
))  # fmt: skip
_ARTICLES = {
    "en": r"\b(a|an|the)\b",
    "es": r"\b(un|una|unos|unas|el|la|los|las)\b",
    "de": r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "vi": r"\b(của|là|cái|chiếc|những)\b",
    # The article is written with its word. MLQA's script takes these letters out anywhere; here they go at the start.
    "ar": r"\bال(?=\w)",
}
_ARTICLES |= {
    longer: _ARTICLES[code]
    for longer, code in (("eng", "en"), ("spa", "es"), ("deu", "de"), ("vie", "vi"), ("ara", "ar"), ("arb", "ar"))
}  # fmt: skip
# Khmer, Thai, Lao and Burmese may be written with it between words, and it is white space to no `split`.
_ZERO_WIDTH_SPACE = "\N{ZERO WIDTH SPACE}"


def answer_tokens(text: str, language: str) -> list[str]:
    """The tokens by which answers are compared.

    In this order, as MLQA's script: lower case; punctuation of all scripts out; the language's articles out; split at
    white space, and in languages written without spaces at every character of their script and every space of no width.

    Args:
        text: an answer.
        language: code of ISO 639-1 or 639-3, perhaps with a script after "-" or "_"; or `SQUAD`, by which ASCII punctuation and
            English articles go and white space alone separates.

    Example:
        >>> answer_tokens("The Cat, a dog!", "en")
        ['cat', 'dog']
        >>> answer_tokens("308分。", "zh")
        ['308', '分']
    """
    if language == SQUAD:
        kept = "".join(char for char in text.lower() if char not in string.punctuation)
        return re.sub(_ARTICLES["en"], " ", kept).split()
    code = re.split("[-_]", language)[0]
    text = "".join(char for char in text.lower() if not _is_punctuation(char))
    if code in _ARTICLES:
        text = re.sub(_ARTICLES[code], " ", text)
    if code in UNSPACED:
        text = text.replace(_ZERO_WIDTH_SPACE, " ")
        text = "".join(f" {char} " if _is_unspaced(char) else char for char in text)
    return text.split()


def exact_match(guess: str, answers: Sequence[str], language: str) -> float:
    """1 when the guess equals an answer after normalisation, else 0."""
    tokens = answer_tokens(guess, language)
    return float(any(tokens == answer_tokens(answer, language) for answer in answers))


def answer_f1(guess: str, answers: Sequence[str], language: str) -> float:
    """The best F1 of shared tokens over the answers; where either side has no token, 1 if neither has (0 in `SQUAD`)."""
    tokens = answer_tokens(guess, language)
    if language == SQUAD and not tokens:
        return 0.0
    return max(_f1(tokens, answer_tokens(answer, language)) for answer in answers)


def _f1(guess: list[str], gold: list[str]) -> float:
    if not guess or not gold:
        return float(guess == gold)
    shared = (Counter(guess) & Counter(gold)).total()
    return 2 * shared / (len(guess) + len(gold))


@cache
def _is_punctuation(char: str) -> bool:
    return unicodedata.category(char).startswith("P") or char in string.punctuation


@cache
def _is_unspaced(char: str) -> bool:
    scripts = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
    return unicodedata.name(char, "").startswith(scripts)
