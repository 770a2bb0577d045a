"""Masked-LM training of a teacher: all weights from nothing, or the head of an encoder first and then all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from teacherzoo.encoders.heads import split_head
from teacherzoo.errors import EmptyCorpusError, TeacherError
from teacherzoo.pretrain.config import ContinuedPretraining, MaskedLMTraining, PretrainedTeacher
from teacherzoo.pretrain.masks import MaskedBatches, Masks, stack
from teacherzoo.pretrain.text import pack
from teacherzoo.progress import ProgressCallback
from teacherzoo.text.corpora import Corpus
from teacherzoo.training.arguments import decided_arguments, has_bfloat16, trainer_arguments
from teacherzoo.training.loss_module import LossModule
from teacherzoo.training.trainer import PreparedBatchTrainer
from teacherzoo.training.watch import TrainingWatch

_HELD_OUT_BLOCKS = 256


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy in nats and share of right first guesses at masked positions."""

    loss: float
    accuracy: float


def train(
    module: LossModule,
    batches: MaskedBatches,
    config: MaskedLMTraining,
    work: Path,
    *,
    watch: ProgressCallback,
) -> None:
    """Train the student of `module` in place; resumes from the last whole checkpoint in `work`.

    Raises:
        DivergenceError: where the loss is no longer finite.
    """
    _fit(module, batches, config, work / "checkpoints", what="pretraining", watch=watch)


def train_head_then_all(
    module: LossModule,
    batches: MaskedBatches,
    config: ContinuedPretraining,
    work: Path,
    *,
    head_steps: int,
    watch: ProgressCallback,
) -> None:
    """Train the masked-LM head of the student for the first `head_steps` batches, then all its weights for the others.

    Each of the two trainings has a learning rate that rises and falls, and checkpoints of its own in `work`, from which it
    resumes.

    Raises:
        DivergenceError: where the loss is no longer finite.
    """
    student = module.student
    encoder = {id(weights) for weights in student.base_model.parameters()}
    head = [weights for weights in student.parameters() if id(weights) not in encoder]
    if head_steps:
        student.base_model.requires_grad_(False)
        _fit(
            module,
            torch.utils.data.Subset(batches, range(head_steps)),
            config,
            work / "head",
            what="pretraining the head",
            learning_rate=config.head_learning_rate,
            watch=watch,
        )
        student.base_model.requires_grad_(True)
    _fit(
        module,
        torch.utils.data.Subset(batches, range(head_steps, len(batches))),
        config,
        work / "checkpoints",
        what="pretraining",
        head=head,
        watch=watch,
    )


def _fit(
    module: LossModule,
    batches: Any,
    config: MaskedLMTraining,
    checkpoints: Path,
    *,
    what: str,
    watch: ProgressCallback,
    learning_rate: float | None = None,
    head: Sequence[torch.nn.Parameter] = (),
) -> None:
    steps = len(batches)
    decided = decided_arguments(
        checkpoints,
        steps=steps,
        learning_rate=learning_rate or config.learning_rate,
        warmup_steps=math.ceil(steps / 10),
        seed=config.seed,
        checkpoint_every=config.checkpoint_every,
        weight_decay=0.01,
        bf16=has_bfloat16(),
        dataloader_pin_memory=False,
    )
    tokens = float(config.batch_sizes().mean()) * config.length
    advice = "lower the learning rate"
    HeadAndBodyTrainer(
        model=module,
        head=head,
        head_learning_rate=getattr(config, "head_learning_rate", config.learning_rate),
        args=trainer_arguments(decided, {}, where="pretraining", error=TeacherError),
        train_dataset=batches,
        callbacks=[TrainingWatch(watch, what=what, advice=advice, per_step=tokens, unit="tokens")],
    ).resume()


class HeadAndBodyTrainer(PreparedBatchTrainer):
    """Trains some of the weights at a peak learning rate of their own.

    Args:
        head: these weights.
        head_learning_rate: theirs.
        named: as `PreparedBatchTrainer` takes them.
    """

    def __init__(
        self, *, head: Sequence[torch.nn.Parameter], head_learning_rate: float, **named: Any
    ) -> None:
        super().__init__(**named)
        self._head, self._head_learning_rate = {id(weights) for weights in head}, head_learning_rate

    def create_optimizer(self, *arguments: Any, **named: Any) -> Any:
        """The optimiser that Trainer makes, with the head's weights in groups of their own."""
        optimizer = super().create_optimizer(*arguments, **named)
        for group in [*optimizer.param_groups]:
            head = [weights for weights in group["params"] if id(weights) in self._head]
            if head:
                group["params"] = [w for w in group["params"] if id(w) not in self._head]
                optimizer.add_param_group({**group, "params": head, "lr": self._head_learning_rate})
        return optimizer


