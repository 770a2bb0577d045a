"""Guesses of a masked word, without torch: python serve.py "The capital of Kenya is [MASK] ." with the model's own mask."""

from __future__ import annotations

import numpy as np

from bistil.export.folder.programs.rows import Graph, options


class MaskedWords(Graph):
    """Guesses words."""

    def fill(self, text: str, *, top: int = 5) -> list[list[tuple[str, float]]]:
        """For each mask in a text the most probable pieces and their probabilities."""
        mask = self.about["mask"]
        [row] = self.rows([text])
        places = [place for place, token in enumerate(row.tokens) if token == mask]
        if mask not in text:
            raise ValueError(f"{text!r}: no word is masked; write {mask!r} in the place of the one to guess")  # fmt: skip
        if len(places) < text.count(mask):
            longest = self.about["longest"]
            raise ValueError(f"{text[:40]!r}...: a {mask!r} stands outside the {longest} tokens that the model reads; shorten the text")  # fmt: skip
        [logits] = self.answers([row], "logits")
        guesses = []
        for place in places:
            shares = np.exp(logits[place] - logits[place].max())
            best = np.argsort(-shares)[:top]
            guesses.append([(self.tokenizer.decode([piece]), float(shares[piece] / shares.sum())) for piece in best])  # fmt: skip
        return guesses


def main() -> None:
    """Print the guesses for each mask of a text."""
    parser = options("The most probable pieces for each masked word of a text.")
    parser.add_argument("text")
    arguments = parser.parse_args()
    try:
        all_guesses = MaskedWords(file=arguments.file, threads=arguments.threads).fill(
            arguments.text
        )
    except ValueError as error:
        parser.error(str(error))
    for guesses in all_guesses:
        print(*(f"{piece} {share:.3f}" for piece, share in guesses), sep="\t")


if __name__ == "__main__":
    main()
