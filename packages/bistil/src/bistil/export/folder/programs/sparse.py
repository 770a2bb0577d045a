"""Sparse vectors of texts, without torch: python serve.py "a text" "another text"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bistil.export.folder.programs.rows import Graph, options


class SparseEncoder(Graph):
    """Encodes texts as `SparseEncoder` of sentence-transformers does."""

    def encode(
        self,
        texts: Sequence[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 1,
    ) -> list[Any]:
        """The vector over the vocabulary of each text, in front of which stands `prompt`, or the model's own of the name `prompt_name`."""
        rows = self.rows(texts, self.prompt(prompt_name, prompt))
        return self.answers(rows, "sentence_embedding", batch_size=batch_size)

    def pieces(self, vector: Any, *, top: int = 20) -> dict[str, float]:
        """The pieces that weigh most in a vector, and their weights."""
        best = sorted(vector.nonzero()[0].tolist(), key=lambda piece: -vector[piece])[:top]
        return {str(self.tokenizer.id_to_token(piece)): float(vector[piece]) for piece in best}


def main() -> None:
    """Print the pieces that weigh most in each text."""
    parser = options("The pieces that weigh most in each text, and their weights.")
    parser.add_argument("text", nargs="+")
    arguments = parser.parse_args()
    encoder = SparseEncoder(file=arguments.file, threads=arguments.threads)
    for vector in encoder.encode(arguments.text):
        print(*(f"{piece} {weight:.2f}" for piece, weight in encoder.pieces(vector).items()))


if __name__ == "__main__":
    main()
