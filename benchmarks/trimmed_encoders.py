"""What the questions about trimmed encoders share: text to choose pieces by, test pairs, what is segmented alike, vectors; no question itself."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from vocabmerge import read_corpus

LANGUAGE_SETS = (("en", "sw"), ("en", "de", "tr", "hi", "sw", "ar"))
PROMPT = "query: "  # the E5 models', for both sides of a pair
PROMPTS = "prompts"
"""What stands before every text is a language of its own: of the languages' corpora none need have its pieces."""
Pair = tuple[str, str]
Text = str | Pair


def read_options(arguments: ArgumentParser) -> Namespace:
    """The options of a question that cannot do without a model and text."""
    options = arguments.parse_args()
    if options.data is None or options.model is None:
        sys.exit(
            "This question needs a model and real text: give --model FOLDER and --data FOLDER."
        )
    return options


def texts_to_choose_by(
    data: Path, languages: Sequence[str], lines: int, into: Path, tests: Iterable[str]
) -> dict[str, list[Path]]:
    """A file for each language of at most so many lines of its corpus, evenly spaced, and one of the model's prompts.

    None of the lines is one of the tests.
    """
    into.mkdir(parents=True, exist_ok=True)
    unwanted = {plain(line) for line in tests}
    files = {}
    for language in languages:
        text = [
            line
            for line in read_corpus(data / "corpora" / f"{language}.txt.xz")
            if plain(line) not in unwanted
        ]
        places = np.linspace(0, len(text) - 1, min(lines, len(text))).round().astype(int)
        files[language] = [into / f"{language}.txt"]
        files[language][0].write_text("\n".join(text[place] for place in places), encoding="utf-8")
    files[PROMPTS] = [into / f"{PROMPTS}.txt"]
    files[PROMPTS][0].write_text("query: \npassage: ", encoding="utf-8")
    return files


def plain(line: str) -> str:
    """A line without what two copies of it may differ in."""
    return " ".join(line.casefold().split())


def translations(data: Path, language: str, most: int) -> list[Pair]:
    """The first sentences of a language with their English translations."""
    rows = list(read_corpus(data / "tatoeba" / f"{language}.tsv.xz"))[:most]
    return [(sentence, english) for sentence, english in (row.split("\t") for row in rows)]


def segmented(folder: Path, texts: Sequence[Text], *, special: bool = True) -> list[list[str]]:
    """The pieces of each text or pair of texts, `special` ones around them or not, under a folder's tokenizer."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    names = {number: piece for piece, number in tokenizer.get_vocab().items()}
    rows = tokenizer.encode_batch_fast(list(texts), add_special_tokens=special)
    return [[names[number] for number in row.ids] for row in rows]


def segmented_alike(
    before: Sequence[Sequence[str]], after: Sequence[Sequence[str]]
) -> NDArray[np.bool_]:
    """Whether each text has the same pieces in both."""
    return np.array([old == new for old, new in zip(before, after, strict=True)], dtype=bool)


def size_of(folder: Path) -> dict[str, float]:
    """Pieces, and MiB of weights."""
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    pieces = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    return {"pieces": pieces, "MiB": weights / 2**20}


class SentenceVectors:
    """The vectors of a folder's sentence encoder, as sentence-transformers makes them."""

    def __init__(self, folder: Path) -> None:
        from sentence_transformers import SentenceTransformer

        self._encoder = SentenceTransformer(str(folder), device="cpu")

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[N, H], in batches of 32 that hold texts of about one length: the same for the same texts."""
        vectors: Any = self._encoder.encode(list(texts), batch_size=32, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)


def bitext_accuracy(left: NDArray[np.float32], right: NDArray[np.float32]) -> tuple[float, float]:
    """Of how many texts the nearest one by cosine is the translation, %: from left to right and back."""
    left, right = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (left, right))
    similarity = left @ right.T
    truth = np.arange(len(left))
    return (
        100 * float((similarity.argmax(axis=1) == truth).mean()),
        100 * float((similarity.argmax(axis=0) == truth).mean()),
    )


class TranslatedTexts:
    """Translations of some languages, and the whole model's vectors of them."""

    def __init__(self, model: Path, pairs: dict[str, list[Pair]]) -> None:
        self.pairs = pairs
        self.texts = list(
            dict.fromkeys(
                PROMPT + side for rows in pairs.values() for pair in rows for side in pair
            )
        )
        self._place = {text: place for place, text in enumerate(self.texts)}
        self.pieces = segmented(model, self.texts)
        self.vectors = SentenceVectors(model)(self.texts)

    def accuracies(self, vectors: NDArray[np.float32]) -> dict[str, tuple[float, float]]:
        """Bitext accuracy per language, into English and back."""
        return {
            language: bitext_accuracy(
                *(vectors[[self._place[PROMPT + pair[side]] for pair in rows]] for side in (0, 1))
            )
            for language, rows in self.pairs.items()
        }

    def alike(self, folder: Path) -> NDArray[np.bool_]:
        """Which texts a trimmed folder segments as the whole model does."""
        return segmented_alike(self.pieces, segmented(folder, self.texts))

    def vectors_of_trim(self, folder: Path, alike: NDArray[np.bool_]) -> NDArray[np.float32]:
        """A trimmed folder's vectors; those of texts segmented alike, which are the whole model's, are not made again."""
        vectors = self.vectors.copy()
        changed = np.flatnonzero(~alike)
        if len(changed):
            vectors[changed] = SentenceVectors(folder)([self.texts[place] for place in changed])
        return vectors
