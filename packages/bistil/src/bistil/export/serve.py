"""Serves the graph that lies beside this file, with onnxruntime, tokenizers and numpy alone.

`bistil export` copies it into the folder that it writes; `export.json` there says what the graph reads and answers.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Encoding, Tokenizer

FOLDER = Path(__file__).resolve().parent
GRAPH = "onnx/model_quantized.onnx"  # or onnx/model.onnx, for float32
Text = str | tuple[str, str]


def tag(sentences: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each word of each sentence and its label, which stands at its first sub-word."""
    for sentence, (row, scores) in zip(sentences, _ask(sentences), strict=True):
        words = row.word_ids
        for place, word in enumerate(words):
            if word is not None and word not in words[:place]:
                start, end = row.word_to_chars(word) or (0, 0)
                yield sentence[start:end], _label(scores[place])


def classify(texts: Sequence[Text]) -> list[str]:
    """The label of each text or pair of texts."""
    return [_label(scores) for _, scores in _ask(texts)]


def choose(passage: str, question: str, options: Sequence[str]) -> str:
    """The option that answers a question about a passage."""
    scores = [score for _, score in _ask([(passage, f"{question} {option}") for option in options])]
    return options[int(np.argmax(scores))]


def answer(question: str, context: str, *, longest: int = 30) -> str:
    """The part of a context, of at most `longest` sub-words, that answers a question."""
    limit = _about()["longest"]
    # A context that is longer than a row is read in windows that overlap.
    _tokenizer().enable_truncation(limit, stride=limit // 4, strategy="only_second")
    first = _tokenizer().encode(question, context)
    candidates = []
    for row in (first, *first.overflowing):
        (starts,), (ends,) = _run(**_columns([row]))
        places = [place for place, part in enumerate(row.sequence_ids) if part == 1]
        candidates += [
            (starts[a] + ends[b], context[row.offsets[a][0] : row.offsets[b][1]].strip())
            for a in places
            for b in places
            if a <= b < a + longest
        ]
    return max(candidates)[1]


def parse(words: Sequence[str]) -> list[tuple[int, str]]:
    """For each word of a sentence its head, counted from 1, or 0 for the root, and its relation to it."""
    about = _about()
    pieces = [_tokenizer().encode(f" {word}", add_special_tokens=False).ids or [about["unknown"]] for word in words]  # fmt: skip
    ids = [*about["before"], *(piece for word in pieces for piece in word), *about["after"]]
    if len(ids) > about["longest"]:
        raise ValueError(f"{len(ids)} sub-words are more than the {about['longest']} that a row holds; cut the sentence")  # fmt: skip
    sizes = [len(word) for word in pieces]
    arcs, relations = _run(
        input_ids=[ids], attention_mask=[[1] * len(ids)], token_type_ids=[[0] * len(ids)],
        word_start=[len(about["before"]) + np.cumsum([0, *sizes[:-1]])], word_size=[sizes],
    )  # fmt: skip
    heads = best_tree(arcs[0])
    is_root = np.array([label == "root" for label in about["labels"]])
    # The root's dependent has the relation `root`, and no other word.
    return [
        (int(head), _label(np.where(is_root == (head == 0), scores[head], -np.inf)))
        for head, scores in zip(heads, relations[0], strict=True)
    ]


def outputs(texts: Sequence[Text]) -> Any:
    """The graph's first output for some texts, as it is."""
    return _run(**_columns(_encode(texts)))[0]


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


@functools.cache
def _about() -> dict[str, Any]:
    about: dict[str, Any] = json.loads((FOLDER / "export.json").read_text(encoding="utf-8"))
    return about


@functools.cache
def _tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


@functools.cache
def _session() -> Any:
    return onnxruntime.InferenceSession(str(FOLDER / GRAPH), providers=["CPUExecutionProvider"])


def _label(scores: Any) -> str:
    return str(_about()["labels"][int(scores.argmax())])


def _ask(texts: Sequence[Text]) -> Iterator[tuple[Encoding, Any]]:
    rows = _encode(texts)
    return zip(rows, _run(**_columns(rows))[0], strict=True)


def _encode(texts: Sequence[Text]) -> list[Encoding]:
    _tokenizer().enable_padding(pad_id=_about()["pad"])
    _tokenizer().enable_truncation(_about()["longest"])
    rows: list[Encoding] = _tokenizer().encode_batch(list(texts))
    return rows


def _columns(rows: Sequence[Encoding]) -> dict[str, Any]:
    return {
        "input_ids": [row.ids for row in rows],
        "attention_mask": [row.attention_mask for row in rows],
        "token_type_ids": [row.type_ids for row in rows],
    }


def _run(**columns: Any) -> Any:
    """All outputs of the graph, which takes of the columns those that it knows."""
    fed = {name: np.array(columns[name], dtype=np.int64) for name in _about()["inputs"]}
    return _session().run(None, fed)
