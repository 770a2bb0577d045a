"""The README of an export: what the graphs take and give, and a program that serves them without torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_LOAD = """import json

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("tokenizer.json")
session = onnxruntime.InferenceSession("model.int8.onnx", providers=["CPUExecutionProvider"])
about = json.load(open("export.json", encoding="utf-8"))


def ask(sentences):
    tokenizer.enable_padding()
    tokenizer.enable_truncation(about["longest"])
    rows = tokenizer.encode_batch(sentences)
    columns = {
        "input_ids": [row.ids for row in rows],
        "attention_mask": [row.attention_mask for row in rows],
        "token_type_ids": [row.type_ids for row in rows],
    }
    inputs = {name: np.array(columns[name], dtype=np.int64) for name in about["inputs"]}
    return rows, session.run(None, inputs)[0]
"""
_WORDS = """

sentences = ["This is one sentence.", "And this is another."]
rows, logits = ask(sentences)
for sentence, row, scores in zip(sentences, rows, logits):
    seen = set()
    for number, word in enumerate(row.word_ids):
        if word is not None and word not in seen:  # a word's label stands at its first sub-word
            seen.add(word)
            start, end = row.word_to_chars(word)
            print(sentence[start:end], about["labels"][int(scores[number].argmax())], sep="\\t")
"""
_TEXTS = """

sentences = ["This is one sentence.", "And this is another."]
rows, logits = ask(sentences)
for sentence, scores in zip(sentences, logits):
    print(about["labels"][int(scores.argmax())], sentence, sep="\\t")
"""
_PLAIN = """

rows, output = ask(["This is one sentence.", "And this is another."])
print(output.shape)
"""


def readme(folder: str, facts: Mapping[str, Any]) -> str:
    """The Markdown; its program runs as it stands, in the folder, with onnxruntime, tokenizers and numpy alone."""
    program = _LOAD + {
        ("batch", "tokens", "labels"): _WORDS,
        ("batch", "labels"): _TEXTS,
    }.get(tuple(facts["axes"]), _PLAIN)
    sizes = ", ".join(f"`{name}` {size / 2**20:,.1f} MiB" for name, size in facts["bytes"].items())
    return "\n".join(
        [
            f"# {Path(folder).name}",
            "",
            f"`{facts['model']}` as ONNX (opset {facts['opset']}): {sizes}. Both graphs take "
            f"{', '.join(f'`{name}`' for name in facts['inputs'])} [batch, tokens] of any size up to {facts['longest']} tokens, and give `{facts['output']}` "
            f"[{', '.join(facts['axes'])}].",
            "",
            f"Largest difference of an output from torch's: {facts['float32_difference']:.2g} in float32, "
            f"{facts['int8_difference']:.2g} in eight bits (weights and, as they come, activations). Eight bits are fast on "
            "CPUs with VNNI instructions.",
            "",
            "```python",
            program.rstrip(),
            "```",
            "",
        ]
    )
