"""Which single characters stay whatever their counts: by what a text shows, and by the scripts that it is written in.

Without a piece for it a character is unknown, so that a trim keeps more of them than its text happens to use. The scripts
are those of the Unicode Standard (Annex 24), as fontTools carries them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal, get_args

import numpy as np
from fontTools import unicodedata as scripts_of_unicode
from numpy.typing import ArrayLike, NDArray

from vocabmerge.errors import VocabularyError
from vocabmerge.families.components import open_normalizer, unfolded
from vocabmerge.tokenizer_file.vocabulary import Vocabulary

CharacterRule = Literal["seen", "scripts", "all"]
SCRIPT_SHARE = 0.01
"""The share of a language's letters from which a script is one that the language is written in."""
_SHARED = ("Zyyy", "Zinh", "Zzzz")  # common, inherited, unknown: of no script


@dataclass(frozen=True, kw_only=True)
class Characters:
    """Which single characters stay whatever their counts, and what that costs.

    Args:
        rule: `seen`, `scripts` or `all`.
        scripts: per language, the scripts that it is written in with their share of its letters.
        pieces: for each rule, how many pieces would stay by it.
        unused: for each rule, how many of these no token of the counted text is.
        unseen: what becomes of a character without a piece; see `unseen_character`.
    """

    rule: CharacterRule
    scripts: Mapping[str, Mapping[str, float]]
    pieces: Mapping[CharacterRule, int]
    unused: Mapping[CharacterRule, int]
    unseen: str

    def as_record(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)


def choose_characters(
    vocabulary: Vocabulary,
    counts: Mapping[str, NDArray[np.int64]],
    *,
    rule: CharacterRule = "scripts",
    seen: Mapping[str, Mapping[str, int]] | None = None,
) -> tuple[NDArray[np.bool_], Characters]:
    """The single-character pieces that stay whatever their counts.

    A character is seen if it stands in the text, in its normalized form, or in a piece that the text uses. `scripts`
    adds every character of the scripts that some language is written in; digits, punctuation, symbols and combining
    marks that scripts share stay only where seen. All pieces of a character stay together: `x` and `##x`, `x` and `▁x`.

    Args:
        vocabulary: whose pieces.
        counts: per language, how often its text uses each piece [V].
        rule: which characters.
        seen: per language, how often its text has each character; by default as the used pieces spell it, which does
            not show the characters of unknown words.

    Returns:
        The choice [V], and what it is.

    Raises:
        VocabularyError: another rule, or characters of other languages.
    """
    if rule not in get_args(CharacterRule):
        raise VocabularyError(
            f"expected characters to be {', '.join(get_args(CharacterRule))}, got {rule!r}"
        )
    if seen is not None and set(seen) != set(counts):
        raise VocabularyError(
            f"expected the characters of {', '.join(counts)}, got those of {', '.join(seen) or 'none'}"
        )
    texts = _texts(vocabulary)
    spelled = {language: _characters_of_pieces(texts, row) for language, row in counts.items()}
    raw = spelled if seen is None else seen
    scripts = {language: writing_scripts(characters) for language, characters in raw.items()}
    present = set().union(*spelled.values(), *raw.values())
    if seen is not None:
        present |= _normalized(vocabulary, present)
    written = set().union(*scripts.values())
    used = np.sum(list(counts.values()), axis=0) > 0
    choices: dict[CharacterRule, NDArray[np.bool_]] = {
        name: np.zeros(len(vocabulary), dtype=bool) for name in get_args(CharacterRule)
    }
    for number in vocabulary.having("character").tolist():
        text = texts[number]
        # A mark without a character, such as `▁`, is needed to spell the beginnings of words.
        choices["seen"][number] = not text or text in present
        choices["scripts"][number] = choices["seen"][number] or script_of(text) in written
        choices["all"][number] = True
    return choices[rule], Characters(
        rule=rule,
        scripts=scripts,
        pieces={name: int(choice.sum()) for name, choice in choices.items()},
        unused={name: int((choice & ~used).sum()) for name, choice in choices.items()},
        unseen=unseen_character(vocabulary),
    )


def writing_scripts(characters: Mapping[str, int]) -> dict[str, float]:
    """The scripts that a text is written in: those with a hundredth of its letters or more.

    Args:
        characters: how often the text has each character.

    Returns:
        The share of each such script among the letters that have a script, the greatest first.

    Example:
        >>> writing_scripts({"a": 60, "б": 138, "あ": 1, "ж": 1, "1": 900})
        {'Cyrillic': 0.695, 'Latin': 0.3}
    """
    letters: Counter[str] = Counter()
    for character, count in characters.items():
        if character.isalpha() and (script := script_of(character)) is not None:
            letters[script] += count
    total = letters.total()
    return {
        script: count / total
        for script, count in letters.most_common()
        if count >= SCRIPT_SHARE * total
    }


@cache
def script_of(character: str) -> str | None:
    """The name of a character's script, None where several share it or Unicode knows none.

    Example:
        >>> script_of("ж"), script_of("7")
        ('Cyrillic', None)
    """
    code: str = scripts_of_unicode.script(character)
    return None if code in _SHARED else str(scripts_of_unicode.script_name(code))


def dropped_scripts(vocabulary: Vocabulary, new_ids: ArrayLike) -> dict[str, int]:
    """How many characters of each script lose all their pieces in a trim, the most first.

    Args:
        vocabulary: before.
        new_ids: the new id of each piece [V], negative where it goes.
    """
    texts, new = _texts(vocabulary), np.asarray(new_ids)
    numbers = vocabulary.having("character", "byte")
    kept = {texts[number] for number in numbers[new[numbers] >= 0].tolist()}
    gone = {texts[number] for number in numbers.tolist()} - kept
    return dict(Counter(script_of(text) or "shared" for text in gone if text).most_common())


def unseen_character(vocabulary: Vocabulary) -> str:
    """What becomes of a character that has no piece: `bytes`, the unknown token, or `nothing` where there is none."""
    if len({vocabulary.keys[number] for number in vocabulary.having("byte").tolist()}) >= 243:
        return "bytes"  # 243 of the 256 stand in UTF-8
    return vocabulary.specials.get("unk", "nothing")


def _texts(vocabulary: Vocabulary) -> list[str]:
    """What each piece spells [V]; nothing for tokens that are no text and parts of characters."""
    suffix = vocabulary.model.suffix.encode()
    return [
        ""
        if key is None or role not in ("normal", "character")
        else key[1].removesuffix(suffix).decode("utf-8", "ignore")
        for key, role in zip(vocabulary.keys, vocabulary.roles, strict=True)
    ]


def _characters_of_pieces(texts: list[str], counts: NDArray[np.int64]) -> Counter[str]:
    characters: Counter[str] = Counter()
    for number in np.flatnonzero(counts).tolist():
        for character in texts[number]:
            characters[character] += int(counts[number])
    return characters


def _normalized(vocabulary: Vocabulary, characters: Iterable[str]) -> set[str]:
    """What the tokenizer makes of characters, each alone."""
    normalizer = vocabulary.tokenizer.get("normalizer")
    if normalizer is None or any(part["type"] == "ByteLevel" for part in unfolded(normalizer)):
        return set()
    return set("".join(map(open_normalizer(normalizer), sorted(characters))))
