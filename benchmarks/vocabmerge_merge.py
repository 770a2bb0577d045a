"""How long does it take to unite five vocabularies of 120,000 pieces?

The vocabularies are made up; a third of each is common to all. The floor is what nobody can save: opening the five
tokenizers and the union with the tokenizers library, once each.
"""

import argparse
import json
import tempfile
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from record import Recorder, extra_memory, parser, race

from vocabmerge import (
    Vocabulary,
    merge_vocabularies,
    open_tokenizer,
    parse_vocabulary,
    save_merged,
)

CODES = ("aa", "bb", "cc", "dd", "ee")
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def made_up(seed: int, size: int) -> list[tuple[str, bool]]:
    """Pieces (text, whether it opens a word): single letters in both places, then strings by growing length."""
    letters = "abcdefghijklmnopqrstuvwxyzäöüõåøßçñ"
    pieces = dict.fromkeys((letter, opens) for letter in letters for opens in (True, False))
    common = np.random.default_rng(0)
    private = np.random.default_rng(seed)
    while len(pieces) < size:
        source = common if len(pieces) < size // 3 else private
        lengths = source.integers(2, 9, 4096)
        drawn = source.choice(list(letters), (4096, 9))
        opens = source.random(4096) < 0.7
        for row, length, first in zip(drawn, lengths.tolist(), opens.tolist(), strict=True):
            pieces.setdefault(("".join(row[:length]), first))
    return list(pieces)[:size]


def tokenizer(family: str, pieces: list[tuple[str, bool]]) -> dict[str, Any]:
    if family == "wordpiece":
        texts = [*BERT, *(text if opens else "##" + text for text, opens in pieces)]
        model: dict[str, Any] = {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {text: number for number, text in enumerate(texts)},
        }
        before: dict[str, Any] = {"type": "BertPreTokenizer"}
    else:
        texts = [*BERT, "▁", *("▁" + text if opens else text for text, opens in pieces)]
        scores = -np.log(np.arange(1, len(texts) + 1) + 10) - np.log(np.log(len(texts)))
        model = {
            "type": "Unigram",
            "unk_id": 1,
            "byte_fallback": False,
            "vocab": [list(pair) for pair in zip(texts, scores.tolist(), strict=True)],
        }
        before = {
            "type": "Metaspace",
            "replacement": "▁",
            "prepend_scheme": "always",
            "split": True,
        }
    added = [
        {
            "id": number,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for number, token in enumerate(BERT)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": before,
        "post_processor": None,
        "decoder": None,
        "model": model,
    }


def main(arguments: argparse.Namespace) -> None:
    recorder = Recorder("vocabmerge_merge", arguments)
    size, lines = (15_000, 500) if arguments.quick else (120_000, 2_000)
    pieces = [made_up(seed, size) for seed in range(1, 6)]
    speaks = dict(zip(CODES, CODES, strict=True))
    draw = np.random.default_rng(7)
    texts = {}
    for code, vocabulary in zip(CODES, pieces, strict=True):
        words = [text for text, opens in vocabulary if opens]
        picked = (draw.zipf(1.3, 10 * lines) - 1) % len(words)
        texts[code] = [
            " ".join(words[n] for n in picked[start : start + 10])
            for start in range(0, 10 * lines, 10)
        ]
    with_text = f"{lines:,} lines of each language"
    for what, families, corpora in (
        ("five WordPiece", ["wordpiece"] * 5, None),
        (f"five WordPiece, {with_text}", ["wordpiece"] * 5, texts),
        (f"five Unigram, {with_text}", ["unigram"] * 5, texts),
        (
            f"three WordPiece and two Unigram, {with_text}",
            ["wordpiece"] * 3 + ["unigram"] * 2,
            texts,
        ),
    ):
        parsed = [
            tokenizer(family, vocabulary)
            for family, vocabulary in zip(families, pieces, strict=True)
        ]
        spelled = [json.dumps(tokenizer_json) for tokenizer_json in parsed]

        def read(spelled: list[str] = spelled) -> list[Vocabulary]:
            return [
                parse_vocabulary(json.loads(text), name=code)
                for code, text in zip(CODES, spelled, strict=True)
            ]

        def unite(read: Any = read, corpora: Any = corpora) -> Any:
            return merge_vocabularies(read(), languages=speaks, corpora=corpora)

        union = unite()

        def floor(spelled: list[str] = spelled, union: Any = union) -> None:
            for text in [*spelled, json.dumps(union.tokenizer)]:
                open_tokenizer(json.loads(text), name="floor")

        with tempfile.TemporaryDirectory() as folder:
            number = count()
            times = race(
                {
                    "opening all six": floor,
                    "read and merge": unite,
                    "write": lambda union=union, folder=folder, number=number: save_merged(
                        union, Path(folder) / str(next(number))
                    ),
                },
                repeats=2 if arguments.quick else 3,
                warmup=0,
            )
        recorder.add(
            "seconds to unite",
            times,
            unit="s",
            bar={"read and merge": 10.0},
            memory={"read and merge": extra_memory(unite)},
            shape={"what": what, "pieces": size, "rows": union.facts["size"]},
        )
    recorder.close()


if __name__ == "__main__":
    main(parser(__doc__ or "").parse_args())
