"""Answers to questions from a text, without torch: python serve.py "a question" "a text that answers it"."""

from __future__ import annotations

from bistil.export.folder.programs.rows import Graph, options


class Reader(Graph):
    """Finds answers in texts."""

    def answer(self, question: str, context: str, *, longest: int = 30) -> str:
        """The part of a context, of at most `longest` tokens, that answers a question.

        A context that is longer than the model reads is read in windows that overlap.
        """
        limit = self.about["longest"]
        self.tokenizer.no_truncation()
        words = self.tokenizer.encode(question).ids
        if len(words) > limit // 2:
            raise ValueError(f"the question has {len(words)} tokens, more than half of the {limit} that the model reads with its context; shorten it")  # fmt: skip
        self.tokenizer.enable_truncation(limit, stride=limit // 4, strategy="only_second")
        first = self.tokenizer.encode(question, context)
        windows = [first, *first.overflowing]
        start_name, end_name = self.about["outputs"]
        starts, ends = (self.answers(windows, name) for name in (start_name, end_name))
        candidates = []
        for row, start, end in zip(windows, starts, ends, strict=True):
            places = [place for place, part in enumerate(row.sequence_ids) if part == 1]
            candidates += [
                (start[a] + end[b], context[row.offsets[a][0] : row.offsets[b][1]].strip())
                for a in places
                for b in places
                if a <= b < a + longest
            ]
        return max(candidates, key=lambda scored: scored[0], default=(0.0, ""))[1]


def main() -> None:
    """Print the answer."""
    parser = options("The part of a text that answers a question.")
    parser.add_argument("question")
    parser.add_argument("context")
    arguments = parser.parse_args()
    reader = Reader(file=arguments.file, threads=arguments.threads)
    try:
        print(reader.answer(arguments.question, arguments.context))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
