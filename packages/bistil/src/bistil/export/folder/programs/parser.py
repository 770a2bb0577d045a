"""Trees of sentences, without torch: python serve.py "The cat sleeps .", with spaces between words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bistil.export.folder.programs.rows import Graph, listed, options


class Parser(Graph):
    """Parses sentences that are given as words."""

    def parse(self, words: Sequence[str]) -> list[tuple[int, str]]:
        """For each word of a sentence its head, counted from 1, or 0 for the root, and its relation to it."""
        about, words = self.about, listed(words)
        pieces = [self.tokenizer.encode(f" {word}", add_special_tokens=False).ids or [about["unknown"]] for word in words]  # fmt: skip
        ids = [*about["before"], *(piece for word in pieces for piece in word), *about["after"]]
        if len(ids) > about["longest"]:
            raise ValueError(f"{len(ids)} sub-words are more than the {about['longest']} that a row holds; cut the sentence")  # fmt: skip
        sizes = [len(word) for word in pieces]
        columns = {
            "input_ids": ids,
            "attention_mask": [1] * len(ids),
            "token_type_ids": [0] * len(ids),
            "word_start": len(about["before"]) + np.cumsum([0, *sizes[:-1]]),
            "word_size": sizes,
        }
        outputs = self.run({name: np.array([columns[name]], dtype=np.int64) for name in about["inputs"]})  # fmt: skip
        labels, (arcs,), (relations,) = about["labels"], outputs["arcs"], outputs["relations"]
        heads = best_tree(arcs)
        is_root = np.array([label == "root" for label in labels])
        # The root's dependent has the relation `root`, and no other word.
        scores = [np.where(is_root == (head == 0), row[head], -np.inf) for head, row in zip(heads, relations, strict=True)]  # fmt: skip
        return [(int(head), labels[int(row.argmax())]) for head, row in zip(heads, scores, strict=True)]  # fmt: skip


def best_tree(arcs: Any) -> Any:
    """The head of each word in the best tree with one word under the root (Chu and Liu 1965, Edmonds 1967).

    Args:
        arcs: [words, 1 + words] scores of each word's heads; column 0 is the root, minus infinity is not allowed.
    """
    finite = arcs[np.isfinite(arcs)].astype(float)
    scores = np.vstack([np.full(len(arcs) + 1, -np.inf), arcs])
    # A second word under the root never pays.
    scores[1:, 0] -= (finite.max() - finite.min() + 1) * len(scores)
    return _best_arborescence(scores)[1:]


def _best_arborescence(scores: Any) -> Any:
    heads = scores.argmax(1)
    heads[0] = 0
    cycle = _cycle(heads)
    if not cycle:
        return heads
    # The cycle becomes one node; the best tree of what is left breaks it at one place.
    inside = np.array(cycle)
    outside = np.setdiff1d(np.arange(len(scores)), inside)
    entering = scores[np.ix_(inside, outside)] - scores[inside, heads[inside]][:, None]
    leaving = scores[np.ix_(outside, inside)]
    contracted = np.full((len(outside) + 1, len(outside) + 1), -np.inf)
    contracted[:-1, :-1] = scores[np.ix_(outside, outside)]
    contracted[-1, :-1], contracted[:-1, -1] = entering.max(0), leaving.max(1)
    tree = _best_arborescence(contracted)
    whole = heads.copy()
    for place, node in enumerate(outside):
        from_cycle = tree[place] == len(outside)
        whole[node] = inside[leaving[place].argmax()] if from_cycle else outside[tree[place]]
    whole[inside[entering[:, tree[-1]].argmax()]] = outside[tree[-1]]
    return whole


def _cycle(heads: Any) -> list[int]:
    for start in range(1, len(heads)):
        path, node = [], start
        while node and node not in path:
            path.append(node)
            node = int(heads[node])
        if node:
            return path[path.index(node) :]
    return []


def main() -> None:
    """Print a word, its head and its relation a line."""
    parser = options("A line for each word: its number, itself, the number of its head, its relation to it.")  # fmt: skip
    parser.add_argument("sentence", nargs="+", help="words with spaces between them")
    arguments = parser.parse_args()
    model = Parser(file=arguments.file, threads=arguments.threads)
    for sentence in arguments.sentence:
        words = sentence.split()
        try:
            tree = model.parse(words)
        except ValueError as error:
            parser.error(str(error))
        for number, (word, (head, relation)) in enumerate(zip(words, tree, strict=True), 1):
            print(number, word, head, relation, sep="\t")
        print()


if __name__ == "__main__":
    main()
