"""What each part of a model is worth: one part is cut, nothing is trained, and the judge says what is left."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bistil.counted import counted
from bistil.fit.choices import Choices, layers_of_depth
from bistil.fit.config import Fitting
from bistil.fit.trials import Trials
from bistil.student.shape import Shape, ShapeSizes
from teacherzoo.progress import ProgressCallback
from vocabmerge import Layout

_LEAST = 1.0  # percent; where less is left, differences mean nothing
_CUTS = 4
PARTS = ("width", "feed_forward", "pieces")


@dataclass(frozen=True, kw_only=True)
class PartWorths:
    """What is left of a model's worth when one part is cut, in percent.

    Attributes:
        uncut: with every part that may be kept.
        without_layer: of each layer, when it alone is left out; NaN where it cannot be.
        layers: by which layers are kept.
        sizes: by part and its size; of a width with the heads that leave more.
        heads: by width and number of heads.
    """

    uncut: float
    without_layer: Sequence[float]
    layers: Mapping[tuple[int, ...], float]
    sizes: Mapping[str, Mapping[int, float]]
    heads: Mapping[int, Mapping[int, float]]

    def best_heads(self, width: int, choices: Choices) -> int:
        """The number of heads that leaves a model of this width more; of equals the model's own."""
        possible = choices.heads[width]
        return possible[0] if len(possible) == 1 else max(possible, key=self.heads[width].__getitem__)  # fmt: skip

    def predicted(self, shape: Shape) -> float:
        """Of a shape before any training, in percent: shares that single cuts leave multiply; sizes between measured ones are interpolated.

        w = w₀ · Π over parts of w_part / w₀. Training gives much of it back, and not to all shapes alike: it ranks, no more.
        """
        left = self._share(self.layers[shape.layers])
        for part in PARTS:
            measured = self.sizes[part]
            places = sorted(measured)
            shares = [math.log(self._share(measured[place])) for place in places]
            left *= math.exp(float(np.interp(getattr(shape, part), places, shares)))
        return max(self.uncut, _LEAST) * left

    def _share(self, worth: float) -> float:
        return min(1.0, max(worth, _LEAST) / max(self.uncut, _LEAST))

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "uncut": self.uncut,
            "without_layer": [None if math.isnan(worth) else worth for worth in self.without_layer],
            "layers": [{"layers": list(layers), "worth": worth} for layers, worth in self.layers.items()],
            **{part: {str(size): worth for size, worth in worths.items()} for part, worths in self.sizes.items()},
            "heads": {str(width): {str(count): worth for count, worth in worths.items()} for width, worths in self.heads.items()},
        }  # fmt: skip


def measure_parts(
    sizes: ShapeSizes,
    layout: Layout,
    choices: Choices,
    fitting: Fitting,
    trials: Trials,
    watch: ProgressCallback,
) -> PartWorths:
    """Cut every part alone, in a few sizes.

    Args:
        sizes: of the model.
        layout: of its folder.
        choices: what each part may be.
        fitting: which parts are settled.
        trials: that make and judge.
        watch: told (done, total, what).
    """
    most = choices.most
    ranked = fitting.layers is None and len(most.layers) > 1
    cuts = {part: _spread(getattr(choices, f"{part}s" if part != "pieces" else part)) for part in PARTS}  # fmt: skip
    # Where heads may be narrower or fewer, both are tried.
    widths = [width for width in choices.widths if width in cuts["width"] or len(choices.heads[width]) > 1]  # fmt: skip
    pairs = [(width, heads) for width in widths for heads in choices.heads[width] if (width, heads) != (most.width, most.heads)]  # fmt: skip
    total = 1 + (len(most.layers) if ranked else 0) + len(pairs) + sum(len(cuts[part]) - 1 for part in PARTS[1:])  # fmt: skip
    told = _counter(watch, total)

    def worth(what: str, **changes: Any) -> float:
        shape = replace(most, **changes)
        told(what)
        return trials.trial(shape, 0).ranked

    uncut = worth("judging the model uncut")
    without = [
        math.nan
        if layer == 0 and sizes.first_layer_pinned
        else worth(f"judging without layer {layer}", layers=tuple(n for n in most.layers if n != layer))
        for layer in (most.layers if ranked else ())
    ]  # fmt: skip
    by_heads: dict[int, dict[int, float]] = {most.width: {most.heads: uncut}}
    for width, heads in pairs:
        left = worth(
            f"judging width {width:,} in {counted(heads, 'head')}", width=width, heads=heads
        )
        by_heads.setdefault(width, {})[heads] = left
    by_size = {"width": {width: max(worths.values()) for width, worths in by_heads.items()}}
    for part in PARTS[1:]:
        largest, *others = cuts[part]
        by_size[part] = {largest: uncut}
        by_size[part] |= {size: worth(f"judging {part.replace('_', '-')} {size:,}", **{part: size}) for size in others}  # fmt: skip
    losses = [math.inf if math.isnan(left) else uncut - left for left in without]
    layer_sets = [
        layers
        for depth in choices.depths
        for layers in ([choices.layers] if choices.layers else layers_of_depth(sizes, layout, fitting, depth, losses))
    ]  # fmt: skip
    told = _counter(watch, len(layer_sets))
    by_layers = {layers: worth(f"judging {counted(len(layers), 'layer')}", layers=layers) for layers in dict.fromkeys(layer_sets)}  # fmt: skip
    return PartWorths(
        uncut=uncut, without_layer=without, layers=by_layers, sizes=by_size, heads=by_heads
    )


def _spread(values: Sequence[int]) -> list[int]:
    """At most five of them, the first and the last among them."""
    places = np.linspace(0, len(values) - 1, min(len(values), _CUTS + 1)).round().astype(int)
    return [values[place] for place in dict.fromkeys(places.tolist())]


def _counter(watch: ProgressCallback, total: int) -> Callable[[str], None]:
    done = 0

    def told(what: str) -> None:
        nonlocal done
        watch(done, max(total, done), what)
        done += 1

    return told
