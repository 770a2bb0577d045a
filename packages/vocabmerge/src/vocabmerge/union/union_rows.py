"""The rows of a union: which pieces of several teachers are one piece."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vocabmerge.families.pieces import Key, Role, metaspace_piece, placeholder
from vocabmerge.tokenizer_file.vocabulary import Vocabulary
from vocabmerge.union.specials import CONVENTIONS, Convention, unified_specials

PunctuationPlace = Literal["internal", "initial"]


@dataclass(frozen=True, kw_only=True)
class UnionRows:
    """The rows of a union vocabulary.

    Args:
        texts: the union's string of each row [S].
        roles: what each row is [S].
        teacher_rows: per teacher, the row of each of its ids [V_t], -1 for none.

    A row that no text of the union tokenizer can reach has a placeholder for its string: partial UTF-8 of a byte-level
    teacher, second pieces of one meaning, added tokens of white space alone. The language tokenizers reach it.
    """

    texts: list[str]
    roles: list[Role]
    teacher_rows: list[NDArray[np.int64]]

    def __len__(self) -> int:
        return len(self.texts)

    def unreachable_rows(self) -> list[bool]:
        """For each row [S], whether its string is a placeholder."""
        return [text == placeholder(row) for row, text in enumerate(self.texts)]


def unite_pieces(
    teachers: Sequence[Vocabulary],
    *,
    mixed: bool,
    convention: Convention,
    punctuation: PunctuationPlace = "internal",
    normalize: Callable[[str], str] = str,
) -> UnionRows:
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
    columns = []
    for teacher in teachers:
        renamed = unified_specials(teacher, convention)
        emptied = {
            token["content"]
            for token in teacher.tokenizer["added_tokens"]
            if token["normalized"] and not normalize(token["content"])
        }
        column = np.full(len(teacher), -1, dtype=np.int64)
        used: set[int] = set()
        for old in _letters_before_bytes(teacher):
            piece, role, key = teacher.pieces[old], teacher.roles[old], teacher.keys[old]
            assert piece is not None
            assert key is not None
            meaning, text = _meaning_and_text(
                teacher, piece, _united_key(key, punctuation), role, renamed, mixed
            )
            row = rows.get(meaning)
            repeat = 1
            while row is not None and row in used:
                repeat += 1
                row = rows.get((meaning, repeat))
            if row is None:
                row = len(texts)
                rows[meaning if repeat == 1 else (meaning, repeat)] = row
                hidden = role == "added" and piece in emptied
                if text is None or repeat > 1 or text in taken or hidden:
                    text = placeholder(row)
                taken.add(text)
                texts.append(text)
                roles.append(role)
            used.add(row)
            column[old] = row
        columns.append(column)
    if mixed:
        _complete(texts, roles, taken)
    return UnionRows(texts=texts, roles=roles, teacher_rows=columns)


def keep_rows(rows: UnionRows, kept: NDArray[np.bool_]) -> UnionRows:
    """The rows that are left when some go [S]; the others move up."""
    moved = np.where(kept, np.cumsum(kept) - 1, -1)
    unreachable = rows.unreachable_rows()
    old_rows = np.flatnonzero(kept).tolist()
    return UnionRows(
        texts=[
            placeholder(new) if unreachable[old] else rows.texts[old]
            for new, old in enumerate(old_rows)
        ],
        roles=[rows.roles[old] for old in old_rows],
        teacher_rows=[np.where(column >= 0, moved[column], -1) for column in rows.teacher_rows],
    )


def _letters_before_bytes(teacher: Vocabulary) -> list[int]:
    """Ids in order, without holes and unused pieces; byte-fallback pieces after the letters that they could spell."""
    live = [i for i, role in enumerate(teacher.roles) if role not in ("hole", "placeholder")]
    if not teacher.model.has_fallback_bytes:
        return live
    return sorted(live, key=lambda i: teacher.roles[i] == "byte")


def _united_key(key: Key, punctuation: PunctuationPlace) -> Key:
    return (punctuation, key[1]) if key[0] == "isolated" else key


def _meaning_and_text(
    teacher: Vocabulary,
    piece: str,
    key: Key,
    role: Role,
    renamed: dict[str, str],
    mixed: bool,
) -> tuple[Hashable, str | None]:
    """What makes pieces of several teachers one, and the union's string; None where its text can never spell it."""
    if role == "special":
        return ("special", renamed.get(piece, piece)), renamed.get(piece, piece)
    if role == "added":
        return ("added", piece), renamed.get(piece, piece)
    if not mixed:
        return piece, piece
    if role == "byte" and (teacher.model.has_fallback_bytes or key[1] >= b"\x80"):
        return ("byte", key[1]), f"<0x{key[1][0]:02X}>"
    return key, metaspace_piece(key)


def _complete(texts: list[str], roles: list[Role], taken: set[str]) -> None:
    """Give a mixed union its bare marker, and all bytes if it has some, so that no text is unknown to it."""
    needed: list[tuple[str, Role]] = [("▁", "character")]
    if "byte" in roles:
        needed += [(f"<0x{byte:02X}>", "byte") for byte in range(256)]
    for text, role in needed:
        if text not in taken:
            taken.add(text)
            texts.append(text)
            roles.append(role)
