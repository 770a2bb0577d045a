"""How much of a teacher with another tokenizer is heard: of the words that it masks, those in the same pieces, and those that are whole?

A student reads the pieces of one tokenizer. Piece by piece it hears another's teacher at words that both cut into pieces of one
meaning; by the likelihood of words (`combine: {likelihood: words}`) at all words that both cover alone.
"""

import argparse
import json
import lzma
import os
from itertools import combinations, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from record import Recorder, parser
from tokenizers import Tokenizer

from teacherzoo.text.words import in_whole_words, word_spans, words_of_tokens
from vocabmerge import Vocabulary, parse_vocabulary

FAMILIES = {
    "WordPiece, uncased": "bert-base-uncased",
    "byte-level BPE": "ModernBERT-base",
    "Unigram": "unigram",
}


def main(arguments: argparse.Namespace) -> None:
    recorder = Recorder("mergedistill_words", arguments)
    vocabularies = {
        family: parse_vocabulary(tokenizer_file(arguments, folder), name=family)
        for family, folder in FAMILIES.items()
    }
    for language in ("en", "de", "fi") if arguments.quick else ("en", "de", "fi", "hi", "sw"):
        lines = real_lines(arguments.data, language, 500 if arguments.quick else 2000)
        cut = {
            family: words_in_pieces(vocabulary, lines)
            for family, vocabulary in vocabularies.items()
        }
        for student, teacher in combinations(FAMILIES, 2):
            alike, heard, words = shares(cut[student], cut[teacher])
            recorder.add(
                "share of words heard",
                {"piece by piece": [alike], "by the likelihood of words": [heard]},
                unit="share",
                bar={"by the likelihood of words": 0.95},
                at_least=True,
                shape={
                    "language": language,
                    "families": f"{student} and {teacher}",
                    "words": words,
                },
            )
    recorder.close()


def real_lines(folder: Path, language: str, count: int) -> list[str]:
    """The first lines of a corpus."""
    with lzma.open(folder / "corpora" / f"{language}.txt.xz", "rt", encoding="utf-8") as stream:
        return [line.rstrip("\n") for line in islice(stream, count)]


def tokenizer_file(arguments: argparse.Namespace, folder: str) -> dict[str, object]:
    """A parsed `tokenizer.json`, packed or not; the Unigram is that of the model."""
    if folder == "unigram":
        content = (Path(arguments.model) / "tokenizer.json").read_bytes()
    else:
        packed = (arguments.tokenizers / folder / "tokenizer.json.xz").read_bytes()
        content = lzma.decompress(packed)
    parsed: dict[str, object] = json.loads(content)
    return parsed


Words = list[dict[int, tuple[object, ...] | None]]


def words_in_pieces(vocabulary: Vocabulary, lines: list[str]) -> Words:
    """For each line, word to the meanings of its pieces; None where they do not cover the word alone."""
    backend: Tokenizer = vocabulary.segmenter()
    unknown = vocabulary.special_id("unk")
    cut: Words = []
    for text, encoding in zip(
        lines, backend.encode_batch(lines, add_special_tokens=False), strict=True
    ):
        spans = word_spans(text)
        offsets: NDArray[np.int64] = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        words = words_of_tokens(offsets, spans[:, 1])
        whole = in_whole_words(offsets, words, spans)
        pieces: dict[int, list[int]] = {word: [] for word in range(len(spans))}
        for word, piece in zip(words.tolist(), encoding.ids, strict=True):
            pieces[word].append(piece)
        covered = set(words[whole].tolist())
        cut.append(
            {
                word: tuple(_meaning(vocabulary, piece) for piece in ids)
                if word in covered and unknown not in ids
                else None
                for word, ids in pieces.items()
            }
        )
    return cut


def _meaning(vocabulary: Vocabulary, piece: int) -> object:
    """As a union of several families takes it: punctuation in a word is the same as punctuation alone."""
    key = vocabulary.keys[piece]
    return ("internal", key[1]) if key is not None and key[0] == "isolated" else key


def shares(student: Words, teacher: Words) -> tuple[float, float, int]:
    """Of all words, those in the same pieces, those whole in both, and their number."""
    pairs = [
        (pieces, other[word])
        for line, other in zip(student, teacher, strict=True)
        for word, pieces in line.items()
    ]
    whole = sum(pieces is not None and other is not None for pieces, other in pairs)
    alike = sum(pieces is not None and pieces == other for pieces, other in pairs)
    return alike / len(pairs), whole / len(pairs), len(pairs)


if __name__ == "__main__":
    arguments_parser = parser(__doc__ or "")
    arguments_parser.add_argument(
        "--tokenizers",
        type=Path,
        default=Path(os.environ.get("DISTILLERY_TOKENIZERS", "tokenizers")),
        help="a folder with bert-base-uncased/tokenizer.json.xz and ModernBERT-base/tokenizer.json.xz; by default what "
        "DISTILLERY_TOKENIZERS names",
    )
    main(arguments_parser.parse_args())
