"""Which single characters stay whatever their counts: by what a text shows, and by the scripts that it is written in.

Without a piece for it a character is unknown, so that a trim keeps more of them than its text happens to use. The scripts
are those of the Unicode Standard (Annex 24), as fontTools has them.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, Literal, get_args

import numpy as np
from fontTools import unicodedata
from numpy.typing import NDArray

from vocabmerge.families.components import open_normalizer, unfolded
from vocabmerge.tokenizer_file.vocabulary import Vocabulary

CharacterRule = Literal["seen", "scripts", "all"]
CHARACTER_RULES: tuple[CharacterRule, ...] = get_args(CharacterRule)
SCRIPT_SHARE = 0.01
"""The share of a language's letters from which a script is one that the language is written in.

Names and quotations in other scripts are less: in running text of eighteen languages no more than 0.8 % (Latin letters in
Hindi). What is above it is met on every page, as Latin letters are in Chinese news.
"""
_OF_TEXT = ("normal", "character")
_NO_SCRIPT = ("Common", "Inherited", "Unknown")
_BYTES_BEYOND_ASCII = (*range(0x80, 0xC0), *range(0xC2, 0xF5))  # those that stand in UTF-8


@dataclass(frozen=True, kw_only=True)
class CharacterChoices:
    """What each rule would keep.

    Args:
        scripts: per language, the scripts that it is written in with their share of its letters, the greatest first.
        keep: per rule, the single-character pieces that stay whatever their counts [V].
    """

    scripts: Mapping[str, Mapping[str, float]]
    keep: Mapping[CharacterRule, NDArray[np.bool_]] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Characters:
    """Which single characters stayed whatever their counts, what each rule costs, and what is lost.

    Args:
        rule: `seen`, `scripts` or `all`.
        scripts: per language, the scripts that it is written in with their share of its letters, the greatest first.
        pieces: per rule, how many pieces stay by it whatever their counts.
        unused: per rule, how many of these no token of the counted text is.
        dropped: per script, how many characters had a piece and have none any more, the most first.
        unseen: what becomes of a character without a piece: `bytes`, the unknown token, or `nothing`.
        unseen_word: whether its whole word goes with it.
    """

    rule: CharacterRule
    scripts: Mapping[str, Mapping[str, float]]
    pieces: Mapping[CharacterRule, int]
    unused: Mapping[CharacterRule, int]
    dropped: Mapping[str, int]
    unseen: str
    unseen_word: bool

    def as_record(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)


def choose_characters(
    vocabulary: Vocabulary,
    counts: Mapping[str, NDArray[np.int64]],
    *,
    seen: Mapping[str, Mapping[str, int]] | None = None,
) -> CharacterChoices:
    """The single-character pieces that stay whatever their counts, by each rule.

    A character is seen if it stands in the text, in its normalized form, or in a piece that the text uses. `scripts`
    adds every character of the scripts that some language is written in; digits, punctuation, symbols and combining
    marks that scripts share stay only where seen. All pieces of a character stay together, `x` and `##x`, `x` and `▁x`.

    Args:
        vocabulary: whose pieces.
        counts: per language, how often its text uses each piece [V].
        seen: per language, how often its text has each character; by default as the used pieces spell it, which does
            not show the characters of unknown words.
    """
    spelled = {language: _characters_of_pieces(vocabulary, row) for language, row in counts.items()}
    present = {character for characters in spelled.values() for character in characters}
    if seen is not None:
        raw = {character for characters in seen.values() for character in characters}
        present |= raw | _normalized(vocabulary, raw)
    shown = spelled if seen is None else seen
    scripts = {language: writing_scripts(shown[language]) for language in counts}
    written = {script for shares in scripts.values() for script in shares}
    numbers = vocabulary.having("character")
    keep = {rule: np.zeros(len(vocabulary), dtype=bool) for rule in CHARACTER_RULES}
    keep["all"][numbers] = True
    for number in numbers.tolist():
        text = _spelled(vocabulary, number)
        # A mark without a character, such as `▁`, spells the beginnings of words.
        keep["seen"][number] = not text or text in present
        keep["scripts"][number] = keep["seen"][number] or script_of(text) in written
    return CharacterChoices(scripts=scripts, keep=keep)


def describe_characters(
    vocabulary: Vocabulary,
    choices: CharacterChoices,
    rule: CharacterRule,
    *,
    used: NDArray[np.bool_],
    kept: NDArray[np.bool_],
) -> Characters:
    """What a report says about characters.

    Args:
        vocabulary: before the trim.
        choices: what each rule would keep.
        rule: the one that was asked for.
        used: the pieces that some language uses [V].
        kept: the pieces that stayed [V].
    """
    numbers = vocabulary.having("character")
    saved = {_spelled(vocabulary, number) for number in numbers[kept[numbers]].tolist()}
    gone = {_spelled(vocabulary, number) for number in numbers.tolist()} - saved
    return Characters(
        rule=rule,
        scripts=choices.scripts,
        pieces={name: int(keep.sum()) for name, keep in choices.keep.items()},
        unused={name: int((keep & ~used).sum()) for name, keep in choices.keep.items()},
        dropped=dict(Counter(map(script_of, sorted(gone))).most_common()),
        unseen=unseen_character(vocabulary),
        unseen_word=vocabulary.model.loses_whole_words,
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
        if character.isalpha() and script_of(character) not in _NO_SCRIPT:
            letters[script_of(character)] += count
    total = letters.total()
    return {
        script: count / total
        for script, count in letters.most_common()
        if count >= SCRIPT_SHARE * total
    }


@cache
def script_of(character: str) -> str:
    """The name of a character's script in Unicode; `Common` or `Inherited` where several share it.

    Example:
        >>> script_of("ж"), script_of("7")
        ('Cyrillic', 'Common')
    """
    return str(unicodedata.script_name(unicodedata.script(character)))


def pieces_in_scripts(vocabulary: Vocabulary, scripts: Collection[str]) -> NDArray[np.bool_]:
    """Whether each piece has characters of some scripts and none of another [V]; what scripts share counts for neither.

    Example:
        >>> tiny = parse_vocabulary({"added_tokens": [], "model": {"type": "WordPiece", "unk_token": "[UNK]",
        ...     "continuing_subword_prefix": "##", "max_input_chars_per_word": 9,
        ...     "vocab": {"[UNK]": 0, "a1": 1, "12": 2, "##aж": 3}}}, name="tiny")
        >>> pieces_in_scripts(tiny, ["Latin"]).tolist()
        [False, True, False, False]
    """
    if vocabulary.model.spells_text:  # marks are of no script, or removed
        texts = [
            str(piece).removesuffix(vocabulary.model.suffix) if role in _OF_TEXT else ""
            for piece, role in zip(vocabulary.pieces, vocabulary.roles, strict=True)
        ]
    else:
        texts = [_spelled(vocabulary, number) for number in range(len(vocabulary))]
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype="<u4")
    known = np.zeros(int(codes.max(initial=0)) + 1, dtype=np.int64)
    for code in np.flatnonzero(np.bincount(codes)).tolist():
        script = script_of(chr(code))
        if script not in _NO_SCRIPT:
            known[code] = 1 if script in scripts else -1
    piece = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    good, bad = (np.bincount(piece[known[codes] == sign], minlength=len(texts)) for sign in (1, -1))
    return (good > 0) & (bad == 0)


def unseen_character(vocabulary: Vocabulary) -> str:
    """What becomes of a character that has no piece: `bytes`, the unknown token, or `nothing` where there is none."""
    numbers = vocabulary.having("byte").tolist()
    present = {key[1] for key in (vocabulary.keys[number] for number in numbers) if key}
    if present.issuperset(bytes([byte]) for byte in _BYTES_BEYOND_ASCII):
        return "bytes"
    return vocabulary.specials.get("unk", "nothing")


def _spelled(vocabulary: Vocabulary, number: int) -> str:
    """What a piece spells: nothing where it is no text, or part of a character."""
    key = vocabulary.keys[number]
    if key is None or vocabulary.roles[number] not in _OF_TEXT:
        return ""
    return key[1].removesuffix(vocabulary.model.suffix.encode()).decode("utf-8", "ignore")


def _characters_of_pieces(vocabulary: Vocabulary, counts: NDArray[np.int64]) -> Counter[str]:
    characters: Counter[str] = Counter()
    for number in np.flatnonzero(counts).tolist():
        for character in _spelled(vocabulary, number):
            characters[character] += int(counts[number])
    return characters


def _normalized(vocabulary: Vocabulary, characters: Iterable[str]) -> set[str]:
    """What the tokenizer makes of characters, each alone."""
    normalizer = vocabulary.tokenizer.get("normalizer")
    if normalizer is None or any(part["type"] == "ByteLevel" for part in unfolded(normalizer)):
        return set()
    return set("".join(map(open_normalizer(normalizer), sorted(characters))))
