"""Scores of passages for a query, without torch: python serve.py "a query" "a passage" "another passage"."""

from __future__ import annotations

from collections.abc import Sequence

from bistil.export.folder.programs.rows import Graph, listed, options


class Reranker(Graph):
    """Scores pairs of texts as `CrossEncoder` does."""

    def score(
        self,
        query: str,
        passages: Sequence[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 1,
    ) -> list[float]:
        """How well each passage answers the query, in front of which stands `prompt`, or the model's own of the name `prompt_name`."""
        pairs = [(query, passage) for passage in listed(passages)]
        rows = self.rows(pairs, self.prompt(prompt_name, prompt))
        return [float(score) for score in self.answers(rows, "score", batch_size=batch_size)]


def main() -> None:
    """Print passages, the best first."""
    parser = options("Passages with their scores, the best first.")
    parser.add_argument("query")
    parser.add_argument("passage", nargs="+")
    arguments = parser.parse_args()
    reranker = Reranker(file=arguments.file, threads=arguments.threads)
    scores = reranker.score(arguments.query, arguments.passage)
    for score, passage in sorted(zip(scores, arguments.passage, strict=True), reverse=True):
        print(f"{score:.3f}\t{passage}")


if __name__ == "__main__":
    main()
