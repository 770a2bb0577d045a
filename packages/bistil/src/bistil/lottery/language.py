"""A language's sparse fine-tuning: what of a multilingual model moves when it goes on learning one language."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bistil.encoders.body import body_digests
from bistil.errors import AdaptError
from bistil.lottery.lottery_ticket import NUMBERS, Sparsity, Ticket, lottery_ticket
from bistil.lottery.training_run import Fitting
from bistil.sparse.difference import SparseFineTuning
from bistil.sparse.files import read_sparse, write_sparse
from bistil.text.batches import MaskedBatches, Schedule, examples_per_pass
from bistil.text.blocks import TextBlocks
from bistil.text.languages import text_files
from kdkernels import linear_cross_entropy
from teacherzoo import load_teacher, split_head
from teacherzoo.cache import DIGESTS, MADE, made_once, refuse_what_exists, work_dir
from teacherzoo.digests import digest_of_arguments, digest_of_inputs, keep_digests
from teacherzoo.processes import rank

Watch = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class LanguageTraining:
    """How a language is learnt; the defaults follow composable-sft's recipe for languages.

    Args:
        steps: of the second phase.
        batch: blocks in an optimizer step, over all its forward passes and processes.
        length: tokens in a block.
        learning_rate: falls linearly to 0.
        warmup: share of the steps in which it rises first.
        mask_rate: share of the positions asked about.
        held_out_share: of the text, on which the best weights are chosen; 0 takes the last ones.
        evaluate_every: steps between evaluations.
        checkpoint_every: steps between checkpoints.
        bf16: whether to compute in bfloat16; None where the machine multiplies it in hardware.
        seed: of masks and order.
        arguments: further arguments of `transformers.TrainingArguments`, such as `deepspeed`.
    """

    steps: int = 10_000
    batch: int = 8
    length: int = 256
    learning_rate: float = 5e-5
    warmup: float = 0.0
    mask_rate: float = 0.15
    held_out_share: float = 0.05
    evaluate_every: int = 1000
    checkpoint_every: int = 1000
    bf16: bool | None = None
    seed: int = 0
    arguments: Mapping[str, Any] = field(default_factory=dict)


SPARSITY = Sparsity(density=0.043, l1=0.1)
"""What composable-sft keeps of a language: 4 to 5 %, with an L1 term."""


def language_sft(
    model: str | Path,
    corpus: str | Path,
    out: Path,
    *,
    language: str,
    training: LanguageTraining | None = None,
    sparsity: Sparsity | None = None,
    watch: Watch = lambda done, total, what: None,
) -> SparseFineTuning:
    """Learn a language by masked-LM training, keep what moved most, and write it as a sparse fine-tuning.

    The masked-LM head stays as it is, as in composable-sft; a decoder tied to the embeddings moves with them.
    Interrupted, it goes on when called again with the same arguments, model and text, wherever these lie by then.

    Args:
        model: a masked-LM folder or Hub name.
        corpus: a text file or a folder of such.
        out: the file to write; it must not exist.
        language: what the text is in.
        training: steps, rates, lengths.
        sparsity: what is kept; `SPARSITY` by default.
        watch: told (done, total, what).

    Raises:
        AdaptError, ExtractError: for options that do not fit, and a file in the way.
        TeacherzooError: for a model or text that does not serve, or where training diverges.
    """
    training, sparsity = _settled(training or LanguageTraining()), sparsity or SPARSITY
    refuse_what_exists(out, AdaptError)
    plan = _plan(training)
    files = text_files(language, corpus)
    keep_digests(work_dir(out) / DIGESTS)
    stated = {
        **digest_of_inputs(corpora={language: files}, models={"model": model}),
        "language": language,
        "training": asdict(training) | {"arguments": digest_of_arguments(training.arguments)},
        "sparsity": asdict(sparsity),
    }

    def learn(work: Path) -> None:
        teacher = load_teacher(model)
        base = body_digests(teacher.model)
        text_blocks = TextBlocks(
            {language: files},
            teacher,
            work,
            length=training.length,
            batch=training.batch,
            held_out_share=training.held_out_share,
            mask_rate=training.mask_rate,
            seed=training.seed,
            watch=watch,
        )
        learner = _Learner(teacher.model)
        held_out = text_blocks.held_out().get(language) if training.held_out_share else None
        ticket = lottery_ticket(
            learner,
            teacher.model,
            lambda steps: _batches(text_blocks, language, training, plan, steps),
            plan,
            sparsity,
            work,
            score=(lambda: -learner.loss_on(held_out)) if held_out is not None else None,
            describe=lambda score: f"held-out loss {-score:.3f}",
            watch=watch,
        )
        tuning = SparseFineTuning(
            body=ticket.body,
            base=base,
            about=_about(teacher.name, language, training, sparsity, ticket),
        )
        if rank() == 0:
            write_sparse(tuning, work / MADE, values=NUMBERS[sparsity.values])

    return read_sparse(made_once(out, stated, learn, together=True, refuse=AdaptError))


def _settled(training: LanguageTraining) -> LanguageTraining:
    """With what the machine decides, so that the file and the plan say it."""
    from teacherzoo.training.arguments import has_bfloat16  # late: it imports Trainer

    return training if training.bf16 is not None else replace(training, bf16=has_bfloat16())


def _batches(
    text_blocks: TextBlocks, language: str, training: LanguageTraining, plan: Fitting, steps: int
) -> MaskedBatches:
    sizes = {language: len(text_blocks.blocks[language])}
    share = examples_per_pass(training.batch, plan.passes)
    count = steps * training.batch // share
    slots = Schedule(sizes, batches=count, size=share, seed=training.seed)
    return MaskedBatches(slots, text_blocks.blocks, text_blocks.corruption)


def _plan(training: LanguageTraining) -> Fitting:
    from bistil.lottery.trainer import check_arguments  # late: it imports Trainer

    if training.steps < 1:
        raise AdaptError(f"steps must be at least 1, got {training.steps!r}.")
    names = ("steps", "learning_rate", "warmup", "evaluate_every", "checkpoint_every", "bf16", "seed", "arguments")  # fmt: skip
    tokens = training.batch * training.length
    plan = Fitting(**{name: getattr(training, name) for name in names}, per_step=tokens, unit="tokens")  # fmt: skip
    check_arguments(plan)
    examples_per_pass(training.batch, plan.passes, unit="blocks")
    return plan


def _about(
    name: str,
    language: str,
    training: LanguageTraining,
    sparsity: Sparsity,
    ticket: Ticket,
) -> dict[str, Any]:
    score = ticket.last.best
    return {
        "kind": "language",
        "language": language,
        "model": name,
        "training": {**asdict(training), "arguments": dict(training.arguments)},
        "sparsity": asdict(sparsity),
        "held_out_loss": None if math.isnan(score) else -score,
        **ticket.record,
    }


class _Learner(nn.Module):
    """A masked LM whose forward pass is its loss at masked positions, its head frozen."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self._plain = split_head(model)
        body = {id(parameter) for parameter in model.base_model.parameters()}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in body)
        for name, parameter in model.base_model.named_parameters():
            if name.startswith("pooler."):
                parameter.requires_grad_(False)

    def forward(self, num_items_in_batch: Tensor | int | None = None, **batch: Tensor) -> dict[str, Tensor]:  # fmt: skip
        """Cross-entropy of a batch [B, S] of `input_ids` and `labels`, -100 where nothing is asked."""
        asked = batch["labels"] >= 0
        hidden = self._plain.encoder(input_ids=batch["input_ids"]).last_hidden_state[asked]
        weight, bias = self._plain.weight, self._plain.bias
        labels = batch["labels"][asked]
        divisor = None if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        rows = self._plain.transform(hidden)
        return {"loss": linear_cross_entropy(rows, weight, bias, labels, divisor=divisor).loss}

    @torch.inference_mode()
    def loss_on(self, batches: MaskedBatches) -> float:
        """Mean loss on a few batches."""
        training = self.training
        self.eval()
        device = next(self.parameters()).device
        total = 0.0
        for number in range(len(batches)):
            item = {name: its.to(device) for name, its in batches[number].items()}
            total += float(_Learner.forward(self, **item)["loss"])
        self.train(training)
        return total / len(batches)
