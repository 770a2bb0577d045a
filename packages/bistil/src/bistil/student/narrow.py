"""A narrower student: it keeps some of the hidden and feed-forward units and of the heads, and reconstructs the others from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bistil.encoders.capture import capture_activations, family_of
from bistil.encoders.widths import inner_width, narrow_config, paths_of_layers
from bistil.student.statistics import ActivationStatistics, head_maps
from bistil.student.units import (
    Moments,
    least_squares_reconstruction,
    pivoted_cholesky_selection,
)
from teacherzoo.encoders.kinds import same_class

Weights = dict[str, Tensor]


def compared_covariance(teacher: Any, layers: Sequence[int], blocks: Iterable[Tensor]) -> Tensor:
    """[H, H] of the teacher's compared states.

    One choice of units holds for the embeddings' state and the states behind `layers`, so that what a layer adds to the sum of
    those before it has one meaning everywhere. Each state's variance weighs the same.

    Args:
        teacher: in evaluation mode.
        layers: the student's map.
        blocks: token ids [B, S] without padding.
    """
    states = [0, *(number + 1 for number in layers)]
    moments = {number: Moments(teacher.config.hidden_size) for number in states}
    with torch.no_grad():
        for block in blocks:
            with capture_activations(teacher, layers=layers) as activations:
                teacher(input_ids=block.to(teacher.device))
            for number in states:
                moments[number].add(activations.hidden[number])
    covariances = [moments[number].covariance for number in states]
    shares = torch.stack([covariance / covariance.trace() for covariance in covariances])
    return shares.mean(0)


def projection_of(units: Sequence[int], width: int) -> Tensor:
    """P [width, k] with h P = h[units]."""
    return torch.eye(width)[:, list(units)]


def narrowed(
    model: Any,
    blocks: Iterable[Tensor],
    *,
    units: Sequence[int] | None = None,
    feed_forward: int | None = None,
    inner_units: Sequence[Sequence[int]] | None = None,
    heads: Sequence[Sequence[int]] | None = None,
    seed: int | None = None,
) -> Any:
    """A narrower copy of `model` that does nearly what it does on text like `blocks`.

    Its hidden state stands for h P, the chosen units of h. Embeddings and whatever writes into the state keep the chosen
    entries. A linear map that read all units reads the chosen ones and, by least squares, what they say of the others. A
    norm's mean and deviation run over the chosen units alone, which is another function: projection and norm do not
    commute. Its gain and offset are fitted anew, unit by unit. Heads become narrower with the state: queries and keys are
    cut to the singular directions that make most of a head's products, values to those that make most of what it adds to the
    state; or there are fewer of them, and what is behind them reads, by least squares, what the kept ones tell of the others. A
    head that stays as wide keeps its queries, keys and values.
    Feed-forward units are chosen by how much of what all add the chosen ones tell, or are those that are named. Where nothing
    is left out the copy is the same model, bit for bit.

    Args:
        model: in evaluation mode, one that `require_narrowable` takes.
        blocks: token ids [B, S] without padding.
        units: hidden units that are kept, ascending; None for all.
        feed_forward: how many feed-forward units of each layer; None for all.
        inner_units: of each layer the numbers of so many of them, ascending; None to choose by reconstruction.
        heads: of each layer the numbers of the attention heads that are kept, as many in each, ascending; None for all.
        seed: given, the weights are random instead, of this seed.
    """
    kept = None if units is None or len(units) == model.config.hidden_size else tuple(units)
    inner = None if feed_forward == inner_width(model.config) else feed_forward
    fewer = None if heads is None or len(heads[0]) == model.config.num_attention_heads else heads
    narrow = narrow_model(
        model, width=None if kept is None else len(kept), feed_forward=inner, heads=None if fewer is None else len(fewer[0]), seed=seed
    )  # fmt: skip
    if seed is None:
        statistics = ActivationStatistics(
            model, kept, blocks, inner=inner is not None, heads=fewer is not None
        )
        narrowing = _Narrowing(model, statistics, kept, inner, inner_units, fewer)
        narrow.load_state_dict(narrowing.weights())
    return narrow


def narrow_model(
    model: Any,
    *,
    width: int | None,
    feed_forward: int | None,
    heads: int | None,
    seed: int | None = None,
) -> Any:
    """A narrower model of the class of `model`, where that lies, with random weights.

    Args:
        model: in evaluation mode.
        width: of its hidden states; None for as many.
        feed_forward: units of its feed-forward layers; None for as many.
        heads: of each layer; None for as many.
        seed: of the weights.
    """
    config = narrow_config(model.config, width=width, feed_forward=feed_forward, heads=heads)
    with torch.random.fork_rng(devices=[]):  # see `student_of`
        torch.manual_seed(0 if seed is None else seed)
        narrow = same_class(model, config)
    narrow.config._attn_implementation = model.config._attn_implementation
    return narrow.to(next(model.parameters())).eval()  # its device and dtype


class _Narrowing:
    """The narrower weights of a model, from statistics of its activations."""

    def __init__(
        self,
        model: Any,
        statistics: ActivationStatistics,
        units: tuple[int, ...] | None,
        inner: int | None,
        inner_units: Sequence[Sequence[int]] | None,
        heads: Sequence[Sequence[int]] | None,
    ) -> None:
        self._model, self._statistics, self._units, self._inner = model, statistics, units, inner
        self._inner_units, self._heads = inner_units, heads
        self._family = family_of(model)
        self._state: slice | list[int] = slice(None) if units is None else list(units)

    def weights(self) -> Weights:
        """All of them, under their names."""
        whole = self._model.config.hidden_size
        weights = {
            name: tensor[..., self._state] if tensor.dim() > 1 and tensor.shape[-1] == whole else tensor
            for name, tensor in self._model.state_dict().items()
        }  # fmt: skip
        if self._units is not None:
            for name, fit in self._statistics.norms.items():
                weights[f"{name}.weight"], weights[f"{name}.bias"] = fit.fitted()
            for name in head_maps(self._model):
                weight, bias = self._reading(name, name)
                weights |= {
                    f"{name}.weight": weight[self._state],
                    f"{name}.bias": bias[self._state],
                }
        for number, path in enumerate(paths_of_layers(self._model)):
            if self._units is not None or self._heads is not None:
                weights |= self._attention(number, path)
            weights |= self._feed_forward(number, path)
        return weights

    def _linear(self, name: str) -> tuple[Tensor, Tensor | None]:
        linear: nn.Linear = self._model.get_submodule(name)
        bias = None if linear.bias is None else linear.bias.detach().double().cpu()
        return linear.weight.detach().double().cpu(), bias  # where the moments are

    def _reading(self, name: str, same_inputs: str) -> Any:
        """A map that reads the kept units in place of all: weight [out, k] and bias."""
        weight, bias = self._linear(name)
        if self._units is None:
            return weight, bias
        linear, constant = least_squares_reconstruction(
            self._units, self._statistics.inputs[same_inputs], constant=True
        )
        return weight @ linear.T, bias + weight @ constant  # type: ignore[operator]  # every map of these families has one

    def _attention(self, number: int, path: str) -> Weights:
        """Its kept heads; what is behind them reads what they tell of the others."""
        family = self._family
        out, *places = (
            f"{path}.{place}" for place in (family.output, family.query, family.key, family.value)
        )
        read = [self._reading(name, places[0]) for name in places]
        narrow: list[list[tuple[Tensor, Tensor]]] = [[], [], []]
        outs = []
        weight_out, bias_out = self._linear(out)
        weight_out, bias_out = weight_out[self._state], bias_out[self._state]  # type: ignore[index]  # every map of these families has a bias
        count = self._model.config.num_attention_heads
        size, kept = weight_out.shape[1] // count, tuple(range(count))
        if self._heads is not None:
            moments = self._statistics.inputs[out]
            kept = tuple(self._heads[number])
            units = tuple(head * size + unit for head in kept for unit in range(size))
            linear, constant = least_squares_reconstruction(units, moments, constant=True)
            weight_out, bias_out = weight_out @ linear.T, bias_out + weight_out @ constant
        for head, added in zip(kept, weight_out.split(size, dim=1), strict=True):
            maps, put = self._head([*places, out], head, added, len(weight_out) // len(kept))
            rows = slice(head * size, (head + 1) * size)
            for parts, (weight, bias), (turn, mean) in zip(narrow, read, maps, strict=True):
                parts.append((turn.T @ weight[rows], turn.T @ (bias[rows] - mean)))
            bias_out = bias_out + added @ maps[-1][1]
            outs.append(put)
        weights = {f"{out}.weight": torch.cat(outs).T, f"{out}.bias": bias_out}
        for name, parts in zip(places, narrow, strict=True):
            weights[f"{name}.weight"] = torch.cat([weight for weight, _ in parts])
            weights[f"{name}.bias"] = torch.cat([bias for _, bias in parts])
        return weights

    def _head(
        self, places: Sequence[str], head: int, added: Tensor, width: int
    ) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """A head of d units with `width` e: its first e singular directions, or all of it where e ≥ d.

        Args:
            places: of the maps to queries, keys and values, and behind.
            head: its number.
            added: [k, d] by which what it attended to is multiplied.
            width: e.

        Returns:
            Maps [d, e] of queries, keys and values, each with what is taken off before, [d]; and [e, k] in place of `added`.
        """
        size, nothing = added.shape[1], added.new_zeros(added.shape[1])
        if width < size:
            query, key, _, out = places
            queries, keys, context = (
                self._statistics.heads[name][head] for name in (query, key, out)
            )
            turn_q, turn_k = cut_products(queries, keys, width)
            turn_v, put = cut_sum(context, added.T, width)
            # A mean of the keys moves all scores of a query alike, that of the values is added behind.
            return [(turn_q, nothing), (turn_k, keys.mean), (turn_v, context.mean)], put
        # A head that is wider than it was begins with copies that meet zeros: they change nothing, and can learn.
        same = torch.eye(size, width).to(added)
        copies = same[:, torch.arange(width) % size]
        scaled = copies * (width / size) ** 0.5  # scores are divided by √e in place of √d
        return [(scaled, nothing), (same, nothing), (copies, nothing)], same.T @ added.T

    def _feed_forward(self, number: int, path: str) -> Weights:
        ups = [f"{path}.{place}" for place in self._family.up]
        down = f"{path}.{self._family.down}"
        tensors = {up: self._reading(up, ups[0]) for up in ups}
        weight, bias = self._linear(down)
        weight, bias = weight[self._state], None if bias is None else bias[self._state]
        if self._inner is not None:
            moments, total = self._statistics.inputs[down], weight.shape[1]
            kept = self._inner_kept(number, moments, weight)
            linear, constant = least_squares_reconstruction(
                kept, moments, constant=bias is not None
            )
            bias = None if bias is None else bias + weight @ constant
            weight = weight @ linear.T
            rows = [*kept, *(total + unit for unit in kept)] if self._family.fused_gate else [*kept]
            for up, (weight_up, bias_up) in tensors.items():
                tensors[up] = weight_up[rows], None if bias_up is None else bias_up[rows]
        tensors[down] = weight, bias
        return {
            f"{name}.{part}": tensor
            for name, pair in tensors.items()
            for part, tensor in zip(("weight", "bias"), pair, strict=True)
            if tensor is not None
        }

    def _inner_kept(self, number: int, moments: Moments, weight: Tensor) -> tuple[int, ...]:
        """The feed-forward units that layer `number` keeps, [out, inner] being the weight of the map that reads them."""
        if self._inner_units is not None:
            return tuple(self._inner_units[number])
        assert self._inner is not None
        loud = weight.norm(dim=0)
        return pivoted_cholesky_selection(
            moments.covariance * loud * loud[:, None], self._inner
        ).numbers


def cut_products(queries: Moments, keys: Moments, width: int) -> tuple[Tensor, Tensor]:
    """Maps [d, e] of a head's queries and keys, such that their products, scaled as heads of e units are, stay nearest.

    With Q and K the rows [n, d] of the head's queries and keys, K without its mean, Q Kᵀ has the singular values of Lqᵀ Lk, where Lq Lqᵀ = Qᵀ Q and
    Lk Lkᵀ = Kᵀ K; the first e of them are kept. A mean of the keys adds the same to all scores of a query, which the
    softmax takes away.
    """
    left, right = _root(queries.second), _root(keys.covariance)
    u, s, vt = torch.linalg.svd(left.T @ right)
    # Scores are divided by √e in place of √d.
    share = s[:width].sqrt() * (width / len(left)) ** 0.25
    return (
        torch.linalg.solve(left.T, u[:, :width]) * share,
        torch.linalg.solve(right.T, vt[:width].T) * share,
    )


def cut_sum(context: Moments, out: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Maps [d, e] and [e, k] in place of a head's [d, k], such that what it adds, without its mean, stays nearest."""
    root = _root(context.covariance)
    u, s, vt = torch.linalg.svd(root.T @ out, full_matrices=False)
    turn = torch.linalg.solve(root.T, u[:, :width] * s[:width].sqrt())
    return turn, s[:width].sqrt()[:, None] * vt[:width]


def _root(second: Tensor) -> Tensor:
    """L with L Lᵀ = `second`, whose directions without variance are given a little."""
    little = 1e-8 * float(second.diagonal().mean()) + 1e-30
    return torch.linalg.cholesky(second + little * torch.eye(len(second)).to(second))
