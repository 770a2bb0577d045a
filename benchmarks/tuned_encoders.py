"""A classifier, a tagger and a reranker tuned from an encoder, and how each answers; shared by questions, no question itself.

Each is of a class of transformers, saved as its users save it, and opened again by its class.
"""

from __future__ import annotations

import json
import lzma
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
from record import timed_dtypes

from xeval.task_templates.entities import entity_counts
from xeval.tasks.ner import COMMON

BATCH = 16
ENTITY_TAGS = ("O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER")


@dataclass(frozen=True, kw_only=True)
class Examples:
    """What there is to learn from, and to be judged by."""

    train: list[Any]
    test: list[Any]
    labels: tuple[str, ...] = ()


class Task(Protocol):
    """What a model of one class learns, and is judged by."""

    name: str
    metric: str
    model_class: type[Any]
    examples: Examples

    def texts(self) -> list[str]:
        """What it learns from, without the labels."""

    def settings(self) -> dict[str, Any]:
        """Of the model's config."""

    def batch(self, tokenizer: Any, examples: Sequence[Any]) -> Any:
        """A padded batch with labels, as the model takes it."""

    def answers(self, batch: Any, logits: torch.Tensor, examples: Sequence[Any]) -> list[Any]:
        """What the model says of each example of a batch."""

    def score(self, answers: Sequence[Any]) -> float:
        """Of the answers to all test examples, in their order, %."""


@dataclass(frozen=True, kw_only=True)
class Topics:
    """Sentences (text, topic) by topic."""

    examples: Examples
    length: int
    name: str = "topics"
    metric: str = "accuracy"
    model_class: type[Any] = field(default=transformers.AutoModelForSequenceClassification)

    def texts(self) -> list[str]:
        return [text for text, _ in self.examples.train]

    def settings(self) -> dict[str, Any]:
        return _named(self.examples.labels)

    def batch(self, tokenizer: Any, examples: Sequence[Any]) -> Any:
        batch = _padded(tokenizer, [text for text, _ in examples], length=self.length)
        batch["labels"] = torch.tensor([self.examples.labels.index(topic) for _, topic in examples])
        return batch

    def answers(self, batch: Any, logits: torch.Tensor, examples: Sequence[Any]) -> list[Any]:
        del batch, examples
        return [self.examples.labels[number] for number in logits.argmax(dim=-1).tolist()]

    def score(self, answers: Sequence[Any]) -> float:
        pairs = zip(answers, self.examples.test, strict=True)
        return 100 * sum(answer == topic for answer, (_, topic) in pairs) / len(answers)


@dataclass(frozen=True, kw_only=True)
class Entities:
    """Sentences (words, tags) by named entities; F1 over whole entities of the common types."""

    examples: Examples
    length: int
    name: str = "entities"
    metric: str = "F1"
    model_class: type[Any] = field(default=transformers.AutoModelForTokenClassification)

    def texts(self) -> list[str]:
        return [" ".join(words) for words, _ in self.examples.train]

    def settings(self) -> dict[str, Any]:
        return _named(self.examples.labels)

    def batch(self, tokenizer: Any, examples: Sequence[Any]) -> Any:
        words = [list(words) for words, _ in examples]
        batch = _padded(tokenizer, words, length=self.length, is_split_into_words=True)
        labels = torch.full(batch["input_ids"].shape, -100)
        for row, (_, tags) in enumerate(examples):
            for word, place in _first_pieces(batch, row):
                labels[row, place] = self.examples.labels.index(tags[word])
        batch["labels"] = labels
        return batch

    def answers(self, batch: Any, logits: torch.Tensor, examples: Sequence[Any]) -> list[Any]:
        answers = []
        for row, numbers in enumerate(logits.argmax(dim=-1).tolist()):
            tags = ["O"] * len(examples[row][0])  # what did not fit is not tagged
            for word, place in _first_pieces(batch, row):
                tags[word] = self.examples.labels[numbers[place]]
            answers.append(tags)
        return answers

    def score(self, answers: Sequence[Any]) -> float:
        pairs = zip(answers, self.examples.test, strict=True)
        counts = [entity_counts(tags, answer) for answer, (_, tags) in pairs]
        hits, wrong, missed = (sum(column) for column in zip(*counts, strict=True))
        return 100 * 2 * hits / max(2 * hits + wrong + missed, 1)


@dataclass(frozen=True, kw_only=True)
class Reranking:
    """Pairs (question, paragraph, 1.0 or 0.0), the right paragraph before the wrong ones; mean reciprocal rank."""

    examples: Examples
    length: int
    candidates: int
    name: str = "reranking"
    metric: str = "MRR"
    model_class: type[Any] = field(default=transformers.AutoModelForSequenceClassification)

    def texts(self) -> list[str]:
        return list(dict.fromkeys(text for *both, _ in self.examples.train for text in both))

    def settings(self) -> dict[str, Any]:
        return {
            "num_labels": 1,
            "problem_type": "multi_label_classification",
        }  # cross-entropy of a yes

    def batch(self, tokenizer: Any, examples: Sequence[Any]) -> Any:
        questions, paragraphs = ([example[side] for example in examples] for side in (0, 1))
        batch = _padded(tokenizer, questions, paragraphs, length=self.length)
        batch["labels"] = torch.tensor([[example[2]] for example in examples])
        return batch

    def answers(self, batch: Any, logits: torch.Tensor, examples: Sequence[Any]) -> list[Any]:
        del batch, examples
        return logits[:, 0].tolist()

    def score(self, answers: Sequence[Any]) -> float:
        rows = torch.tensor(answers).view(-1, self.candidates)
        ranks = 1 + (rows[:, 1:] >= rows[:, :1]).sum(dim=1)
        return 100 * float((1 / ranks).mean())


def tune(
    task: Task, encoder: Path, out: Path, *, steps: int, learning_rate: float, head_rate: float
) -> None:
    """An encoder with a new head, all weights tuned on the task, the head's at a rate of its own, saved with its tokenizer."""
    torch.manual_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
    model = task.model_class.from_pretrained(encoder, **task.settings()).train()
    body = list(model.base_model.parameters())
    known = {id(weight) for weight in body}
    head = [weight for weight in model.parameters() if id(weight) not in known]
    optimizer = torch.optim.AdamW(
        [{"params": body}, {"params": head, "lr": head_rate}], lr=learning_rate, fused=True
    )
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
    for examples in _endless_batches(task.examples.train, steps):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled="bf16" in timed_dtypes()):
            loss = model(**task.batch(tokenizer, examples)).loss
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def answer(task: Task, folder: Path, examples: Sequence[Any]) -> tuple[list[Any], list[torch.Tensor]]:  # fmt: skip
    """What a saved model says of each example, and its logits of each batch, in float32."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = task.model_class.from_pretrained(folder).eval()
    answers: list[Any] = []
    logits_of_batches = []
    for start in range(0, len(examples), BATCH):
        chosen = examples[start : start + BATCH]
        batch = task.batch(tokenizer, chosen)
        with torch.no_grad():
            logits = model(**batch).logits
        answers += task.answers(batch, logits, chosen)
        logits_of_batches.append(logits)
    return answers, logits_of_batches


def pieces_of(task: Task, folder: Path, examples: Sequence[Any]) -> list[list[str]]:
    """The pieces of each example, as the model reads it."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rows = [task.batch(tokenizer, [example])["input_ids"][0] for example in examples]
    return [tokenizer.convert_ids_to_tokens(row.tolist()) for row in rows]


def topics(data: Path, languages: Sequence[str], *, length: int, limit: int) -> Topics:
    """SIB-200 in some languages, whose test sentences are in no training split."""
    train, test = (
        [
            (text, topic)
            for language in languages
            for _, topic, text in (
                line.split("\t")
                for line in _lines(data / "sib200" / language / f"{split}.tsv.xz")[1:][:most]
            )
        ]
        for split, most in (("train", None), ("test", limit))
    )
    labels = tuple(sorted({topic for _, topic in train}))
    return Topics(examples=Examples(train=train, test=test, labels=labels), length=length)


