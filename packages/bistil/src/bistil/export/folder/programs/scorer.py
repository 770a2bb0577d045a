"""Scores of texts, or of pairs of texts, without torch: python serve.py "a text" "another text"."""

from __future__ import annotations

from collections.abc import Sequence

from bistil.export.folder.programs.rows import Graph, options, texts_or_pairs


class Scorer(Graph):
    """Says of each text, or each pair of texts, what number it has."""

    def score(
        self, texts: Sequence[str | tuple[str, str]], *, batch_size: int = 1
    ) -> list[dict[str, float]]:
        """The number under each label, as the model gives it."""
        rows = self.rows(texts, self.about["default_prompt"])
        answers = self.answers(rows, "logits", batch_size=batch_size)
        return [dict(zip(self.about["labels"], logits.tolist(), strict=True)) for logits in answers]


def main() -> None:
    """Print each text's numbers."""
    chosen, arguments = texts_or_pairs(options("The score of each text."))
    scorer = Scorer(file=arguments.file, threads=arguments.threads)
    for text, scores in zip(chosen, scorer.score(chosen), strict=True):
        numbers = "\t".join(f"{label}\t{score:.3f}" for label, score in scores.items())
        print(f"{numbers}\t{text if isinstance(text, str) else ' | '.join(text)}")


if __name__ == "__main__":
    main()
