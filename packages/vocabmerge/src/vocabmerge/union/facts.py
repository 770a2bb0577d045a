"""What a union is, in figures, ready for JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

from vocabmerge.families.model import TokenizerModel
from vocabmerge.families.pieces import placeholder
from vocabmerge.maps import VocabularyMap
from vocabmerge.tokenizer_file.vocabulary import Vocabulary
from vocabmerge.union.union_rows import UnionRows


def union_facts(
    teachers: Sequence[Vocabulary],
    languages: Mapping[str, str],
    rows: UnionRows,
    union: TokenizerModel,
    maps: Mapping[str, VocabularyMap],
    mixed: bool,
) -> dict[str, Any]:
    """Sizes, teachers and shared pieces of a union.

    Args:
        teachers: of the union.
        languages: language → name of its teacher.
        rows: the union's rows.
        union: its model.
        maps: teacher's name → map of its ids.
        mixed: whether the teachers are of several families.
    """
    common = {row for row, role in enumerate(rows.roles) if role == "special"}
    pieces_of = [set(column[column >= 0].tolist()) - common for column in rows.teacher_rows]
    return {
        "format": "vocabulary-merge/1",
        "size": len(rows),
        "family": union.family,
        "mixed": mixed,
        "language_only_rows": sum(
            piece == placeholder(row) and rows.roles[row] != "placeholder"
            for row, piece in enumerate(union.pieces)
        ),
        "placeholder_rows": sum(role == "placeholder" for role in rows.roles),
        "teachers": [
            {
                "name": teacher.name,
                "family": teacher.family,
                "size": len(teacher),
                "digest": teacher.digest,
                "languages": [code for code, name in languages.items() if name == teacher.name],
                **maps[teacher.name].counts,
            }
            for teacher in teachers
        ],
        "shared": [[len(left & right) for right in pieces_of] for left in pieces_of],
    }
