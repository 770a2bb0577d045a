"""How faithfully one tokenizer segments text as another does: in words, in sentences, in tokens per word."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from vocabmerge.count import batches
from vocabmerge.errors import VocabularyError
from vocabmerge.families.components import segmenting
from vocabmerge.families.union_words import rows_differ
from vocabmerge.progress import ProgressCallback, no_progress
from vocabmerge.tokenizer_file.vocabulary import Vocabulary
from vocabmerge.union.character_spans import CharacterSpans


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """What a comparison over a text counted. Shares lie in [0, 1].

    A word is a maximal run of letters, marks and digits; ideographs are words of one character. It is segmented alike
    if the tokens that touch it have the same ids and cover the same characters of the text.

    Args:
        words: number of words.
        sentences: number of lines.
        words_alike: share of words with the same ids and spans.
        words_cut_alike: share of words with the same spans, whatever the ids.
        sentences_alike: share of lines with the same ids throughout.
        tokens_per_word: of the tokenizer under test.
        teacher_tokens_per_word: of the tokenizer that it is held against.
        unknown: share of the tested tokenizer's tokens that are its unknown token.
        teacher_unknown: the same for the other.
    """

    words: int
    sentences: int
    words_alike: float
    words_cut_alike: float
    sentences_alike: float
    tokens_per_word: float
    teacher_tokens_per_word: float
    unknown: float
    teacher_unknown: float


def compare_segmentation(
    tested: tokenizers.Tokenizer,
    teacher: tokenizers.Tokenizer,
    lines: Iterable[str],
    *,
    rows: NDArray[np.int64] | None = None,
    unknown: int | None = None,
    same_ids: bool = True,
    watch: ProgressCallback = no_progress,
) -> Fidelity:
    """Hold one tokenizer's segmentation of a text against another's.

    The share of words segmented alike is `|{w : tokens(w) = teacher's tokens(w)}| / |words|`; tokens are equal if their ids and
    the characters that they cover are.

    Args:
        tested: the tokenizer under test, such as a union.
        teacher: the tokenizer that it should behave as.
        lines: the text.
        rows: the tested tokenizer's id of each id of the teacher; by default they are the same.
        unknown: id of the unknown token, of the tested tokenizer.
        same_ids: whether the ids mean the same in both; without it only spans are compared.
        watch: told the number of lines done.

    Returns:
        The counts and shares.

    Raises:
        VocabularyError: no line at all.

    Example:
        >>> def words(*known):
        ...     vocab = dict(zip(["?", *known], range(9)))
        ...     return open_tokenizer({"pre_tokenizer": {"type": "WhitespaceSplit"},
        ...         "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "?"}}, name="tiny")
        >>> compare_segmentation(words("a"), words("a", "b"), ["a b"]).words_alike
        0.5
    """
    words = alike = cut_alike = sentences = sentences_alike = 0
    tokens, unknowns = [0, 0], [0, 0]
    for batch in batches(lines):
        with segmenting():
            sides = [side.encode_batch(batch, add_special_tokens=False) for side in (tested, teacher)]  # fmt: skip
        spans = CharacterSpans(batch)
        hashes, ids_of_side = [], list[NDArray[np.int64]]()
        for side, encodings in enumerate(sides):
            ids, starts, ends = spans.of_tokens(encodings)
            if side == 1 and rows is not None:
                ids = rows[ids]
            ids_of_side.append(ids)
            tokens[side] += len(ids)
            unknowns[side] += 0 if unknown is None else int((ids == unknown).sum())
            with_ids = spans.hash_tokens(ids, starts, ends)
            hashes.append((with_ids, spans.hash_tokens(None, starts, ends)))
        same = spans.words_without(hashes[0][0] != hashes[1][0])
        cut = spans.words_without(hashes[0][1] != hashes[1][1])
        words += len(same)
        alike += int((same if same_ids else cut).sum())
        cut_alike += int(cut.sum())
        sentences += len(batch)
        sentences_alike += _lines_alike(sides, ids_of_side) if same_ids else _offsets_alike(sides)
        watch(sentences, None, "lines compared")
    if not sentences:
        raise VocabularyError("the text to compare on is empty; give at least one line")
    return Fidelity(
        words=words,
        sentences=sentences,
        words_alike=alike / max(words, 1),
        words_cut_alike=cut_alike / max(words, 1),
        sentences_alike=sentences_alike / sentences,
        tokens_per_word=tokens[0] / max(words, 1),
        teacher_tokens_per_word=tokens[1] / max(words, 1),
        unknown=unknowns[0] / max(tokens[0], 1),
        teacher_unknown=unknowns[1] / max(tokens[1], 1),
    )


def _lines_alike(
    sides: Sequence[Sequence[tokenizers.Encoding]], ids: Sequence[NDArray[np.int64]]
) -> int:
    """Number of lines with the same ids on both sides."""
    edges = [np.append(0, np.cumsum([len(line) for line in side])) for side in sides]
    return int((~rows_differ(edges[0], ids[0], edges[1], ids[1])).sum())


def _offsets_alike(sides: Sequence[Sequence[tokenizers.Encoding]]) -> int:
    return sum(tested.offsets == teacher.offsets for tested, teacher in zip(*sides, strict=True))


def added_tokens_fidelity(
    teachers: Sequence[Vocabulary],
    languages: Mapping[str, str],
    corpora: Mapping[str, Sequence[str]],
) -> dict[str, dict[str, Any]]:
    """What the common shortcut would give: the first teacher with everyone else's pieces as added tokens.

    Args:
        teachers: of a union.
        languages: language → name of its teacher.
        corpora: language → lines.

    Returns:
        Language → what `compare_segmentation` says of spans; the ids have no common meaning.
    """
    if not corpora:
        return {}
    first, *further = teachers
    shortcut = first.segmenter()
    known = set(first.ids)
    foreign = {
        piece: None
        for teacher in further
        for piece, role in zip(teacher.pieces, teacher.roles, strict=True)
        if piece is not None and role in ("normal", "character") and piece not in known
    }
    if shortcut.normalizer is not None:  # what it makes empty would be found between all characters
        shown = shortcut.normalizer.normalize_str
        foreign = {piece: None for piece in foreign if shown(piece)}
    shortcut.add_tokens(list(foreign))
    opened = {teacher.name: teacher.segmenter() for teacher in teachers}
    return {
        code: vars(compare_segmentation(shortcut, opened[languages[code]], lines, same_ids=False))
        for code, lines in corpora.items()
    }
