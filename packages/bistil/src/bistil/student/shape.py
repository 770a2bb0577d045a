"""A student's shape, and what it costs in parameters and bytes: counted from the configuration, before a weight is made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any, cast

import torch

from bistil.counted import counted
from bistil.encoders.widths import inner_width, narrow_config
from bistil.errors import ModelError
from teacherzoo.encoders.families import known_family
from teacherzoo.encoders.kinds import same_class, shell_of
from teacherzoo.encoders.layers import config_of_layers
from vocabmerge import Layout
from xeval.cost.parameters import Parameters, parameters_behind, split_parameters

_GRAPH, _GRAPH_OF_LAYER = 24_000, 12_000  # bytes of an ONNX graph that are no weights, at most


@dataclass(frozen=True, kw_only=True, order=True)
class Shape:
    """What may differ between a teacher and its student.

    Attributes:
        layers: for each of the student's layers the teacher's.
        width: of hidden states.
        heads: of each layer.
        feed_forward: units of a feed-forward layer.
        pieces: of the vocabulary.
    """

    layers: tuple[int, ...]
    width: int
    heads: int
    feed_forward: int
    pieces: int

    def __str__(self) -> str:
        return (
            f"{counted(len(self.layers), 'layer')} ({', '.join(map(str, self.layers))}) of width {self.width:,}, {counted(self.heads, 'head')}, "
            f"{counted(self.feed_forward, 'feed-forward unit')}, {counted(self.pieces, 'piece')}"
        )


class ShapeSizes:
    """Sizes of a model's students by their shape.

    Layers behind the first have the same parameters, and so have pieces, so that every count is linear in both:
    N(L, V) = N(1, V₀) + (L - 1) · (N(2, V₀) - N(1, V₀)) + (V - V₀) · (N(1, V₀ + 1) - N(1, V₀)). These three are counted of models
    on the meta device for each width, number of heads and of feed-forward units; no architecture has a formula of its own.

    Args:
        layout: of the model's folder.

    Attributes:
        shape: of the model itself.
        behind: parameters of modules of sentence-transformers behind the encoder, which no shape changes.
        first_layer_pinned: why the student's first layer must be the teacher's; empty where it need not be.

    Raises:
        ModelError: for an architecture whose layers cannot be left out.
    """

    def __init__(self, layout: Layout) -> None:
        self._shell = cast(Any, shell_of(layout))
        config = self._shell.config
        family = known_family(config)
        if family.unreached:
            raise ModelError(f"{layout.folder}: a student of a {config.model_type!r} model cannot be made: {family.unreached}.")  # fmt: skip
        self.shape = Shape(
            layers=tuple(range(int(getattr(config, family.depth)))),
            width=int(config.hidden_size),
            heads=int(config.num_attention_heads),
            feed_forward=inner_width(config),
            pieces=int(self._shell.get_input_embeddings().num_embeddings),
        )
        self.behind = parameters_behind(layout.folder)
        self.first_layer_pinned = family.first_layer_pinned
        self._points = cache(self._counted_points)

    @property
    def shell(self) -> Any:
        """The model on the meta device."""
        return self._shell

    def parameters(self, shape: Shape) -> Parameters:
        """As `xeval.cost.parameters.parameters_of` counts them of the student's folder, modules behind the encoder as its head."""
        counts = self._counts(shape)
        parts = {name: counts[name] for name in ("vocabulary", "embeddings", "body")}
        head = counts["head"] + self.behind
        return Parameters(architecture=type(self._shell).__name__, **parts, head=head)

    def total(self, shape: Shape) -> int:
        """All parameters of the student, those of modules behind the encoder included."""
        return self.parameters(shape).total

    def float_bytes(self, shape: Shape) -> int:
        """Bytes of the student's weights in float32; a file has a header besides."""
        return 4 * self.total(shape)

    def eight_bit_bytes(self, shape: Shape) -> int:
        """At most so many bytes has the graph of `bistil.export` in which tables and matrix products have eight bits.

        An entry of a matrix is a byte, and each of its rows or columns has a scale of four bytes and a zero of one; vectors
        stay in float32. Nodes and names are counted by the layer.
        """
        counts = self._counts(shape)
        weights = counts["entries"] + 5 * counts["lines"] + 4 * counts["floats"]
        return weights + 4 * self.behind + _GRAPH + _GRAPH_OF_LAYER * len(shape.layers)

    def config(self, shape: Shape) -> Any:
        """The student's configuration, but for its number of pieces."""
        config = config_of_layers(self._shell.config, shape.layers)
        return narrow_config(
            config, width=shape.width, feed_forward=shape.feed_forward, heads=shape.heads
        )

    def _counts(self, shape: Shape) -> dict[str, int]:
        one, two, wordier = self._points(replace(shape, layers=(0,), pieces=self.shape.pieces))
        layers, pieces = len(shape.layers) - 1, shape.pieces - self.shape.pieces
        return {
            name: start + layers * (two[name] - start) + pieces * (wordier[name] - start)
            for name, start in one.items()
        }

    def _counted_points(self, one: Shape) -> tuple[dict[str, int], ...]:
        second = min(1, len(self.shape.layers) - 1)
        points = (one, replace(one, layers=(0, second)), replace(one, pieces=one.pieces + 1))
        return tuple(self._counted(shape) for shape in points)

    def _counted(self, shape: Shape) -> dict[str, int]:
        config = self.config(shape)
        config.vocab_size = shape.pieces
        with torch.device("meta"):
            model = same_class(self._shell, config)
        parts = split_parameters(model)
        tensors = list(model.parameters())
        matrices = [tensor for tensor in tensors if tensor.dim() == 2]
        return {
            "vocabulary": parts.vocabulary,
            "embeddings": parts.embeddings,
            "body": parts.body,
            "head": parts.head,
            "entries": sum(matrix.numel() for matrix in matrices),
            "lines": sum(matrix.shape[0] for matrix in matrices),
            "floats": sum(tensor.numel() for tensor in tensors if tensor.dim() != 2),
        }
