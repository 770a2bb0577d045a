"""The rows of a union: which pieces of several teachers are one piece."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vocabmerge.families.canonical import Key
from vocabmerge.tokenizer_file.rewrite import placeholder
from vocabmerge.tokenizer_file.vocabulary import Role, Vocabulary
from vocabmerge.union.specials import CONVENTIONS, Convention, unified_specials

Punctuation = Literal["internal", "initial"]


@dataclass(frozen=True, kw_only=True)
class Slots:
    """The rows of a union vocabulary.

    Args:
        texts: the union's string of each row [S].
        roles: what each row is [S].
        of: per teacher, the row of each of its ids [V_t], -1 for none.
        private: rows that no text of the union tokenizer can reach (partial UTF-8 of a byte-level teacher, second
            pieces of one meaning, added tokens of white space alone); the language tokenizers reach them.
    """

    texts: list[str]
    roles: list[Role]
    of: list[NDArray[np.int64]]
    private: int

    def __len__(self) -> int:
        return len(self.texts)


def union_slots(
    teachers: Sequence[Vocabulary],
    *,
    mixed: bool,
    convention: Convention,
    punctuation: Punctuation = "internal",
    normalize: Callable[[str], str] = str,
) -> Slots:
    """Lay the teachers' pieces over each other: specials first, then each teacher's pieces in its own order.

    Args:
        teachers: whose pieces to unite.
        mixed: match by canonical key and spell with `▁` (several families); else by the string (one family).
        convention: the special tokens.
        punctuation: what an isolated piece (punctuation, ideographs) of a WordPiece vocabulary is in a mixed union.
        normalize: what the union's normalizer makes of a text. The library looks for an added token in its normalized
            form; one that is nothing then would be found between all characters, so that only the language
            tokenizers have it.

    Returns:
        The rows. Two pieces of one teacher never share a row, so that its tokenizer can be written in union ids.
    """
    tokens = CONVENTIONS[convention].tokens
    texts = list(tokens.values())
    roles: list[Role] = ["special"] * len(texts)
    rows: dict[Hashable, int] = {("special", text): row for row, text in enumerate(texts)}
    taken = set(texts)
    columns, private = [], 0
    for teacher in teachers:
        renamed = unified_specials(teacher, convention)
        unseen = {
            token["content"]
            for token in teacher.tokenizer.get("added_tokens") or ()
            if token["normalized"] and not normalize(token["content"])
        }
        column = np.full(len(teacher), -1, dtype=np.int64)
        seen: set[int] = set()
        for old in _natural_before_bytes(teacher):
            piece, role, key = teacher.pieces[old], teacher.roles[old], teacher.keys[old]
            assert piece is not None
            assert key is not None
            meaning = _meaning(piece, key, role, renamed, mixed, punctuation)
            row = rows.get(meaning)
            repeat = 1
            while row is not None and row in seen:
                repeat += 1
                row = rows.get((meaning, repeat))
            if row is None:
                row = len(texts)
                rows[meaning if repeat == 1 else (meaning, repeat)] = row
                text = _spelling(piece, key, role, renamed, mixed, punctuation)
                if (
                    text is None
                    or repeat > 1
                    or text in taken
                    or (role == "added" and piece in unseen)
                ):
                    text = placeholder(row)
                    private += 1
                taken.add(text)
                texts.append(text)
                roles.append(role)
            seen.add(row)
            column[old] = row
        columns.append(column)
    if mixed:
        _complete(texts, roles, taken)
    return Slots(texts=texts, roles=roles, of=columns, private=private)


def _complete(texts: list[str], roles: list[Role], taken: set[str]) -> None:
    """Give a mixed union its bare marker, and all bytes if it has some, so that no text is unknown to it."""
    wanted: list[tuple[str, Role]] = [("▁", "character")]
    if "byte" in roles:
        wanted += [(f"<0x{byte:02X}>", "byte") for byte in range(256)]
    for text, role in wanted:
        if text not in taken:
            taken.add(text)
            texts.append(text)
            roles.append(role)


def keep_rows(slots: Slots, kept: NDArray[np.bool_]) -> Slots:
    """The slots that are left when some rows go; the others move up."""
    moved = np.where(kept, np.cumsum(kept) - 1, -1)
    rows = np.flatnonzero(kept).tolist()
    private = [slots.texts[row] == placeholder(row) for row in rows]
    return Slots(
        texts=[
            placeholder(new) if hidden else slots.texts[row]
            for new, (row, hidden) in enumerate(zip(rows, private, strict=True))
        ],
        roles=[slots.roles[row] for row in rows],
        of=[np.where(column >= 0, moved[column], -1) for column in slots.of],
        private=sum(private),
    )


def _natural_before_bytes(teacher: Vocabulary) -> list[int]:
    """Ids in order, without holes and unused pieces; byte-fallback pieces after the letters that they could spell."""
    late = {"byte"} if teacher.family != "bpe-byte" else set()
    live = [i for i, role in enumerate(teacher.roles) if role not in ("hole", "placeholder")]
    return live if not late else sorted(live, key=lambda i: teacher.roles[i] in late)


def _meaning(
    piece: str,
    key: Key,
    role: Role,
    renamed: dict[str, str],
    mixed: bool,
    punctuation: Punctuation,
) -> Hashable:
    if role == "special":
        return "special", renamed.get(piece, piece)
    if role == "added":
        return "added", piece
    if not mixed:
        return piece
    if role == "byte" and (piece.startswith("<0x") or key[1] >= b"\x80"):
        return "byte", key[1]
    return (punctuation, key[1]) if key[0] == "isolated" else key


def _spelling(
    piece: str,
    key: Key,
    role: Role,
    renamed: dict[str, str],
    mixed: bool,
    punctuation: Punctuation,
) -> str | None:
    """The string of a new row, or None where the union's text can never spell it."""
    if role in ("special", "added"):
        return renamed.get(piece, piece)
    if not mixed:
        return piece
    if role == "byte" and (piece.startswith("<0x") or key[1] >= b"\x80"):
        return f"<0x{key[1][0]:02X}>"
    try:
        text = key[1].decode("utf-8").replace(" ", "▁")
    except UnicodeDecodeError:
        return None
    word = punctuation if key[0] == "isolated" else key[0]
    return "▁" + text if word == "initial" else text
