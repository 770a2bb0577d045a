"""The canonical key of a piece: where in a word it stands, and its UTF-8 bytes.

Raw strings of two families mean opposite things: a bare `x` opens a word in WordPiece and continues one in
SentencePiece and byte-level BPE. Keys are comparable between all families, and partial UTF-8 pieces keep their bytes.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

WordClass = Literal["initial", "internal", "isolated"]
Key = tuple[WordClass, bytes]
Family = Literal[
    "wordpiece", "unigram", "bpe-byte", "bpe-byte-fallback", "bpe-metaspace", "bpe-plain"
]

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


def parts(component: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """A normalizer, pre-tokenizer, post-processor or decoder, with sequences unfolded."""
    if component is None:
        return
    if component.get("type") != "Sequence":
        yield component
        return
    for kind in ("normalizers", "pretokenizers", "processors", "decoders"):
        for inner in component.get(kind) or ():
            yield from parts(inner)


def family_of(tokenizer: Mapping[str, Any]) -> Family | None:
    """The family of a tokenizer in the library's form, or None where it is none of ours."""
    model = tokenizer["model"]
    kind = model["type"]
    if kind == "WordPiece":
        return "wordpiece"
    if kind == "Unigram":
        return "unigram"
    if kind != "BPE":
        return None
    before = [*parts(tokenizer.get("normalizer")), *parts(tokenizer.get("pre_tokenizer"))]
    kinds = {part["type"] for part in before}
    if "ByteLevel" in kinds:
        return "bpe-byte"
    if model.get("byte_fallback"):
        return "bpe-byte-fallback"
    if "Metaspace" in kinds or any("▁" in str(part.get("content", "")) for part in before):
        return "bpe-metaspace"
    return "bpe-plain"


def key_reader(tokenizer: Mapping[str, Any], family: Family) -> Callable[[str], Key]:
    """The function that reads the canonical key off a piece of this tokenizer."""
    prefix = tokenizer["model"].get("continuing_subword_prefix") or ""
    if family == "wordpiece" or (family == "bpe-plain" and prefix):
        kinds = {part["type"] for part in parts(tokenizer.get("pre_tokenizer"))}
        punctuation = bool(kinds & {"BertPreTokenizer", "Punctuation"})
        ideographs = any(
            part.get("handle_chinese_chars") for part in parts(tokenizer.get("normalizer"))
        )

        def prefixed(piece: str) -> Key:
            if prefix and piece.startswith(prefix) and len(piece) > len(prefix):
                return "internal", _encoded(piece[len(prefix) :])
            alone = len(piece) == 1 and (
                (punctuation and is_punctuation(piece)) or (ideographs and is_ideograph(piece))
            )
            return "isolated" if alone else "initial", _encoded(piece)

        return prefixed
    if family == "bpe-byte":
        return _byte_level_key
    if family == "bpe-plain":
        return lambda piece: (
            "internal",
            _encoded(piece),
        )  # nothing in it tells where a word starts
    return _metaspace_key


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


def _byte_level_key(piece: str) -> Key:
    try:
        text = bytes([_BYTE_OF[character] for character in piece])
    except KeyError:  # not spelled in the alphabet: a token added as plain text
        text = _encoded(piece)
    return ("initial", text[1:]) if text.startswith(b" ") else ("internal", text)


def _metaspace_key(piece: str) -> Key:
    byte = byte_value(piece)
    if byte is not None:
        return "internal", bytes([byte])
    if piece.startswith("▁"):
        return "initial", _encoded(piece[1:].replace("▁", " "))
    return "internal", _encoded(piece.replace("▁", " "))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
