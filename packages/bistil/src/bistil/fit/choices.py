"""What each part of a student may be: which layers, how wide, how many heads, feed-forward units and pieces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bistil.encoders.model_folder import require_narrowable_modules
from bistil.encoders.widths import require_narrowable
from bistil.errors import BistilError, FitError
from bistil.extract.config import strategy_for
from bistil.fit.config import Fitting
from bistil.student.layers import choose_layers
from bistil.student.shape import Shape, ShapeSizes
from teacherzoo.encoders.layers import spread_layers
from vocabmerge import Layout

_WIDTHS = (8, 7, 6, 5, 4, 3, 2)  # eighths
_INNER = range(16, 0, -1)  # sixteenths
_PIECES = (100, 90, 80, 70, 60, 50, 40, 30, 20)  # hundredths of those that the text needs
_MULTIPLE = 64
_ALL_DEPTHS = 6
MILLISECONDS = "ms a text"


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What each part may be, the most first; layers are chosen later, by their worth.

    Attributes:
        depths: numbers of layers.
        layers: the one choice of them, where it is settled.
        widths: of hidden states.
        heads: of each width the numbers of heads there may be: as many as the model has, which are narrower, or as many as stay
            as wide.
        feed_forwards: units of feed-forward layers.
        pieces: of the vocabulary.
        why_one_width: why it cannot be another; empty where it can, or was settled.
    """

    depths: tuple[int, ...]
    layers: tuple[int, ...] | None
    widths: tuple[int, ...]
    heads: Mapping[int, tuple[int, ...]]
    feed_forwards: tuple[int, ...]
    pieces: tuple[int, ...]
    why_one_width: str

    @property
    def most(self) -> Shape:
        """Everything that may be kept."""
        layers = self.layers or tuple(range(self.depths[0]))
        return self._shape(layers, 0)

    @property
    def least(self) -> Shape:
        """The smallest that may be made."""
        layers = self.layers or tuple(range(self.depths[-1]))
        return self._shape(layers, -1)

    def _shape(self, layers: tuple[int, ...], place: int) -> Shape:
        width = self.widths[place]
        return Shape(layers=layers, width=width, heads=self.heads[width][0], feed_forward=self.feed_forwards[place], pieces=self.pieces[place])  # fmt: skip


def choices_of(
    sizes: ShapeSizes, layout: Layout, fitting: Fitting, *, needed: int, always: int
) -> Choices:
    """The choices there are for a model.

    Args:
        sizes: of it.
        layout: of its folder.
        fitting: which parts are settled.
        needed: pieces that the languages' text uses, with those that always stay.
        always: pieces that always stay.

    Raises:
        FitError: for a part that was settled at what it cannot be.
    """
    whole = sizes.shape
    depth = len(whole.layers)
    layers = None if fitting.layers is None or isinstance(fitting.layers, str) else fitting.layers
    if layers is not None:
        choose_layers(sizes.shell, layers=layers)
    depths = tuple(n for n in range(depth, 0, -1) if depth <= _ALL_DEPTHS or n <= _ALL_DEPTHS or n % 2 == 0)  # fmt: skip
    widths, why = _widths(sizes, layout, fitting)
    inner = 8 if whole.feed_forward >= 128 else 1
    feed_forwards = _shares(whole.feed_forward, [n / 16 for n in _INNER], inner)
    if fitting.feed_forward is not None:
        require_narrowable(sizes.shell, width=None, feed_forward=fitting.feed_forward)
        feed_forwards = (fitting.feed_forward,)
    multiple = _MULTIPLE if needed > 20 * _MULTIPLE else 1
    pieces = _shares(needed, [n / 100 for n in _PIECES], multiple)
    pieces = tuple(dict.fromkeys([needed, *(n for n in pieces if always <= n < needed)]))
    if fitting.pieces is not None:
        if fitting.pieces > whole.pieces:
            raise FitError(
                f"pieces must be at most the model's {whole.pieces:,}, got {fitting.pieces:,}."
            )
        if fitting.pieces < always:
            raise FitError(
                f"pieces must be at least {always:,}, which always stay (special tokens, single characters), got {fitting.pieces:,}."
            )
        pieces = (fitting.pieces,)
    return Choices(
        depths=depths if layers is None else (len(layers),),
        layers=layers,
        widths=widths,
        heads={width: _heads(whole, width) for width in widths},
        feed_forwards=feed_forwards,
        pieces=pieces,
        why_one_width=why,
    )


