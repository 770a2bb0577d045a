"""The nursery: raise a tiny teacher from text in minutes on a CPU, tokenizer and masked LM, in any family."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

from teacherzoo.encoders.families import Architecture
from teacherzoo.errors import RecordError
from teacherzoo.pretrain.shapes import Shape, build_masked_lm
from teacherzoo.text.corpora import Corpus

Watch = Callable[[int, int, str], None]
TokenizerFamily = Literal["wordpiece", "unigram", "bpe"]


@dataclass(frozen=True, kw_only=True)
class Upbringing:
    """How a tiny teacher is raised.

    The defaults are a stock pre-norm ModernBERT of about 2 M parameters, which learns in minutes on two cores what a
    post-norm BERT of that size has not begun to learn.

    Args:
        family: of the tokenizer's model.
        vocabulary: number of pieces, special ones included.
        cased: whether upper and lower case stay apart.
        architecture: the model type, as transformers names it.
        layers: of the encoder.
        width: of the hidden states.
        heads: attention heads; by default one for each 64 of the width.
        feed_forward: inner width; by default 1.5 times the width for ModernBERT's gated layers, else 4 times.
        steps: optimiser steps.
        batch: blocks in a step.
        length: tokens in a block; documents are packed, with a separator between them.
        learning_rate: at its peak, reached after a tenth of the steps, from where it falls linearly to 0.
        sampling_exponent: a language is drawn in proportion to its number of blocks to this power.
        mask_rate: share of tokens hidden; of these 80 % become the mask, 10 % a random token.
        seed: of everything.
        checkpoint_every: steps between checkpoints, from which an interrupted run resumes.

    Raises:
        RecordError: for a value that makes no sense.
    """

    family: TokenizerFamily = "wordpiece"
    vocabulary: int = 5000
    cased: bool = True
    architecture: Architecture = "modernbert"
    layers: int = 3
    width: int = 192
    heads: int | None = None
    feed_forward: int | None = None
    steps: int = 1200
    batch: int = 64
    length: int = 64
    learning_rate: float = 2e-3
    sampling_exponent: float = 0.7
    mask_rate: float = 0.15
    seed: int = 0
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        choices = get_args(TokenizerFamily)
        if self.family not in choices:
            raise RecordError(f"family must be one of {', '.join(choices)}, got {self.family!r}.")
        for name in ("vocabulary", "steps", "batch", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise RecordError(f"{name} must be at least 1, got {getattr(self, name)!r}.")
        if self.length < 8:
            raise RecordError(f"length must be at least 8 tokens, got {self.length!r}.")
        if not 0 < self.mask_rate < 1:
            raise RecordError(f"mask_rate must be in (0, 1), got {self.mask_rate!r}.")
        _ = self.shape  # refuses what is wrong with it

    @property
    def shape(self) -> Shape:
        """Of the model."""
        return Shape(
            architecture=self.architecture,
            layers=self.layers,
            width=self.width,
            heads=self.heads,
            feed_forward=self.feed_forward,
            positions=max(512, self.length),
        )


@dataclass(frozen=True, kw_only=True)
class Upbrought:
    """What came out.

    Attributes:
        folder: a plain Hugging Face model folder.
        parameters: of the model.
        loss: per language, mean cross-entropy in nats at masked positions of held-out text; empty without such text.
        accuracy: per language, share of masked positions of held-out text whose piece the model puts first.
        seconds: wall time of the training alone.
    """

    folder: Path
    parameters: int
    loss: dict[str, float]
    accuracy: dict[str, float]
    seconds: float


def raise_teacher(
    corpora: Sequence[Corpus],
    out: Path,
    *,
    upbringing: Upbringing | None = None,
    watch: Watch = lambda done, total, what: None,
) -> Upbrought:
    """Train a tokenizer and a masked LM on the training part of `corpora`, and write them as one model folder.

    Interrupted, it resumes from its last checkpoint when called again with the same arguments; the outcome is the one of
    a run without interruption. It runs in one process. Two runs from nothing give the same bytes with the families `bpe`
    and `wordpiece`; the trainer of `unigram` in `tokenizers` breaks ties in an order that changes from run to run, so a few
    rare pieces and the numbering of all may differ.

    Args:
        corpora: one for each language; their held-out parts (by content digest) are kept from training.
        out: the folder to write; it must not exist.
        upbringing: sizes, steps and seed.
        watch: told (done, total, what).

    Returns:
        Where it is and how well it did.

    Raises:
        RecordError: where `out` exists, or under a launcher of several processes.
        CorpusError: for text that cannot be read.
        TeacherError: where the text does not fill a block.
        TeacherzooError: where training diverges.
    """
    from teacherzoo.pretrain.text import pack, train_tokenizer
    from teacherzoo.pretrain.trainer import held_out_scores, train

    plan = upbringing or Upbringing()
    out = Path(out)
    if out.exists():
        raise RecordError(f"{out} exists already; remove it, or choose another folder.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RecordError(
            "The nursery raises its teachers in one process; start it without a launcher."
        )
    for corpus in corpora:
        corpus.files()  # refuses what is not there
    work = _work_folder(out, plan, corpora)
    tokenizer = train_tokenizer(corpora, plan, work / "tokenizer.json", watch=watch)
    blocks = pack(corpora, tokenizer, plan.length, part="train")
    model = build_masked_lm(plan.shape, tokenizer, seed=plan.seed)
    start = time.monotonic()
    train(model, blocks, tokenizer, plan, work, watch=watch)
    seconds = time.monotonic() - start
    scores = held_out_scores(model, corpora, tokenizer, plan)
    upbrought = Upbrought(
        folder=out,
        parameters=model.num_parameters(),
        loss={language: score.loss for language, score in scores.items()},
        accuracy={language: score.accuracy for language, score in scores.items()},
        seconds=seconds,
    )
    _write(model, tokenizer, plan, corpora, upbrought, work)
    shutil.rmtree(work)
    return upbrought


def _work_folder(out: Path, plan: Upbringing, corpora: Sequence[Corpus]) -> Path:
    """Where the run keeps what it needs to resume; that of another plan is refused."""
    work = out.with_name(f".{out.name}.raising")
    stated = json.dumps(
        {"upbringing": asdict(plan), "corpora": [_stated(corpus) for corpus in corpora]}, indent=1
    )
    note = work / "plan.json"
    if note.exists() and note.read_text(encoding="utf-8") != stated:
        raise RecordError(
            f"{work} is left from a run with other arguments; remove it, or call it with those again."
        )
    if not note.exists():
        work.mkdir(parents=True, exist_ok=True)
        part = work / "plan.json.part"
        part.write_text(stated, encoding="utf-8")
        part.replace(note)
    return work


def _stated(corpus: Corpus) -> dict[str, Any]:
    return {**asdict(corpus), "source": str(corpus.source)}


def _write(
    model: Any,
    tokenizer: Any,
    plan: Upbringing,
    corpora: Sequence[Corpus],
    upbrought: Upbrought,
    work: Path,
) -> None:
    folder = work / "folder"
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    run = {
        "what": "a teacher raised by teacherzoo's nursery",
        "upbringing": asdict(plan),
        "corpora": [_stated(corpus) for corpus in corpora],
        "parameters": upbrought.parameters,
        "held_out_loss": upbrought.loss,
        "held_out_accuracy": upbrought.accuracy,
        "seconds": round(upbrought.seconds, 1),
        "versions": {
            name: version(name) for name in ("teacherzoo", "torch", "transformers", "tokenizers")
        },
    }
    (folder / "run.json").write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_card(plan, corpora, upbrought), encoding="utf-8")
    folder.replace(upbrought.folder)


def _card(plan: Upbringing, corpora: Sequence[Corpus], upbrought: Upbrought) -> str:
    languages = [corpus.language for corpus in corpora]
    rows = [
        f"| {language} | {upbrought.loss[language]:.3f} | {math.exp(upbrought.loss[language]):.1f} "
        f"| {100 * upbrought.accuracy[language]:.1f} % |"
        for language in languages
        if language in upbrought.loss
    ]
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            "pipeline_tag: fill-mask",
            f"language: {json.dumps(languages)}",
            "---",
            "",
            f"A tiny masked LM for {', '.join(languages)}: {plan.architecture}, {plan.layers} layers of width {plan.width}, "
            f"{upbrought.parameters:,} parameters, a {plan.family} vocabulary, {plan.steps} steps.",
            "It was raised to try pipelines on, not to serve users. `run.json` says how.",
            "",
            "| language | held-out loss | perplexity of a masked piece | accuracy |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )
