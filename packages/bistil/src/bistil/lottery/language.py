"""A language's sparse fine-tuning: what of a multilingual model moves when it goes on learning one language."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bistil.encoders.body import body_digests
from bistil.errors import AdaptError
from bistil.lottery.config import NUMBERS, Evaluation, Sparsity, TrainingPlan
from bistil.lottery.lottery_ticket import (
    Ticket,
    entries_to_keep,
    lottery_ticket,
    trainable_body,
)
from bistil.lottery.training_run import check_arguments
from bistil.sparse.difference import SparseFineTuning
from bistil.sparse.files import read_sparse, write_sparse
from bistil.text.batches import MaskedBatches, Schedule, examples_per_pass
from bistil.text.blocks import TextBlocks
from bistil.text.languages import text_files
from kdkernels import linear_cross_entropy
from teacherzoo import load_teacher, split_head
from teacherzoo.cache import (
    DIGESTS,
    MADE,
    cleared_if_diverged,
    made_once,
    refuse_what_exists,
    work_dir,
)
from teacherzoo.digests import digest_of_arguments, digest_of_inputs, keep_digests
from teacherzoo.processes import rank
from teacherzoo.progress import ProgressCallback, no_progress
from teacherzoo.training import arguments
from teacherzoo.training.loss_module import LossModule
from vocabmerge.hub.push import bare_names


@dataclass(frozen=True, kw_only=True)
class LanguageTraining:
    """How a language is learnt; the defaults follow composable-sft's recipe for languages.

    Args:
        steps: of the second phase.
        batch: blocks in an optimizer step, over all its forward passes and processes.
        length: tokens in a block.
        learning_rate: falls linearly to 0.
        warmup: share of the steps in which it rises first.
        mask_rate: share of the positions that are masked.
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
    watch: ProgressCallback = no_progress,
) -> SparseFineTuning:
    """Learn a language by masked-LM training, keep what moved most, and write it as a sparse fine-tuning.

    LT-SFT with L = CE at masked positions + l1 · Σ|θ - θ₀| / N (Ansell et al. 2022, section 3). The text is cut into blocks
    [N, length] of the model's own pieces, documents packed one behind another; a share of them, by content, is held out, and
    the weights that are best there are kept. The masked-LM head stays as it is, as in composable-sft; a decoder tied to the
    embeddings moves with them.
    Interrupted, it goes on when called again with the same arguments, model and text, wherever these lie by then.

    Args:
        model: a masked-LM folder or Hub name.
        corpus: a text file or a folder of such.
        out: the file to write; it must not exist.
        language: what the text is in.
        training: steps, rates, lengths.
        sparsity: what is kept; `SPARSITY` by default.
        watch: told (done, total, what).

    Returns:
        The differences, as the file has them.

    Raises:
        AdaptError, ExtractError: for options that do not fit, and a file in the way.
        TeacherzooError: for a model or text that does not serve, or where training diverges.

    Example:
            language_sft("FacebookAI/xlm-roberta-base", "sw.txt", Path("sw.safetensors"), language="sw")
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
        loss = MaskedLMLoss(teacher.model)
        # What cannot be kept is refused before text is cut.
        if not sparsity.full:
            entries_to_keep(trainable_body(teacher.model, sparsity), sparsity)
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
        held_out = text_blocks.held_out().get(language) if training.held_out_share else None
        evaluation = None if held_out is None else Evaluation(
            measure=lambda: loss.mean_over(held_out), words="held-out loss {:.3f}", greater_is_better=False
        )  # fmt: skip
        with cleared_if_diverged(work):
            ticket = lottery_ticket(
                loss,
                teacher.model,
                lambda steps: _batches(text_blocks, language, training, plan, steps),
                plan,
                sparsity,
                work,
                evaluation=evaluation,
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
    if training.bf16 is not None:
        return training
    return replace(training, bf16=arguments.has_bfloat16())


def _batches(
    text_blocks: TextBlocks,
    language: str,
    training: LanguageTraining,
    plan: TrainingPlan,
    steps: int,
) -> MaskedBatches:
    sizes = {language: len(text_blocks.blocks[language])}
    share = examples_per_pass(training.batch, plan.passes)
    count = steps * training.batch // share
    slots = Schedule(sizes, batches=count, size=share, seed=training.seed)
    return MaskedBatches(slots, text_blocks.blocks, text_blocks.corruption)


def _plan(training: LanguageTraining) -> TrainingPlan:
    if training.steps < 1:
        raise AdaptError(f"steps must be at least 1, got {training.steps!r}.")
    if training.length < 8:
        raise AdaptError(f"length must be at least 8 tokens, got {training.length!r}.")
    names = ("steps", "learning_rate", "warmup", "evaluate_every", "checkpoint_every", "bf16", "seed", "arguments")  # fmt: skip
    tokens = training.batch * training.length
    plan = TrainingPlan(**{name: getattr(training, name) for name in names}, per_step=tokens, unit="tokens")  # fmt: skip
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
    return {
        "kind": "language",
        "language": language,
        "model": bare_names(name),
        "training": {**asdict(training), "arguments": bare_names(training.arguments)},
        "sparsity": asdict(sparsity),
        "held_out_loss": ticket.last.best,
        **ticket.record,
    }


class MaskedLMLoss(LossModule):
    """Mean cross-entropy at masked positions of a masked LM whose head is frozen."""

    accepts_loss_kwargs = True

    def __init__(self, student: Any) -> None:
        super().__init__(student)
        self._head = split_head(student)
        body = {id(parameter) for parameter in student.base_model.parameters()}
        for parameter in student.parameters():
            parameter.requires_grad_(id(parameter) in body)
        for name, parameter in student.base_model.named_parameters():
            if name.startswith("pooler."):
                parameter.requires_grad_(False)

    def forward(
        self, num_items_in_batch: Tensor | int | None = None, **batch: Tensor
    ) -> dict[str, Tensor]:
        """The loss on a batch [B, S] of `input_ids` and `labels`, -100 where nothing is masked."""
        head, masked = self._head, batch["labels"] >= 0
        states = head.encoder(input_ids=batch["input_ids"]).last_hidden_state[masked]
        divisor = None if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        rows, labels = head.transform(states), batch["labels"][masked]
        return {
            "loss": linear_cross_entropy(rows, head.weight, head.bias, labels, divisor=divisor).loss
        }

    @torch.inference_mode()
    def mean_over(self, batches: MaskedBatches) -> float:
        """Mean loss on a few batches, in float32."""
        training = self.training
        self.eval()
        device = next(self.parameters()).device
        total = 0.0
        for number in range(len(batches)):
            batch = {name: tensor.to(device) for name, tensor in batches[number].items()}
            # Past what a Trainer in bfloat16 has put around this module's own forward.
            total += float(MaskedLMLoss.forward(self, **batch)["loss"])
        self.train(training)
        return total / len(batches)
