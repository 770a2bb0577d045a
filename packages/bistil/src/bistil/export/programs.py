"""Programs that serve an exported graph with onnxruntime, tokenizers and numpy alone, one for each kind of answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LOAD = """import json

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("tokenizer.json")
session = onnxruntime.InferenceSession("model.int8.onnx", providers=["CPUExecutionProvider"])
about = json.load(open("export.json", encoding="utf-8"))


def run(columns):
    return session.run(None, {name: np.array(columns[name], dtype=np.int64) for name in about["inputs"]})
"""
_ASK = """

def ask(texts):
    tokenizer.enable_padding(pad_id=about["pad"])
    tokenizer.enable_truncation(about["longest"])
    rows = tokenizer.encode_batch(texts)
    outputs = run({
        "input_ids": [row.ids for row in rows],
        "attention_mask": [row.attention_mask for row in rows],
        "token_type_ids": [row.type_ids for row in rows],
    })
    return rows, outputs[0]
"""
_SENTENCES = """

sentences = ["This is one sentence.", "And this is another."]
"""
_PAIRS = """

sentences = [("This is one sentence.", "There is a sentence."), ("And this is another.", "This is a number.")]
"""
_WORDS = """rows, logits = ask(sentences)
for sentence, row, scores in zip(sentences, rows, logits):
    seen = set()
    for number, word in enumerate(row.word_ids):
        if word is not None and word not in seen:  # a word's label stands at its first sub-word
            seen.add(word)
            start, end = row.word_to_chars(word)
            print(sentence[start:end], about["labels"][int(scores[number].argmax())], sep="\\t")
"""
_TEXTS = """rows, logits = ask(sentences)
for sentence, scores in zip(sentences, logits):
    print(about["labels"][int(scores.argmax())], sentence, sep="\\t")
"""
_PLAIN = """

rows, output = ask(["This is one sentence.", "And this is another."])
print(output.shape)
"""
_CHOICES = """

passage, question, options = "The cat sleeps in the house.", "Where is the cat?", ["in the house", "in the river"]
rows, scores = ask([(passage, f"{question} {option}") for option in options])
print(options[int(scores.argmax())])
"""
_SPANS = """

def answer(question, context, longest=30):
    # A context that is longer than a row is read in windows that overlap.
    tokenizer.enable_truncation(about["longest"], stride=about["longest"] // 4, strategy="only_second")
    first = tokenizer.encode(question, context)
    found = []
    for row in (first, *first.overflowing):
        columns = {"input_ids": [row.ids], "attention_mask": [row.attention_mask], "token_type_ids": [row.type_ids]}
        (starts,), (ends,) = run(columns)
        places = [place for place, part in enumerate(row.sequence_ids) if part == 1]
        found += [
            (starts[a] + ends[b], context[row.offsets[a][0] : row.offsets[b][1]].strip())
            for a in places
            for b in places
            if a <= b < a + longest
        ]
    return max(found)[1]


for question, context in [("Where does the cat sleep?", "The cat sleeps in the house."), ("Who sleeps?", "The cat sleeps.")]:
    print(question, answer(question, context), sep="\\t")
"""
_TREES = """

def tree(arcs):
    \"\"\"The head of each word in the best tree with one word under the root (Chu-Liu, Edmonds); 0 is the root.\"\"\"
    finite = arcs[np.isfinite(arcs)].astype(float)
    scores = np.vstack([np.full(len(arcs) + 1, -np.inf), arcs])
    scores[1:, 0] -= (finite.max() - finite.min() + 1) * len(scores)  # a second word under the root never pays
    return best(scores)[1:]


def best(scores):
    heads = scores.argmax(1)
    heads[0] = 0
    for start in range(1, len(heads)):
        path, node = [], start
        while node and node not in path:
            path.append(node)
            node = heads[node]
        if node:
            break
    else:
        return heads
    # The cycle becomes one node; the best tree of what is left breaks it at one place.
    inside = np.array(path[path.index(node) :])
    outside = np.setdiff1d(np.arange(len(scores)), inside)
    entering = scores[np.ix_(inside, outside)] - scores[inside, heads[inside]][:, None]
    leaving = scores[np.ix_(outside, inside)]
    small = np.full((len(outside) + 1, len(outside) + 1), -np.inf)
    small[:-1, :-1] = scores[np.ix_(outside, outside)]
    small[-1, :-1], small[:-1, -1] = entering.max(0), leaving.max(1)
    found = best(small)
    whole = heads.copy()
    for place, node in enumerate(outside):
        cycle = found[place] == len(outside)
        whole[node] = inside[leaving[place].argmax()] if cycle else outside[found[place]]
    whole[inside[entering[:, found[-1]].argmax()]] = outside[found[-1]]
    return whole


def parse(words):
    pieces = [tokenizer.encode(" " + word, add_special_tokens=False).ids or [about["unknown"]] for word in words]
    ids = about["before"] + [piece for word in pieces for piece in word] + about["after"]
    if len(ids) > about["longest"]:
        raise ValueError(f"{len(ids)} sub-words are more than the {about['longest']} that a row holds; cut the sentence")
    size = [len(word) for word in pieces]
    arcs, relations = run({
        "input_ids": [ids],
        "attention_mask": [[1] * len(ids)],
        "token_type_ids": [[0] * len(ids)],
        "word_start": [len(about["before"]) + np.cumsum([0, *size[:-1]])],
        "word_size": [size],
    })
    heads = tree(arcs[0])
    root = np.array([label == "root" for label in about["labels"]])
    for word, head, scores in zip(words, heads, relations[0]):
        yield word, int(head), about["labels"][int(np.where(root == (head == 0), scores[head], -np.inf).argmax())]


for words in [["This", "is", "one", "sentence", "."], ["And", "this", "is", "another", "."]]:
    for number, (word, head, relation) in enumerate(parse(words), 1):
        print(number, word, head, relation, sep="\\t")
    print()
"""
_PAIRED = ("nli", "paraphrase")


def program_for(facts: Mapping[str, Any]) -> str:
    """The program for an export.

    Args:
        facts: of its `export.json`.
    """
    outputs = {name: tuple(axes) for name, axes in facts["outputs"].items()}
    if "arcs" in outputs:
        return _LOAD + _TREES
    if "start" in outputs:
        return _LOAD + _SPANS
    if "score" in outputs:
        return _LOAD + _ASK + _CHOICES
    if outputs.get("logits") == ("batch", "tokens", "labels"):
        return _LOAD + _ASK + _SENTENCES + _WORDS
    if outputs.get("logits") == ("batch", "labels"):
        return _LOAD + _ASK + (_PAIRS if facts["task"] in _PAIRED else _SENTENCES) + _TEXTS
    return _LOAD + _ASK + _PLAIN