def layers_of_depth(
    sizes: ShapeSizes, layout: Layout, fitting: Fitting, count: int, losses: Sequence[float]
) -> list[tuple[int, ...]]:
    """Which layers a student of so many may have: the usual ones for its kind, and those whose loss costs most.

    Args:
        sizes: of the model.
        layout: of its folder.
        fitting: a strategy, where only that is wanted.
        count: how many.
        losses: of each layer, what is lost when it alone is left out; empty where they were not measured.
    """
    depth = len(sizes.shape.layers)
    strategy = fitting.layers if isinstance(fitting.layers, str) else strategy_for(layout.kind)
    usual = spread_layers(depth, count, strategy)  # type: ignore[arg-type]  # checked before
    chosen = [(0, *usual[1:]) if sizes.first_layer_pinned else usual]
    if losses:
        ranked = sorted(range(depth), key=lambda layer: (-losses[layer], layer))
        chosen.append(tuple(sorted(ranked[:count])))
    return list(dict.fromkeys(chosen))


def require_affordable(sizes: ShapeSizes, choices: Choices, *, cost: float, limit: float, unit: str) -> None:  # fmt: skip
    """Refuse a budget that the smallest of all shapes exceeds.

    Args:
        sizes: of the model.
        choices: what each part may be.
        cost: of the smallest shape.
        limit: of the budget.
        unit: of both, in words.

    Raises:
        FitError: naming what the smallest costs, and what it is.
    """
    if cost <= limit:
        return
    least = choices.least
    embeddings = sizes.parameters(least).embeddings
    advice = (
        "allow more."
        if unit == MILLISECONDS  # which pieces do not take
        else f"{embeddings:,} of its {sizes.total(least):,} parameters are embeddings; allow more, or take fewer languages."
    )
    raise FitError(
        f"The budget of {_in_figures(limit)} {unit} is below the smallest that can be made, which costs {_in_figures(cost)} {unit}: {least}; {advice}"
    )


def _widths(sizes: ShapeSizes, layout: Layout, fitting: Fitting) -> tuple[tuple[int, ...], str]:
    whole, heads = sizes.shape.width, sizes.shape.heads
    if fitting.width is not None:
        require_narrowable_modules(layout, None if fitting.width == whole else fitting.width)
        possible = _heads(sizes.shape, fitting.width)
        require_narrowable(sizes.shell, width=fitting.width, feed_forward=None, heads=possible[0] if possible else None)  # fmt: skip
        return (fitting.width,), ""
    widths = _shares(whole, [n / 8 for n in _WIDTHS], heads)
    if len(widths) == 1:
        return widths, ""
    try:
        require_narrowable_modules(layout, widths[-1])
        require_narrowable(sizes.shell, width=widths[-1], feed_forward=None)
    except BistilError as error:
        return (whole,), str(error)
    return widths, ""


def _heads(whole: Shape, width: int) -> tuple[int, ...]:
    """As many as the model has, narrower; then as many as stay as wide: each where the width can be cut so."""
    fewer, rest = divmod(width, whole.width // whole.heads)
    every = [whole.heads] if width % whole.heads == 0 else []
    return tuple(dict.fromkeys([*every, *([fewer] if rest == 0 else [])]))


def _shares(whole: int, shares: Sequence[float], multiple: int) -> tuple[int, ...]:
    """Of a number, descending; all but the whole are multiples."""
    rounded = (max(multiple, round(whole * share / multiple) * multiple) for share in shares)
    return tuple(dict.fromkeys([whole, *(number for number in rounded if number < whole)]))


def _in_figures(cost: float) -> str:
    return f"{cost:,.0f}" if cost >= 100 else f"{cost:.3g}"
