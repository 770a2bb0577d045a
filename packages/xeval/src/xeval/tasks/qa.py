"""Extractive question answering: the answer is a span of the context; exact match and F1.

Twice: normalised per language, as MLQA's script does it, and as SQuAD 1.1's script does it whatever the language, by which
figures on XQuAD and TyDi QA are published.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xeval.errors import XevalError
from xeval.protocol import Protocol
from xeval.statistics.items import Items, digest_of_examples
from xeval.task_templates.answers import SQUAD, answer_f1, exact_match
from xeval.task_templates.batches import IGNORED, pad_rows
from xeval.task_templates.files import read_text
from xeval.task_templates.hub import CONVERTED, HubSet, LabelNames, Row
from xeval.task_templates.task import FineTunedTask
from xeval.task_templates.word_tokenization import Encoded, Pieces

if TYPE_CHECKING:
    from torch import Tensor, nn

# Sub-words of the longest answer, and the part of a window that the next one repeats.
_LONGEST_ANSWER = 30
_OVERLAP = 0.33


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its context and the answers that count.

    Args:
        question: text.
        context: text.
        answers: (text, first character) of each.
        where: file and id, for messages.
    """

    question: str
    context: str
    answers: tuple[tuple[str, int], ...]
    where: str = field(default="", repr=False, compare=False)


