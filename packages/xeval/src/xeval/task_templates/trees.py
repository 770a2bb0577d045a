"""Dependency trees: the best one with a single root, what makes one, and the CoNLL-18 counts."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xeval.errors import XevalError

Arcs = NDArray[np.float64]

# The universal relations of UD 2, and which of them hang content words (Zeman et al. 2018, CoNLL shared task, CLAS).
CONTENT = frozenset(
    (
        *("nsubj", "obj", "iobj", "csubj", "ccomp", "xcomp", "obl", "vocative", "expl"),
        *("dislocated", "advcl", "advmod", "discourse", "nmod", "appos", "nummod", "acl"),
        *("amod", "conj", "fixed", "flat", "compound", "list", "parataxis", "orphan"),
        *("goeswith", "reparandum", "root", "dep"),
    )
)
FUNCTIONAL = frozenset(("aux", "cop", "mark", "det", "clf", "case", "cc"))
RELATIONS = tuple(sorted(CONTENT | FUNCTIONAL | {"punct"}))


def best_tree(scores: Arcs) -> list[int]:
    """The tree of the highest total score in which exactly one word hangs on the root.

    Chu-Liu/Edmonds. A constant larger than any possible gain is taken off every arc from the root, so that the best
    tree has as few of them as there can be, which is one; it changes all trees with one such arc alike.

    Args:
        scores: `[n, n + 1]`, finite; row d holds the scores of the heads of word d + 1: 0 is the root.

    Returns:
        `[n]`, the head of each word.

    Example:
        >>> best_tree(np.array([[5.0, 0.0, 1.0], [5.0, 4.0, 0.0]]))
        [0, 1]
    """
    words = len(scores)
    square = np.full((words + 1, words + 1), -np.inf)
    square[1:] = scores
    np.fill_diagonal(square, -np.inf)
    heads = square.argmax(axis=1)
    if np.count_nonzero(heads[1:] == 0) != 1 or _cycle(heads) is not None:
        finite = square[np.isfinite(square)]
        square[1:, 0] -= (finite.max() - finite.min() + 1.0) * (words + 1)
        heads = _arborescence(square)
    return [int(head) for head in heads[1:]]


def _arborescence(scores: Arcs) -> NDArray[np.intp]:
    """Heads of the best arborescence from node 0; `scores[d, h]`, minus infinity on the diagonal."""
    heads = scores.argmax(axis=1)
    heads[0] = 0
    cycle = _cycle(heads)
    if cycle is None:
        return heads
    inside = np.array(cycle)
    outside = np.setdiff1d(np.arange(len(scores)), inside)
    held = scores[inside, heads[inside]]
    entering = scores[np.ix_(inside, outside)] - held[:, None]
    leaving = scores[np.ix_(outside, inside)]
    small = np.full((len(outside) + 1, len(outside) + 1), -np.inf)
    small[:-1, :-1] = scores[np.ix_(outside, outside)]
    small[-1, :-1] = entering.max(axis=0)
    small[:-1, -1] = leaving.max(axis=1)
    best = _arborescence(small)
    whole = heads.copy()
    for place, node in enumerate(outside):
        head = best[place]
        at = leaving[place].argmax() if head == len(outside) else None
        whole[node] = outside[head] if at is None else inside[at]
    # The arc that enters the cycle replaces one of its own.
    broken = entering[:, best[-1]].argmax()
    whole[inside[broken]] = outside[best[-1]]
    return whole


def _cycle(heads: Sequence[int] | NDArray[np.intp]) -> list[int] | None:
    """A cycle among nodes 1…, or None when all lead to node 0."""
    state = [0] * len(heads)
    state[0] = -1
    for start in range(1, len(heads)):
        path = []
        node = start
        while state[node] == 0:
            state[node] = start
            path.append(node)
            node = int(heads[node])
        if state[node] == start:
            return path[path.index(node) :]
        for seen in path:
            state[seen] = -1
    return None


def check_tree(heads: Sequence[int], where: str) -> None:
    """Refuse what is no tree with a single root, as the CoNLL-18 script does.

    Raises:
        XevalError: naming the fault.
    """
    if (roots := list(heads).count(0)) != 1:
        raise XevalError(f"{where}: expected a tree with one root, got {roots} roots")
    if (cycle := _cycle([0, *heads])) is not None:
        raise XevalError(
            f"{where}: expected a tree, got a cycle through the words {', '.join(map(str, sorted(cycle)))}"
        )


def tree_counts(
    gold: tuple[Sequence[int], Sequence[str]], guess: tuple[Sequence[int], Sequence[str]]
) -> dict[str, tuple[int, int, int]]:
    """(tp, fp, fn) of UAS, LAS and CLAS for one sentence with gold words.

    As in the CoNLL-18 script: relations without their subtypes; LAS wants head and relation; CLAS counts words that
    hang by a content relation, in gold for recall and in the guess for precision.

    Args:
        gold: heads and relations.
        guess: heads and relations.
    """
    heads = relations = content = content_gold = content_guess = 0
    for head, relation, head_guess, relation_guess in zip(*gold, *guess, strict=True):
        a, b = relation.partition(":")[0], relation_guess.partition(":")[0]
        heads += head == head_guess
        both = head == head_guess and a == b
        relations += both
        content += both and a in CONTENT
        content_gold += a in CONTENT
        content_guess += b in CONTENT
    words = len(gold[0])
    return {
        "uas": (heads, words - heads, words - heads),
        "las": (relations, words - relations, words - relations),
        "clas": (content, content_guess - content, content_gold - content),
    }
