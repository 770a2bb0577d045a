"""Labels of texts, or of pairs of texts, without torch: python serve.py "a text" "another text"."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bistil.export.folder.programs.rows import Graph, options, texts_or_pairs


class Classifier(Graph):
    """Says of each text, or each pair of texts, which label fits it."""

    def classify(
        self, texts: Sequence[str | tuple[str, str]], *, batch_size: int = 1
    ) -> list[dict[str, float]]:
        """The probability of each label, the most probable first; where labels exclude each other they sum to one."""
        classified = []
        rows = self.rows(texts, self.about["default_prompt"])
        for logits in self.answers(rows, "logits", batch_size=batch_size):
            if self.about["several_labels"]:
                shares = 1 / (1 + np.exp(-logits))
            else:
                shares = np.exp(logits - logits.max())
                shares /= shares.sum()
            labelled = zip(self.about["labels"], shares.tolist(), strict=True)
            classified.append(dict(sorted(labelled, key=lambda pair: -pair[1])))
        return classified


def main() -> None:
    """Print each text's most probable label."""
    chosen, arguments = texts_or_pairs(options("The most probable label of each text."))
    classifier = Classifier(file=arguments.file, threads=arguments.threads)
    for text, shares in zip(chosen, classifier.classify(chosen), strict=True):
        label, share = next(iter(shares.items()))
        print(f"{label}\t{share:.3f}\t{text if isinstance(text, str) else ' | '.join(text)}")


if __name__ == "__main__":
    main()
