"""What a piece of a vocabulary is: its canonical key and its role.

The canonical key says where in a word a piece stands, and its UTF-8 bytes. Raw strings of two families mean opposite
things: a bare `x` opens a word in WordPiece and continues one in SentencePiece and byte-level BPE. Keys are comparable
between all families, and partial UTF-8 pieces keep their bytes.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any, Literal

from vocabmerge.families.components import unfolded

WordClass = Literal["initial", "internal", "isolated"]
Key = tuple[WordClass, bytes]
Role = Literal["normal", "special", "byte", "character", "added", "placeholder", "hole"]

_PLACEHOLDER = re.compile(r"\[unused\d+\]|<unused\d+>|madeupword\d+|\[hole \d+\]|\[row \d+\]")
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
# Where BERT's normalizer puts spaces around a character (CJK ideographs; Hangul and Kana are left alone).
_IDEOGRAPHS = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)


def _byte_alphabet() -> dict[int, str]:
    """The printable stand-ins of GPT-2's byte-level alphabet, by byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {byte: chr(byte) for byte in printable}
    for byte in range(256):
        if byte not in table:
            table[byte] = chr(256 + len(table) - len(printable))
    return table


BYTE_ALPHABET = _byte_alphabet()
_BYTE_OF = {character: byte for byte, character in BYTE_ALPHABET.items()}


def prefixed_key(
    piece: str, prefix: str, stands_alone: Callable[[str], bool] = lambda character: False
) -> Key:
    """The key of a piece in a vocabulary that marks the inside of words with a prefix.

    Args:
        piece: its string.
        prefix: such as `##`; where it is empty, every piece begins a word.
        stands_alone: whether text is cut around a character; see `isolated_characters`.

    Example:
        >>> prefixed_key("##ab", "##"), prefixed_key("ab", "##")
        (('internal', b'ab'), ('initial', b'ab'))
    """
    if prefix and piece.startswith(prefix) and len(piece) > len(prefix):
        return "internal", encoded(piece[len(prefix) :])
    alone = len(piece) == 1 and stands_alone(piece)
    return "isolated" if alone else "initial", encoded(piece)


def isolated_characters(tokenizer: Mapping[str, Any]) -> Callable[[str], bool]:
    """Tells the characters around which this tokenizer cuts text: punctuation, ideographs, both or none."""
    steps = {part["type"] for part in unfolded(tokenizer.get("pre_tokenizer"))}
    punctuation = bool(steps & {"BertPreTokenizer", "Punctuation"})
    ideographs = any(
        part.get("handle_chinese_chars") for part in unfolded(tokenizer.get("normalizer"))
    )
    return lambda character: (
        (punctuation and is_punctuation(character)) or (ideographs and is_ideograph(character))
    )


def metaspace_key(piece: str) -> Key:
    r"""The key of a piece whose `▁` stands for a space: SentencePiece's, with fallback bytes such as `<0xE4>`.

    Example:
        >>> metaspace_key("▁ab"), metaspace_key("<0xE4>")
        (('initial', b'ab'), ('internal', b'\xe4'))
    """
    byte = byte_value(piece)
    if byte is not None:
        return "internal", bytes([byte])
    if piece.startswith("▁"):
        return "initial", encoded(piece[1:].replace("▁", " "))
    return "internal", encoded(piece.replace("▁", " "))


def metaspace_piece(key: Key) -> str | None:
    r"""The piece that has a key where `▁` stands for a space, None where its bytes are no text.

    Example:
        >>> metaspace_piece(("initial", b"ab")), metaspace_piece(("internal", b"\xe4"))
        ('▁ab', None)
    """
    try:
        return metaspace_marked(key[1].decode("utf-8"), key[0])
    except UnicodeDecodeError:
        return None


def metaspace_marked(text: str, place: WordClass) -> str:
    """A text with `▁` for its spaces and for the beginning of a word."""
    return ("▁" if place == "initial" else "") + text.replace(" ", "▁")


def byte_level_key(piece: str) -> Key:
    """The key of a piece in GPT-2's byte-level alphabet, where a space is a byte as any other."""
    try:
        text = bytes([_BYTE_OF[character] for character in piece])
    except KeyError:  # not spelled in the alphabet: a token added as plain text
        text = encoded(piece)
    return ("initial", text[1:]) if text.startswith(b" ") else ("internal", text)


def placeholder(number: int) -> str:
    """The piece that fills id `number`: it holds a space, which no normalized and split text does."""
    return f"[hole {number}]"


def is_placeholder(piece: str) -> bool:
    """Whether a piece only fills an id: `[unused7]`, `[hole 7]` and their like."""
    return _PLACEHOLDER.fullmatch(piece) is not None


def byte_value(piece: str) -> int | None:
    """The byte of a byte-fallback piece such as `<0xE4>`, else None."""
    match = _BYTE_PIECE.fullmatch(piece)
    return int(match[1], 16) if match else None


def is_punctuation(character: str) -> bool:
    """Whether BERT's pre-tokenizer isolates the character: ASCII symbols and Unicode punctuation."""
    code = ord(character)
    if code < 128:
        return 33 <= code <= 126 and not character.isalnum()
    return unicodedata.category(character).startswith("P")


def is_ideograph(character: str) -> bool:
    """Whether BERT's normalizer puts spaces around the character."""
    code = ord(character)
    return any(first <= code <= last for first, last in _IDEOGRAPHS)


def encoded(text: str) -> bytes:
    """UTF-8, lone surrogates included, which some vocabularies hold."""
    return text.encode("utf-8", "surrogatepass")
