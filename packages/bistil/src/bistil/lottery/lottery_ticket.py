"""Lottery-ticket sparse fine-tuning : LT-SFT (Ansell et al. 2022), after lottery tickets (Frankle & Carbin 2019)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bistil.encoders.body import body_parameters, copies, norm_names
from bistil.errors import AdaptError, SparseError
from bistil.lottery.config import NUMBERS, Evaluation, Sparsity, TrainingPlan, TrainingResult
from bistil.lottery.masks import Masks, penalise_distance
from bistil.lottery.select import Selection, read_selection, select, write_selection
from bistil.lottery.training_run import assign, train
from bistil.sparse.apply import apply, difference
from bistil.sparse.difference import SparseFineTuning, SparseTensor
from teacherzoo.processes import rank, wait_for_all
from teacherzoo.progress import ProgressCallback, no_progress

Batches = Callable[[int], torch.utils.data.Dataset[dict[str, Tensor]]]


def lottery_ticket(
    model: nn.Module,
    student: nn.Module,
    batches: Batches,
    plan: TrainingPlan,
    sparsity: Sparsity,
    folder: Path,
    *,
    evaluation: Evaluation | None = None,
    watch: ProgressCallback = no_progress,
) -> Ticket:
    """φ = θ₂ - θ₀, in place: the body is left as θ₀ + φ, the head as the last phase made it.

    1. Train all of θ from θ₀, to θ₁. 2. Let μ be the K entries of the body with the greatest |θ₁ - θ₀|. 3. Rewind θ to θ₀.
    4. Train the entries in μ alone, to θ₂. Both phases add λ/N · Σ|θ - θ₀| to the loss. The head trains in both.

    Args:
        model: what is trained, see `train`; what needs no gradient stays as it is.
        student: the part of it with the body.
        batches: number of steps to the batches of a phase.
        plan: of the last phase; the first differs in its steps.
        sparsity: K and λ.
        folder: for checkpoints and the choice; an interrupted run goes on there.
        evaluation: chooses the best weights of each phase.
        watch: told (done, total, what).

    Raises:
        AdaptError: for what DeepSpeed cannot do to single entries.
        SparseError: for a density that leaves nothing, or a frozen entry that moved.
    """
    body = trainable_body(student, sparsity)
    tuning = _Tuning(model, body, batches, plan, sparsity, folder, evaluation, watch)
    chosen = None
    if sparsity.full:
        last = tuning.train_all(plan.steps + (sparsity.full_steps or 0))
    else:
        refuse_partitioned_entries(plan)
        count = entries_to_keep(body, sparsity)
        chosen = tuning.chosen_before()
        if chosen is None:
            tuning.train_all(sparsity.full_steps or plan.steps)
            chosen = tuning.choose_most_changed(count)
            tuning.rewind()
        last = tuning.train_chosen(chosen)
    phi = tuning.difference(chosen)
    tuning.rewind_body()
    apply(student, phi, check=False)
    return Ticket(body=dict(phi.body), last=last, threshold=chosen.threshold if chosen else 0.0)


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """What came of both phases.

    Attributes:
        body: φ, the differences, in the number format of the file.
        last: of the phase that gave the differences.
        threshold: the smallest movement among the chosen in the first phase.
    """

    body: dict[str, SparseTensor]
    last: TrainingResult
    threshold: float

    @property
    def record(self) -> dict[str, Any]:
        """What happened, as plain values."""
        return {
            "steps": self.last.steps,
            "best_step": self.last.best_step,
            "threshold": self.threshold,
        }


class _Tuning:
    """θ in training, and θ₀, which both phases start from."""

    def __init__(
        self,
        model: nn.Module,
        body: dict[str, nn.Parameter],
        batches: Batches,
        plan: TrainingPlan,
        sparsity: Sparsity,
        folder: Path,
        evaluation: Evaluation | None,
        watch: ProgressCallback,
    ) -> None:
        self._model, self._body, self._batches = model, body, batches
        self._plan, self._sparsity, self._folder = plan, sparsity, folder
        self._evaluation, self._watch = evaluation, watch
        self._body_start = copies(body)
        in_body = {id(parameter) for parameter in body.values()}
        self._head_start = {
            name: parameter.detach().clone()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and id(parameter) not in in_body
        }

    def train_all(self, steps: int) -> TrainingResult:
        """The first phase."""
        return self._train(replace(self._plan, steps=steps), "full", "training all")

    def train_chosen(self, chosen: Selection) -> TrainingResult:
        """The second phase."""
        return self._train(self._plan, "sparse", "training the chosen", chosen)

    def _train(
        self, plan: TrainingPlan, name: str, what: str, chosen: Selection | None = None
    ) -> TrainingResult:
        strength = self._sparsity.l1 / plan.passes
        hooks = penalise_distance(self._body, self._body_start, strength) if strength else []
        masks = None if chosen is None else Masks(self._body, chosen)  # after what it must mask
        try:
            return train(
                self._model,
                self._batches(plan.steps),
                plan,
                self._folder / name,
                masks=masks,
                evaluation=self._evaluation,
                watch=self._watch,
                what=what,
            )
        finally:
            for hook in hooks:
                hook.remove()
            if masks is not None:
                masks.remove()

    def choose_most_changed(self, count: int) -> Selection:
        """μ, which is kept for a run that goes on later."""
        chosen = select(self._body_start, self._body, count=count, watch=self._watch)
        if rank() == 0:
            write_selection(chosen, self._file)
        return chosen

    def chosen_before(self) -> Selection | None:
        """μ, where an earlier run has chosen."""
        there = self._file.is_file()
        wait_for_all()  # before one process writes what another looks for
        return read_selection(self._file) if there else None

    @property
    def _file(self) -> Path:
        return self._folder / "chosen.safetensors"

    def rewind(self) -> None:
        """θ to θ₀, body and head."""
        assign(self._model, self._head_start)
        self.rewind_body()

    @torch.no_grad()
    def rewind_body(self) -> None:
        """The body to θ₀."""
        for name, tensor in self._body_start.items():
            self._body[name].copy_(tensor)

    def difference(self, chosen: Selection | None) -> SparseFineTuning:
        """θ - θ₀ at the chosen entries, or everywhere, in the number format of the file."""
        places: dict[str, NDArray[np.int64] | None] = (
            dict.fromkeys(self._body)
            if chosen is None
            else {name: chosen.places(name) for name in chosen.coded}
        )
        body = difference(self._body_start, self._body, places)
        return SparseFineTuning(body=body).rounded(NUMBERS[self._sparsity.values])


def trainable_body(model: nn.Module, sparsity: Sparsity) -> dict[str, nn.Parameter]:
    """The body's tensors that sparse fine-tuning may choose from; normalisation layers and poolers are switched off."""
    body, norms = body_parameters(model), norm_names(model)
    freeze_norms = sparsity.freeze_norms and not sparsity.full
    for name, parameter in body.items():
        if freeze_norms and name in norms:
            parameter.requires_grad_(False)
    return {name: parameter for name, parameter in body.items() if parameter.requires_grad}


def refuse_partitioned_entries(plan: TrainingPlan) -> None:
    """What DeepSpeed cannot do to single entries.

    Raises:
        AdaptError: for weight decay or bfloat16 under DeepSpeed.
    """
    if "deepspeed" not in plan.arguments:
        return
    if plan.weight_decay:
        raise AdaptError(
            f"DeepSpeed keeps weights in partitions, in which single entries cannot be decayed; set weight_decay to 0, now {plan.weight_decay!r}."
        )
    if plan.bf16:
        raise AdaptError(
            "DeepSpeed in bfloat16 rounds the weights themselves, so that none would stay as it was; set the precision to float32."
        )


def entries_to_keep(body: Mapping[str, Tensor], sparsity: Sparsity) -> int:
    """K.

    Raises:
        SparseError: where that is nothing, or more than there is.
    """
    total = sum(tensor.numel() for tensor in body.values())
    count = round(sparsity.density * total) if sparsity.count is None else sparsity.count
    if not 0 < count <= total:
        raise SparseError(
            f"Expected to keep from 1 to {total} entries of the body, got {count!r}; change the density or the count."
        )
    return count