class MaskedLMLoss(LossModule):
    """Mean cross-entropy at masked positions; the head is applied to these rows alone."""

    def forward(self, *, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss of a batch [B, S]; labels are -100 where nothing is masked."""
        logits, gold = masked_logits(self.student, input_ids=input_ids, labels=labels)
        return {"loss": F.cross_entropy(logits.float(), gold)}


class MaskedLMAndStatesLoss(LossModule):
    """Mean cross-entropy at masked positions, and a source's hidden states of the text as it was before masking.

    L = CE + w · mean over layers j and positions of ||h_j(masked) - t_j(whole)||² / H, where t_j is the state behind the
    layer of the untrained source that the student's layer j began as. It is the hidden term of BiStil (Ansell et al.
    2023), but that the source reads what the student must guess, as the teacher of data2vec does (Baevski et al. 2022).

    Args:
        student: a masked LM.
        source: the encoder that is not trained.
        layers: for each of the student's layers the source's.
        weight: w.
    """

    def __init__(
        self, student: torch.nn.Module, source: Any, layers: Sequence[int], weight: float
    ) -> None:
        super().__init__(student)
        self.source = source.requires_grad_(False)
        self._layers, self._weight = tuple(layers), weight

    def train(self, mode: bool = True) -> MaskedLMAndStatesLoss:
        """Set the student's mode; the source stays in evaluation mode."""
        super().train(mode)
        self.source.eval()
        return self

    def forward(self, *, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss of a batch [B, S]; labels are -100 where nothing is masked."""
        head, masked = split_head(self.student), labels >= 0
        states = _hidden_states(head.encoder, input_ids)
        rows = head.transform(states[-1][masked])
        logits = F.linear(rows, head.weight, head.bias)
        with torch.no_grad():
            targets = _hidden_states(self.source, torch.where(masked, labels, input_ids))
        pairs = zip(states[1:], self._layers, strict=True)
        terms = [F.mse_loss(state.float(), targets[layer + 1].float()) for state, layer in pairs]
        loss = F.cross_entropy(logits.float(), labels[masked])
        return {"loss": loss + self._weight * torch.stack(terms).mean()}


def _hidden_states(encoder: Any, input_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Layers + 1 tensors [B, S, H]: the embeddings' and those behind each layer, the last behind a final norm where there is one."""
    output = encoder(
        input_ids=input_ids, attention_mask=torch.ones_like(input_ids), output_hidden_states=True
    )
    return (*output.hidden_states[:-1], output.last_hidden_state)


def masked_logits(
    model: Any, input_ids: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """[N, V] logits and [N] gold ids at the masked positions of a batch [B, S]."""
    head = split_head(model)
    masked = labels >= 0
    hidden = head.encoder(
        input_ids=input_ids, attention_mask=torch.ones_like(input_ids)
    ).last_hidden_state
    return F.linear(head.transform(hidden[masked]), head.weight, head.bias), labels[masked]


def held_out_scores(
    model: Any, corpora: Sequence[Corpus], tokenizer: Any, config: MaskedLMTraining
) -> dict[str, Score]:
    """Per language, how well the model fills masks in text that it has not seen; languages without such text are absent."""
    masks = Masks(tokenizer, config)
    scores = {}
    for corpus in corpora:
        try:
            blocks = pack([corpus], tokenizer, config.length, part="held_out")[corpus.language]
        except EmptyCorpusError:  # a small corpus may hold nothing out
            continue
        if len(blocks):
            scores[corpus.language] = _score(model, blocks[:_HELD_OUT_BLOCKS], masks, config.batch)
    return scores


def scored_teacher(
    folder: Path,
    model: Any,
    corpora: Sequence[Corpus],
    tokenizer: Any,
    config: MaskedLMTraining,
    *,
    seconds: float,
) -> PretrainedTeacher:
    """What came of a training that took so many seconds, by `held_out_scores`."""
    scores = held_out_scores(model, corpora, tokenizer, config)
    return PretrainedTeacher(
        folder=folder,
        parameters=model.num_parameters(),
        loss={language: score.loss for language, score in scores.items()},
        accuracy={language: score.accuracy for language, score in scores.items()},
        seconds=seconds,
    )


@torch.inference_mode()
def _score(model: Any, blocks: NDArray[np.int32], masks: Masks, size: int) -> Score:
    model.eval()
    items = [masks.apply(block, number) for number, block in enumerate(blocks)]
    loss = correct = count = 0.0
    for start in range(0, len(items), size):
        batch = stack(items[start : start + size])
        logits, gold = masked_logits(
            model, **{name: tensor.to(model.device) for name, tensor in batch.items()}
        )
        loss += float(F.cross_entropy(logits.float(), gold, reduction="sum"))
        correct += float((logits.argmax(-1) == gold).sum())
        count += len(gold)
    return Score(loss / count, correct / count)
