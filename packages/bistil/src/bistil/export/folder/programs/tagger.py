"""A label for each word, without torch: python serve.py "a sentence" "another sentence"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers import Encoding

from bistil.export.folder.programs.rows import Graph, listed, options


class Tagger(Graph):
    """Labels words."""

    def tag(
        self, sentences: Sequence[str | Sequence[str]], *, batch_size: int = 1
    ) -> list[list[tuple[str, str]]]:
        """The words of each sentence and their labels.

        A sentence is a text, which the tokenizer's own rule cuts into words, or a list of words. One that is too long for the
        model is read in windows that overlap, and each word where it is farthest from a window's edge. A word that the tokenizer
        makes nothing of is read as its unknown token.
        """
        limit = self.about["longest"]
        self.tokenizer.enable_truncation(limit, stride=limit // 4)
        wholes = [self._read(sentence) for sentence in listed(sentences)]
        windows = [[whole, *whole.overflowing] for whole in wholes]
        logits = iter(self.answers([row for rows in windows for row in rows], "logits", batch_size=batch_size))  # fmt: skip
        return [
            self._labels(sentence, [(row, next(logits)) for row in rows])
            for sentence, rows in zip(sentences, windows, strict=True)
        ]

    def _read(self, sentence: str | Sequence[str]) -> Encoding:
        if isinstance(sentence, str):
            return self.tokenizer.encode(sentence)
        words = [f" {word}" for word in sentence]
        unknown = self.about["unknown"]
        if unknown is not None:
            alone = self.tokenizer.encode_batch(words, add_special_tokens=False)
            nothing = str(self.tokenizer.id_to_token(unknown))
            words = [word if row.ids else nothing for word, row in zip(words, alone, strict=True)]
        return self.tokenizer.encode(words, is_pretokenized=True)

    def _labels(
        self, sentence: str | Sequence[str], windows: Sequence[tuple[Encoding, Any]]
    ) -> list[tuple[str, str]]:
        chosen: dict[int, tuple[int, str, str]] = {}
        for row, logits in windows:
            for word, places in self._places(row).items():
                from_edge = min(places[0], len(row) - 1 - places[0])
                if word in chosen and chosen[word][0] >= from_edge:
                    continue
                read = (
                    logits[places].mean(0) if self.about["pooling"] == "mean" else logits[places[0]]
                )
                if isinstance(sentence, str):
                    start, end = row.word_to_chars(word) or (0, 0)
                    text = sentence[start:end]
                else:
                    text = sentence[word]
                chosen[word] = from_edge, text, self.about["labels"][int(np.argmax(read))]
        return [(text, label) for _, (_, text, label) in sorted(chosen.items())]

    def _places(self, row: Encoding) -> dict[int, list[int]]:
        """Word to the places of its tokens, without those in front that hold a space and nothing else."""
        places: dict[int, list[int]] = {}
        for place, word in enumerate(row.word_ids):
            if word is not None:
                places.setdefault(word, []).append(place)
        for word, all_places in places.items():
            visible = [
                place for place in all_places if self.tokenizer.decode([row.ids[place]]).strip()
            ]
            places[word] = all_places[all_places.index(visible[0]) :] if visible else all_places
        return places


def main() -> None:
    """Print a word and its label a line."""
    parser = options("A word and its label a line, an empty line behind each sentence.")
    parser.add_argument("sentence", nargs="+")
    arguments = parser.parse_args()
    for words in Tagger(file=arguments.file, threads=arguments.threads).tag(arguments.sentence):
        for word, label in words:
            print(f"{word}\t{label}")
        print()


if __name__ == "__main__":
    main()