def entities(data: Path, languages: Sequence[str], *, length: int, limit: int) -> Entities:
    """Tagged sentences; a language without a training split is judged alone."""
    train, test = (
        [
            sentence
            for language in languages
            if (file := data / "ner" / language / f"{split}.txt.xz").exists()
            for sentence in _tagged(file)[:most]
        ]
        for split, most in (("train", None), ("test", limit))
    )
    return Entities(examples=Examples(train=train, test=test, labels=ENTITY_TAGS), length=length)


def reranking(
    data: Path, languages: Sequence[str], *, length: int, limit: int, candidates: int = 6
) -> Reranking:
    """XQuAD's questions with their paragraphs and others; learnt from half of the articles, judged on the other half."""
    train: list[Any] = []
    test: list[Any] = []
    for language in languages:
        articles = json.loads("\n".join(_lines(data / "xquad" / f"{language}.json.xz")))["data"]
        half = len(articles) // 2
        train += _question_pairs(articles[:half], 2)
        test += _question_pairs(articles[half:], candidates)[: limit * candidates]
    return Reranking(
        examples=Examples(train=train, test=test), length=length, candidates=candidates
    )


def _question_pairs(articles: Sequence[Any], candidates: int) -> list[Any]:
    """Of each question in turn its paragraph, then others by chance; questions by chance."""
    chance = random.Random(0)
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    asked = [(row["question"], paragraph["context"]) for paragraph in paragraphs for row in paragraph["qas"]]  # fmt: skip
    chance.shuffle(asked)
    contexts = [paragraph["context"] for paragraph in paragraphs]
    pairs = []
    for question, right in asked:
        wrong = chance.sample([text for text in contexts if text != right], candidates - 1)
        pairs += [(question, right, 1.0), *((question, text, 0.0) for text in wrong)]
    return pairs


def _tagged(file: Path) -> list[Any]:
    sentences = []
    for block in "\n".join(_lines(file)).strip().split("\n\n"):
        rows = [line.rsplit(" ", 1) for line in block.split("\n")]
        kinds = [COMMON.get(tag[2:]) for _, tag in rows]
        tags = [tag[:2] + kind if kind else "O" for kind, (_, tag) in zip(kinds, rows, strict=True)]
        sentences.append(([word for word, _ in rows], tags))
    return sentences


def parts_of_speech(file: Path) -> list[tuple[list[str], list[str]]]:
    """Sentences of a treebank: words and their universal parts of speech."""
    sentences = []
    for block in "\n".join(_lines(file)).strip().split("\n\n"):
        rows = [line.split("\t") for line in block.split("\n") if not line.startswith("#")]
        words = [row for row in rows if row[0].isdecimal()]
        sentences.append(([row[1] for row in words], [row[3] for row in words]))
    return sentences


def _lines(file: Path) -> list[str]:
    with lzma.open(file, "rt", encoding="utf-8") as text:
        return text.read().rstrip("\n").split("\n")


def _named(labels: Sequence[str]) -> dict[str, Any]:
    return {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: number for number, label in enumerate(labels)},
    }


def _padded(tokenizer: Any, *texts: Any, length: int, **options: Any) -> Any:
    return tokenizer(
        *texts, truncation=True, max_length=length, padding=True, return_tensors="pt", **options
    )


def _first_pieces(batch: Any, row: int) -> Iterator[tuple[int, int]]:
    """Each word of a row with the place of its first piece."""
    before = None
    for place, word in enumerate(batch.word_ids(row)):
        if word is not None and word != before:
            yield word, place
        before = word


def _endless_batches(examples: Sequence[Any], steps: int) -> Iterator[list[Any]]:
    """So many batches of examples by chance, pass after pass."""
    chance = random.Random(0)
    order: list[Any] = []
    for _ in range(steps):
        if len(order) < BATCH:
            order += chance.sample(list(examples), len(examples))
        yield order[:BATCH]
        del order[:BATCH]
