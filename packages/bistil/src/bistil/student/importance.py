"""The importance of a model's units: its layers, attention heads, feed-forward units and hidden channels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from bistil.encoders.capture import encoder_of
from bistil.errors import ModelError
from bistil.student.bottleneck import bottleneck_importance
from bistil.student.gates import KINDS, UnitKind, unit_shapes
from bistil.student.outputs import Batch, Loss, Outputs, last_states, rows_together
from bistil.student.reconstruction import reconstruction_importance
from bistil.student.taylor import taylor_importance
from bistil.student.units import largest
from teacherzoo.progress import ProgressCallback, no_progress

Measure = Literal["reconstruction", "taylor", "bottleneck"]
MEASURES: dict[Measure, Callable[..., dict[UnitKind, Tensor]]] = {
    "reconstruction": reconstruction_importance,
    "taylor": taylor_importance,
    "bottleneck": bottleneck_importance,
}


@dataclass(frozen=True, kw_only=True)
class Importance:
    """The importance of a model's units, comparable among those of a kind, the more the higher; None of kinds not asked for.

    A folder of transformers has one number of heads and one of feed-forward units for all its layers, so units are kept layer
    by layer, as many in each.

    Attributes:
        by: how it was measured.
        layers: [L].
        heads: [L, A].
        feed_forward: [L, I].
        hidden: [H].
    """

    by: Measure
    layers: Tensor | None = None
    heads: Tensor | None = None
    feed_forward: Tensor | None = None
    hidden: Tensor | None = None

    def kept_layers(self, count: int) -> tuple[int, ...]:
        """The numbers of the `count` most important layers, ascending."""
        return largest(self._scores("layers"), count)

    def kept_heads(self, count: int) -> tuple[tuple[int, ...], ...]:
        """Of each layer the numbers of its `count` most important heads, ascending."""
        return tuple(largest(scores, count) for scores in self._scores("heads"))

    def kept_feed_forward(self, count: int) -> tuple[tuple[int, ...], ...]:
        """Of each layer the numbers of its `count` most important feed-forward units, ascending."""
        return tuple(largest(scores, count) for scores in self._scores("feed_forward"))

    def kept_hidden(self, count: int) -> tuple[int, ...]:
        """The numbers of the `count` most important hidden channels, ascending."""
        return largest(self._scores("hidden"), count)

    def _scores(self, kind: UnitKind) -> Tensor:
        scores: Tensor | None = getattr(self, kind)
        if scores is None:
            raise ModelError(f"The importance of {kind} was not measured; name it among the kinds.")
        return scores


def unit_importance(
    teacher: Any,
    batches: Iterable[Tensor | Batch],
    by: Measure = "reconstruction",
    *,
    kinds: Collection[UnitKind] = KINDS,
    outputs: Outputs = last_states,
    loss: Loss | None = None,
    keep: float | Mapping[UnitKind, float] = 0.5,
    steps: int = 200,
    seed: int = 0,
    watch: ProgressCallback = no_progress,
) -> Importance:
    """How important each unit of a model is for what the model makes of text, or for a task.

    - "reconstruction": how much of the variance of the states a unit tells that units before it do not by a linear map (pivoted
      Cholesky selection; Harbrecht, Peters and Schneider 2012).
    - "taylor": the first term of the Taylor series of its removal that does not vanish (Molchanov et al. 2019, "Importance
      Estimation for Neural Network Pruning"; Michel, Levy and Neubig 2019, "Are Sixteen Heads Really Better than One?"; Theis et
      al. 2018, "Faster gaze prediction with dense networks and Fisher pruning").
    - "bottleneck": nats that a gate with as much noise as the outputs bear lets through, trained for two hundred steps
      (Dai et al. 2018, "Compressing Neural Networks using the Variational Information Bottleneck"; VTrans, Dutta et al. 2024).

    Neither weights nor modes of the model change. The outcome is the same bits on the same machine.

    Args:
        teacher: an encoder or what holds one, in evaluation mode.
        batches: token ids [B, S] without padding, or batches with `input_ids` and `attention_mask` as the model or `loss` takes them.
        by: one of `MEASURES`.
        kinds: of the units to look at.
        outputs: given the model and a batch, what is to stay as it is: values [B, …], the last hidden states unless given;
            "reconstruction" looks at the states of all layers in any case.
        loss: given them, a task's loss, a mean over the rows, in place of the outputs; "reconstruction" knows none.
        keep: of "bottleneck", the share of units that a student would have, of all kinds or by kind; the others are trained away.
        steps: of "bottleneck".
        seed: of random directions and noise.
        watch: told (done, total, what).

    Raises:
        ModelError: for an unknown measure or kind, a loss for "reconstruction", no text, or an architecture that is not known.

    Example:
        >>> import torch
        >>> from transformers import BertConfig, BertModel
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
        >>> encoder = BertModel(BertConfig(vocab_size=50, **sizes)).eval()
        >>> importance = unit_importance(encoder, [torch.arange(48).view(4, 12)], by="taylor")
        >>> importance.heads.shape, [len(units) for units in importance.kept_feed_forward(6)]
        (torch.Size([2, 2]), [6, 6])
    """
    if by not in MEASURES:
        raise ModelError(f"units must be chosen by one of {', '.join(MEASURES)}, got {by!r}.")
    if strange := [kind for kind in kinds if kind not in KINDS]:
        raise ModelError(f"A kind of unit must be one of {', '.join(KINDS)}, got {strange[0]!r}.")
    if loss is not None and by == "reconstruction":
        raise ModelError("reconstruction looks at states and knows no loss; choose by taylor or bottleneck, or leave the loss out.")  # fmt: skip
    config = encoder_of(teacher).config
    together = list(rows_together(batches, pad=config.pad_token_id or 0, device=teacher.device))
    if not together:
        raise ModelError("There is no text on which the importance of units could be measured.")
    shapes = {kind: shape for kind, shape in unit_shapes(teacher).items() if kind in kinds}
    options: dict[str, Any] = {}
    if by != "reconstruction":
        options = {"outputs": outputs, "loss": loss, "seed": seed}
    if by == "bottleneck":
        shares = dict.fromkeys(KINDS, keep) if isinstance(keep, float) else keep
        options |= {"keep": shares, "steps": steps, "watch": watch}
    with _frozen(teacher):
        return Importance(by=by, **MEASURES[by](teacher, together, shapes, **options))


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Its weights take no gradients meanwhile."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
