"""Lottery-ticket sparse fine-tuning: train everything, keep what moved most, rewind, train that alone (Ansell et al. 2022)."""

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
from bistil.lottery.masks import Masks, penalise_distance
from bistil.lottery.select import Selection, read_selection, select, write_selection
from bistil.lottery.training_run import Fitted, Fitting, Watch, fit
from bistil.sparse.apply import apply, difference
from bistil.sparse.difference import SparseFineTuning, SparseTensor
from teacherzoo.processes import rank, wait_for_all

Batches = Callable[[int], torch.utils.data.Dataset[dict[str, Tensor]]]
NUMBERS = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True, kw_only=True)
class Sparsity:
    """What of the body is kept, and how it is found.

    Args:
        density: share of the body's trainable entries, heads and frozen tensors not counted.
        count: or their number.
        full_steps: steps of the first phase, which trains all; None for as many as the second has. With `full`, so many
            more for the one phase; None for none more.
        l1: weight of Σ|θ - θ0| / N in both phases.
        freeze_norms: whether normalisation layers stay as they are.
        full: keep everything instead: ordinary fine-tuning in one phase, normalisation layers included.
        values: number format of the file's differences. The model is left as the start plus these very numbers.

    Raises:
        SparseError: for a value that makes no sense.
    """

    density: float = 0.08
    count: int | None = None
    full_steps: int | None = None
    l1: float = 0.0
    freeze_norms: bool = True
    full: bool = False
    values: str = "bfloat16"

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise SparseError(f"density must be above 0 and at most 1, got {self.density!r}.")
        if self.full_steps is not None and self.full_steps < 1:
            raise SparseError(f"full_steps must be at least 1, got {self.full_steps!r}.")
        if self.l1 < 0:
            raise SparseError(f"l1 must be 0 or more, got {self.l1!r}.")
        if self.values not in NUMBERS:
            raise SparseError(f"values must be one of {', '.join(NUMBERS)}, got {self.values!r}.")


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """What came of both phases.

    Attributes:
        body: the differences, in the number format of the file.
        last: of the phase that gave the differences.
        threshold: the smallest movement among the chosen in the first phase.
    """

    body: dict[str, SparseTensor]
    last: Fitted
    threshold: float

    @property
    def record(self) -> dict[str, Any]:
        """What happened, as plain values."""
        return {
            "steps": self.last.steps,
            "best_step": self.last.best_step,
            "threshold": self.threshold,
        }


def lottery_ticket(
    model: nn.Module,
    trained: nn.Module,
    batches: Batches,
    plan: Fitting,
    sparsity: Sparsity,
    folder: Path,
    *,
    score: Callable[[], float] | None = None,
    describe: Callable[[float], str] = "score {:.2f}".format,
    watch: Watch = lambda done, total, what: None,
) -> Ticket:
    """Both phases, in place: the body is left as its start plus the differences, the head as the last phase made it.

    Args:
        model: what is trained, see `fit`; what needs no gradient stays as it is.
        trained: the part of it with the body.
        batches: number of steps to the batches of a phase.
        plan: of the last phase; the first differs in its steps.
        sparsity: what is kept.
        folder: for checkpoints and the choice; an interrupted run goes on there.
        score: see `fit`.
        describe: see `fit`.
        watch: told (done, total, what).

    Raises:
        AdaptError: for what DeepSpeed cannot do to single entries.
        SparseError: for a density that leaves nothing, or a frozen entry that moved.
    """
    if not sparsity.full:
        _check_engine(plan)
    body = trainable_body(trained, freeze_norms=sparsity.freeze_norms and not sparsity.full)
    run = _Run(model, body, batches, plan, sparsity, folder, score, describe, watch)
    if sparsity.full:
        plan = replace(plan, steps=plan.steps + (sparsity.full_steps or 0))
        last, threshold = run.phase(plan, "full", "training all"), 0.0
        places: dict[str, NDArray[np.int64] | None] = dict.fromkeys(body)  # all of them
    else:
        selection = run.choose()
        last = run.phase(plan, "sparse", "training the chosen", selection)
        threshold = selection.threshold
        places = {name: selection.places(name) for name in selection.coded}
    found = SparseFineTuning(body=difference(run.origin, body, places)).rounded(NUMBERS[sparsity.values])  # fmt: skip
    with torch.no_grad():
        for name, parameter in body.items():
            parameter.copy_(run.origin[name])
    apply(trained, found, check=False)
    return Ticket(body=dict(found.body), last=last, threshold=threshold)


class _Run:
    """The two phases of one fine-tuning, with what both start from."""

    def __init__(
        self,
        model: nn.Module,
        body: dict[str, nn.Parameter],
        batches: Batches,
        plan: Fitting,
        sparsity: Sparsity,
        folder: Path,
        score: Callable[[], float] | None,
        describe: Callable[[float], str],
        watch: Watch,
    ) -> None:
        self._model, self._body, self._batches, self._plan = model, body, batches, plan
        self._sparsity, self._folder = sparsity, folder
        self._score, self._describe, self._watch = score, describe, watch
        self.origin = copies(body)
        own = {id(parameter) for parameter in body.values()}
        self._head = {name: its.detach().clone() for name, its in model.named_parameters() if its.requires_grad and id(its) not in own}  # fmt: skip

    def choose(self) -> Selection:
        """The first phase and what moved most in it, then everything as at the start; the choice of an earlier run is read."""
        file = self._folder / "chosen.safetensors"
        if not file.is_file():
            plan = replace(self._plan, steps=self._sparsity.full_steps or self._plan.steps)
            self.phase(plan, "full", "training all")
            count = _count(self._body, self._sparsity)
            selection = select(self.origin, self._body, count=count, watch=self._watch)
            if rank() == 0:
                write_selection(selection, file)
            self._rewind()
        wait_for_all()
        return read_selection(file)

    def phase(
        self, plan: Fitting, name: str, what: str, selection: Selection | None = None
    ) -> Fitted:
        """Train, only the selection where there is one."""
        strength = self._sparsity.l1 / plan.passes
        hooks = penalise_distance(self._body, self.origin, strength) if strength else []
        masks = None if selection is None else Masks(self._body, selection)
        try:
            return fit(
                self._model,
                self._batches(plan.steps),
                plan,
                self._folder / name,
                masks=masks,
                score=self._score,
                describe=self._describe,
                watch=self._watch,
                what=what,
            )
        finally:
            for hook in hooks:
                hook.remove()
            if masks is not None:
                masks.remove()

    @torch.no_grad()
    def _rewind(self) -> None:
        named = dict(self._model.named_parameters())
        for name, tensor in self._head.items():
            named[name].copy_(tensor)
        for name, tensor in self.origin.items():
            self._body[name].copy_(tensor)


def trainable_body(model: nn.Module, *, freeze_norms: bool) -> dict[str, nn.Parameter]:
    """The body's tensors that sparse fine-tuning may choose from; normalisation layers and poolers are switched off."""
    body, norms = body_parameters(model), norm_names(model)
    for name, parameter in body.items():
        if freeze_norms and name in norms:
            parameter.requires_grad_(False)
    return {name: its for name, its in body.items() if its.requires_grad}


def _check_engine(plan: Fitting) -> None:
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


def _count(body: Mapping[str, Tensor], sparsity: Sparsity) -> int:
    total = sum(tensor.numel() for tensor in body.values())
    count = round(sparsity.density * total) if sparsity.count is None else sparsity.count
    if not 0 < count <= total:
        raise SparseError(
            f"Expected to keep from 1 to {total} entries of the body, got {count!r}; change the density or the count."
        )
    return count
