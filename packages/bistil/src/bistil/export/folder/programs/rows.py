"""Texts to padded rows of tokens, and rows to the graph's answers."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from bistil.export.folder.programs.onnx_session import open_session

FOLDER = Path(__file__).resolve().parent


class Graph:
    """The graph beside this file and its tokenizer, as `export.json` describes them.

    Args:
        file: which graph, such as "onnx/model.onnx"; by default the one in eight bits where there is one.
        threads: that a pass takes; the runtime's own choice by default.
    """

    def __init__(self, *, file: str | None = None, threads: int | None = None) -> None:
        self.about: dict[str, Any] = json.loads((FOLDER / "export.json").read_text("utf-8"))
        self.run = open_session(FOLDER, file, threads)
        self.tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(
            self.about["longest"], direction=self.about["truncation_side"]
        )

    def prompt(self, prompt_name: str | None, prompt: str | None) -> str:
        """`prompt` where it is given, else the model's own of the name `prompt_name`, else its default."""
        if prompt is not None:
            return prompt
        prompts = self.about["prompts"]
        if prompt_name is not None and prompt_name not in prompts:
            raise ValueError(f"prompt_name {prompt_name!r}: the model has {sorted(prompts) or 'no prompts'}; state the words as prompt")  # fmt: skip
        return str(self.about["default_prompt"] if prompt_name is None else prompts[prompt_name])

    def rows(self, texts: Sequence[str | tuple[str, str]], prompt: str = "") -> list[Encoding]:
        """The tokens of each text or pair of texts, cut to what the model reads; `prompt` stands in front, once in a pair."""
        prompted = [
            prompt + text if isinstance(text, str) else (prompt + text[0], text[1])
            for text in listed(texts)
        ]
        rows: list[Encoding] = self.tokenizer.encode_batch(prompted)
        return rows

    def answers(self, rows: Sequence[Encoding], output: str, *, batch_size: int = 1) -> list[Any]:
        """One output of the graph for each row.

        In a batch, of rows of like length, activations of eight bits share a scale, so that what is answered to a text depends
        a little on the others; one by one, the answers are nearest to those in float32.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
        answers: list[Any] = [None] * len(rows)
        axes = self.about["outputs"][output]
        by_length = sorted(range(len(rows)), key=lambda number: len(rows[number]))
        for start in range(0, len(rows), batch_size):
            numbers = by_length[start : start + batch_size]
            batch = [rows[number] for number in numbers]
            longest = max(len(row) for row in batch)
            output_rows = self.run(self._arrays(batch, longest))[output]
            for number, row, answer in zip(numbers, batch, output_rows, strict=True):
                answers[number] = (
                    answer[self._place(row, longest)] if axes[1:2] == ["sequence"] else answer
                )
        return answers

    def _arrays(self, batch: Sequence[Encoding], longest: int) -> dict[str, Any]:
        arrays = {
            name: np.zeros((len(batch), longest), dtype=np.int64) for name in self.about["inputs"]
        }
        arrays["input_ids"] += self.about["pad"]
        for number, row in enumerate(batch):
            columns = {
                "input_ids": row.ids,
                "attention_mask": row.attention_mask,
                "token_type_ids": row.type_ids,
            }
            for name, array in arrays.items():
                array[number, self._place(row, longest)] = columns[name]
        return arrays

    def _place(self, row: Encoding, longest: int) -> slice:
        if self.about["padding_side"] == "left":
            return slice(longest - len(row), longest)
        return slice(len(row))


def listed(texts: Sequence[Any]) -> list[Any]:
    """The texts as a list; one text alone, whose letters would be taken for texts, is refused."""
    if isinstance(texts, str):
        raise ValueError(f"expected a list of texts, got one text, {texts[:40]!r}; put it into a list")  # fmt: skip
    return list(texts)


def options(description: str) -> argparse.ArgumentParser:
    """The command line's options that every kind of model has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--threads", type=int, help="of a pass; by default the runtime's own choice"
    )
    parser.add_argument(
        "--file",
        type=_graph_file,
        help="the graph, such as onnx/model.onnx; by default the one in eight bits",
    )
    return parser


def texts_or_pairs(
    parser: argparse.ArgumentParser,
) -> tuple[list[str] | list[tuple[str, str]], argparse.Namespace]:
    """The texts of the command line, or with `--pairs` the pairs that they make in turn, and what else was typed."""
    parser.add_argument("text", nargs="+")
    parser.add_argument("--pairs", action="store_true", help="first and second texts alternate")
    arguments = parser.parse_args()
    texts = arguments.text
    if arguments.pairs and len(texts) % 2:
        parser.error(f"expected first and second texts in turn, got {len(texts)} texts")
    return list(zip(texts[::2], texts[1::2], strict=True)) if arguments.pairs else texts, arguments


def _graph_file(name: str) -> str:
    if not (FOLDER / name).is_file():
        raise argparse.ArgumentTypeError(f"there is no {name} in {FOLDER}")
    return name