def _read(path: Path, _cache: Path | None) -> list[Question]:
    text, _ = read_text(path)
    try:
        articles = json.loads(text)["data"]
        questions = [
            _question(path, paragraph["context"], asked)
            for article in articles
            for paragraph in article["paragraphs"]
            for asked in paragraph["qas"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, XevalError):
            raise
        raise XevalError(f"{path}: expected SQuAD 1.1 JSON, got {error!r}") from error
    if not questions:
        raise XevalError(f"{path}: holds no question")
    return questions


def _question(path: Path, context: str, asked: Any) -> Question:
    where = f"{path}: question {asked['id']!r}"
    try:
        stated = [(a["text"] or "", int(a["answer_start"])) for a in asked["answers"] or ()]
    except (ValueError, KeyError, TypeError):
        raise XevalError(
            f"{where}: expected answers with text and answer_start, got {asked.get('answers')!r:.80}; take the question out of the file"
        ) from None
    answers = tuple(dict.fromkeys(stated))
    if not any(text for text, _ in answers):
        raise XevalError(
            f"{where}: has no answer, as SQuAD 2.0 has such questions, and this task is about questions with one; take it out of the file"
        )
    for answer, start in answers:
        if context[start : start + len(answer)] != answer:
            raise XevalError(
                f"{where}: expected the answer {answer!r} at character {start}, got {context[start : start + len(answer)]!r}"
            )
    return Question(asked["question"], context, answers, where)


def _labels(_examples: Sequence[Question]) -> tuple[str, ...]:
    return ("start", "end")


def _encode(
    pieces: Pieces, examples: Sequence[Question], _labels: tuple[str, ...]
) -> tuple[list[Encoded], list[str]]:
    shortened = 0
    encoded = []
    inside = pieces.limit - pieces.tokenizer.num_special_tokens_to_add(pair=True)
    # Half a row, and in a very short one so much that two sub-words of the context stand beside it.
    most = min(pieces.limit // 2, inside - 2)
    if most < 1:
        raise XevalError(
            f"a row of {pieces.limit} sub-words has no room for a question and its context; raise max_length"
        )
    for example in examples:
        question_pieces = pieces.tokenizer(
            example.question, add_special_tokens=False, return_offsets_mapping=True
        )
        question, length = example.question, len(question_pieces["input_ids"])
        if length > most:
            question, length = question[: question_pieces["offset_mapping"][most - 1][1]], most
            shortened += 1
        windows_of_context = pieces.tokenizer(
            question,
            example.context,
            truncation="only_second",
            max_length=pieces.limit,
            stride=min(int((pieces.limit - length) * _OVERLAP), inside - length - 1),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        encoded.append(_rows(windows_of_context, example))
    windows = sum(len(e.rows) > 1 for e in encoded)
    notes = [
        f"{windows} of {len(encoded)} contexts were longer than a row and were read in windows"
    ]
    cut = [
        f"{shortened} of {len(encoded)} questions were longer than {most} sub-words and were cut"
    ]
    return encoded, notes * (windows > 0) + cut * (shortened > 0)


def _rows(tokenized: Any, example: Question) -> Encoded:
    rows = [list(ids) for ids in tokenized["input_ids"]]
    offsets, labels = [], []
    text, start = example.answers[0]
    for i in range(len(rows)):
        inside = [part == 1 for part in tokenized.sequence_ids(i)]
        places = [
            (a, b) if use and b > a else None
            for use, (a, b) in zip(inside, tokenized["offset_mapping"][i], strict=True)
        ]
        offsets.append(places)
        labels.append(_span_of(places, start, start + len(text)))
    types = tokenized.get("token_type_ids")
    return Encoded(
        rows=rows,
        types=[list(row) for row in types] if types is not None else None,
        labels=labels,
        extra={"offsets": offsets, "context": example.context},
    )


def _span_of(places: Sequence[tuple[int, int] | None], start: int, end: int) -> tuple[int, int]:
    """The sub-words of characters start to end, `IGNORED` twice where the window lacks some of them."""
    touched = [i for i, place in enumerate(places) if place and place[0] < end and place[1] > start]
    known = [place for place in places if place]
    if not touched or known[0][0] > start or known[-1][1] < end:
        return IGNORED, IGNORED
    return touched[0], touched[-1]


def _collate(encoded: Sequence[Encoded], pad_id: int) -> dict[str, Tensor]:
    import torch

    rows = pad_rows(encoded, pad_id)
    answerable = torch.zeros_like(rows["input_ids"])
    windows = [places for example in encoded for places in example.extra["offsets"]]
    for i, places in enumerate(windows):
        answerable[i, : len(places)] = torch.tensor([place is not None for place in places])
    labels = torch.tensor([span for example in encoded for span in example.labels])
    return {**rows, "answerable": answerable, "labels": labels}


def _head(width: int, _classes: int, _protocol: Protocol) -> nn.Module:
    from xeval.task_templates.heads import SpanHead

    return SpanHead(width)


def _decode(
    _head: object,
    outputs: dict[str, Tensor],
    _batch: dict[str, Tensor],
    encoded: Sequence[Encoded],
    _labels: tuple[str, ...],
) -> list[str]:
    import torch

    # [R, T, T]: every span that ends where it begins or later, and is not too long.
    spans = outputs["start"][:, :, None] + outputs["end"][:, None, :]
    length = spans.shape[-1]
    allowed = torch.ones(length, length, dtype=torch.bool, device=spans.device).triu()
    allowed &= ~allowed.triu(_LONGEST_ANSWER)
    best, place = spans.masked_fill(~allowed, float("-inf")).flatten(1).max(dim=1)
    score, where = best.tolist(), place.tolist()
    guesses, row = [], 0
    for example in encoded:
        windows = range(row, row + len(example.rows))
        row += len(example.rows)
        chosen = max(windows, key=lambda r: score[r])
        if score[chosen] == float("-inf"):
            guesses.append("")
            continue
        first, last = divmod(where[chosen], length)
        places = example.extra["offsets"][chosen - windows.start]
        guesses.append(example.extra["context"][places[first][0] : places[last][1]].strip())
    return guesses


def _items(
    examples: Sequence[Question],
    predictions: Sequence[str],
    _labels: tuple[str, ...],
    language: str,
) -> list[Items]:
    digest = digest_of_examples(examples)
    items = []
    for metric, judge, script in (
        ("answer_f1", answer_f1, language),
        ("exact_match", exact_match, language),
        ("squad_f1", answer_f1, SQUAD),
        ("squad_exact_match", exact_match, SQUAD),
    ):
        rows = [
            (judge(guess, [text for text, _ in gold.answers], script), 1)
            for gold, guess in zip(examples, predictions, strict=True)
        ]
        items.append(Items(metric=metric, rows=np.array(rows, dtype=float), test_digest=digest))
    return items


def _hub_example(row: Row, _names: LabelNames, where: str) -> Question:
    answers = zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True)
    return Question(row["question"], row["context"], tuple(dict.fromkeys(answers)), where)


# One configuration holds all languages of TyDi QA; the id of a question begins with the language's name.
_TYDI = {
    "ar": "arabic",
    "bn": "bengali",
    "en": "english",
    "fi": "finnish",
    "id": "indonesian",
    "ko": "korean",
    "ru": "russian",
    "sw": "swahili",
    "te": "telugu",
}


def _tydi_example(row: Row, names: LabelNames, where: str) -> Question | None:
    if row["id"].partition("-")[0] != _TYDI[names["language"][0]]:
        return None
    return _hub_example(row, names, where)


TASK = FineTunedTask(
    name="qa",
    title="question answering",
    folder="xquad",
    suffix="json",
    metrics=("answer_f1", "exact_match", "squad_f1", "squad_exact_match"),
    read=_read,
    labels=_labels,
    encode=_encode,
    collate=_collate,
    head=_head,
    decode=_decode,
    items=_items,
    hub=(
        HubSet(
            name="squad",
            repository="rajpurkar/squad",
            configurations={"en": "plain_text"},
            splits={"train": "train", "dev": "validation"},
            example=_hub_example,
            languages="en",
            licence="CC BY-SA 4.0",
            citation="Rajpurkar et al. 2016: SQuAD: 100,000+ Questions for Machine Comprehension of Text",
        ),
        HubSet(
            name="xquad",
            repository="google/xquad",
            configurations=r"xquad\.([a-z]{2})",
            splits={"test": "validation"},
            example=_hub_example,
            languages="ar de el en es hi ro ru th tr vi zh",
            licence="CC BY-SA 4.0",
            citation="Artetxe, Ruder, Yogatama 2020: On the Cross-lingual Transferability of Monolingual Representations",
        ),
        HubSet(
            name="mlqa",
            repository="facebook/mlqa",
            configurations=r"mlqa\.([a-z]{2})\.\1",
            splits={"dev": "validation", "test": "test"},
            example=_hub_example,
            revision=CONVERTED,
            languages="ar de en es hi vi zh, question and context in the same",
            licence="CC BY-SA 3.0",
            citation="Lewis et al. 2020: MLQA: Evaluating Cross-lingual Extractive Question Answering",
        ),
        HubSet(
            name="tydiqa",
            repository="google-research-datasets/tydiqa",
            configurations=dict.fromkeys(_TYDI, "secondary_task"),
            splits={"train": "train", "test": "validation"},
            example=_tydi_example,
            languages=" ".join(_TYDI),
            licence="Apache 2.0",
            citation="Clark et al. 2020: TyDi QA: Information-Seeking Question Answering in Typologically Diverse Languages",
        ),
    ),
)
