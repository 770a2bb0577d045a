"""Which option answers a question about a passage, without torch: python serve.py "a passage" "a question" "one option" "another"."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bistil.export.folder.programs.rows import Graph, listed, options


class Chooser(Graph):
    """Chooses among options."""

    def choose(self, passage: str, question: str, choices: Sequence[str]) -> str:
        """The option that answers a question about a passage."""
        rows = self.rows([(passage, f"{question} {choice}") for choice in listed(choices)])
        return choices[int(np.argmax(self.answers(rows, "score")))]


def main() -> None:
    """Print the option chosen."""
    parser = options("The option that answers a question about a passage.")
    parser.add_argument("passage")
    parser.add_argument("question")
    parser.add_argument("option", nargs="+")
    arguments = parser.parse_args()
    chooser = Chooser(file=arguments.file, threads=arguments.threads)
    print(chooser.choose(arguments.passage, arguments.question, arguments.option))


if __name__ == "__main__":
    main()
