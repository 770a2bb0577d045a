"""Vectors of texts, and search among texts, without torch: python serve.py "a query" "a text" "another text"."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from bistil.export.folder.programs.rows import Graph, options


class SentenceEncoder(Graph):
    """Encodes texts as `SentenceTransformer` does."""

    def encode(
        self,
        texts: Sequence[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 1,
    ) -> Any:
        """Vectors [texts, dimension]; in front of each text stands `prompt`, or the model's own of the name `prompt_name`."""
        start = self.prompt(prompt_name, prompt)
        known = self.about["prompts"].values()
        if start and self.about["leaves_prompt_out"] and start not in known:
            raise ValueError(f"prompt {start!r}: the model leaves prompts out of its vectors, and the graph knows only {sorted(filter(None, known))}; name it in config_sentence_transformers.json and export anew")  # fmt: skip
        rows = self.rows(texts, start)
        vectors = self.answers(rows, "sentence_embedding", batch_size=batch_size)
        return np.array(vectors, dtype=np.float32).reshape(len(texts), self.about["dimension"])

    def search(self, query: str, texts: Sequence[str]) -> list[tuple[float, str]]:
        """The texts, nearest first, with their similarity; prompts named for queries and documents are taken."""
        vector = self.encode([query], prompt_name=self._prompt_name("query"))
        vectors = self.encode(texts, prompt_name=self._prompt_name("document", "passage", "corpus"))
        scores = similarity(vector, vectors, self.about["similarity"])[0].tolist()
        return sorted(zip(scores, texts, strict=True), key=lambda scored: -scored[0])

    def _prompt_name(self, *names: str) -> str | None:
        return next((name for name in names if name in self.about["prompts"]), None)


def similarity(first: Any, second: Any, measure: str = "cosine") -> Any:
    """How near each vector of `first` [N, D] is to each of `second` [M, D]: "cosine", "dot", or less "euclidean" or "manhattan" distance."""
    if measure == "dot":
        return first @ second.T
    if measure in ("euclidean", "manhattan"):
        order = 2 if measure == "euclidean" else 1
        return -np.linalg.norm(first[:, None] - second, ord=order, axis=-1)
    first, second = (
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
        for vectors in (first, second)
    )
    return first @ second.T


def main() -> None:
    """Print the vector of one text, or of several how near each is to the first."""
    parser = options("The vector of one text; with further texts, how near each is to the first.")
    parser.add_argument("text", nargs="+")
    arguments = parser.parse_args()
    encoder = SentenceEncoder(file=arguments.file, threads=arguments.threads)
    query, *texts = arguments.text
    if not texts:
        print(json.dumps(encoder.encode([query])[0].tolist()))
    for score, text in encoder.search(query, texts):
        print(f"{score:.3f}\t{text}")


if __name__ == "__main__":
    main()
