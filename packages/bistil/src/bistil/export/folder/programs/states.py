"""States of tokens, without torch: python serve.py "a text" "another text"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bistil.export.folder.programs.rows import Graph, options


class Encoder(Graph):
    """Encodes tokens."""

    def states(self, texts: Sequence[str], *, batch_size: int = 1) -> list[Any]:
        """The states [tokens, width] of each text, those of the special tokens around it included."""
        return self.answers(self.rows(texts), "last_hidden_state", batch_size=batch_size)


def main() -> None:
    """Print each text's tokens and the size of their states."""
    parser = options("The tokens of each text and the size of their states.")
    parser.add_argument("text", nargs="+")
    arguments = parser.parse_args()
    encoder = Encoder(file=arguments.file, threads=arguments.threads)
    rows, states = encoder.rows(arguments.text), encoder.states(arguments.text)
    for row, state in zip(rows, states, strict=True):
        print(*state.shape, " ".join(row.tokens), sep="\t")


if __name__ == "__main__":
    main()
