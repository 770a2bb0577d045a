"""Finds the smallest eight-bit file that stays within a bound: which parts of a graph must keep their precision."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bistil.errors import ExportError
from bistil.export.eight_bits.variants import Variant, layers_of, write_variant
from bistil.export.folder.folder import INT8
from bistil.export.graph.graph import Graph
from bistil.export.graph.large_files import files_of
from bistil.export.judge.drop import Drop, Judge
from bistil.export.judge.graph_reader import Arrays, GraphReader
from bistil.export.judge.text_answers import VECTORS
from teacherzoo.progress import ProgressCallback

WriteVariant = Callable[[Path, Path, Variant], None]
_HALF = "embeddings in half precision"
_ROUNDING = 1e-9  # of points, which are differences of means


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A variant that was judged.

    Attributes:
        variant: its name.
        bytes: of its file, with that of its weights.
        drops: what it loses.
        met: whether all that counts stays within the bound.
    """

    variant: str
    bytes: int
    drops: tuple[Drop, ...]
    met: bool

    @property
    def worst(self) -> Drop:
        """The greatest drop of those that count."""
        return max((drop for drop in self.drops if drop.gated), key=lambda drop: drop.points)


class BoundError(ExportError):
    """A bound that no variant meets.

    Attributes:
        tried: all variants that were judged.
    """

    def __init__(self, message: str, tried: Sequence[Trial]) -> None:
        super().__init__(message)
        self.tried = tuple(tried)


@dataclass(frozen=True, kw_only=True)
class Searched:
    """The variant that was chosen.

    Attributes:
        variant: of the file.
        trial: what it loses.
        file: where it lies.
        tried: all that were judged, in that order.
    """

    variant: Variant
    trial: Trial
    file: Path
    tried: tuple[Trial, ...]


def search(
    graph: Graph,
    float32: Path,
    folder: Path,
    start: Variant,
    judge: Judge,
    *,
    bound: float,
    watch: ProgressCallback,
    write: WriteVariant = write_variant,
    name: str = Path(INT8).name,
    then: Sequence[Variant] = (),
) -> Searched:
    """Judge a target's own variant, and where it loses too much, find the parts that must keep their precision.

    Where that has one scale for a tensor, scales of rows and columns are tried next, and then what else the target names. Then each part of the graph (a group of
    matrix products; the embeddings) is alone given back its precision, and what that
    takes from the error of the outputs on a sample of what is judged is its gain. Of two orders of the parts, by gain and by
    gain per byte, the shortest beginning that meets the bound is found by bisection, each step judged on everything; the
    smaller of both files is taken.

    Args:
        graph: that was exported.
        float32: its file.
        folder: in which variants are written; it is made, and holds the chosen one at the end.
        start: the target's own variant.
        judge: of the drops.
        bound: points that the worst drop may have.
        watch: told (done, total, what).
        write: of a variant; onnxruntime's by default.
        name: of the file that it writes.
        then: what is tried before parts of the graph are looked at.

    Raises:
        BoundError: where no variant meets the bound.
    """
    trials = _Trials(graph, float32, folder, judge, bound, watch, write, name)
    whole = [start, replace(start, per_tensor=False), *then]
    for variant in whole:
        if trials.of(variant).met:
            return trials.chosen(variant)
    changes = Changes(whole[-1], layers_of(float32))
    if not trials.of(changes.made(changes.all)).met:
        raise BoundError(_refusal(graph, trials.done, bound), trials.done)
    gains = trials.gains(changes)
    orders = [
        sorted(changes.all, key=lambda change: -gains[change][0]),
        sorted(changes.all, key=lambda change: -gains[change][0] / gains[change][1]),
    ]
    variants = [_shortest(changes, order, trials) for order in orders]
    return trials.chosen(min(variants, key=lambda variant: trials.of(variant).bytes))


class Changes:
    """What can be given back its precision: each smallest group of matrix products, and the embeddings half of it.

    Args:
        start: the variant that loses too much.
        groups: of `layers_of`, where `layer 3` has `layer 3 attention` in it.

    Attributes:
        all: their names.

    Example:
        >>> changes = Changes(Variant(), ("layer 0", "layer 0 attention", "layer 0 feed-forward", "head"))
        >>> changes.all
        ('layer 0 attention', 'layer 0 feed-forward', 'head', 'embeddings in half precision')
        >>> changes.made(changes.all).float_layers
        ('layer 0', 'head')
    """

    def __init__(self, start: Variant, groups: Sequence[str]) -> None:
        self.start = start
        inner = {group: [name for name in groups if name.startswith(f"{group} ")] for group in groups}  # fmt: skip
        self._inner = {group: names for group, names in inner.items() if names}
        kept = (name for name in groups if name not in self._inner and name not in start.float_layers)  # fmt: skip
        self.all = (*kept, *([_HALF] if start.embeddings == "int8" else []))

    def made(self, changes: Sequence[str]) -> Variant:
        """The variant with some of them; groups that make up a larger one go by its name."""
        layers = [change for change in changes if change != _HALF]
        for group, names in self._inner.items():
            if set(names) <= set(layers):
                layers = [group, *(name for name in layers if name not in names)]
        embeddings = "float16" if _HALF in changes else self.start.embeddings
        return replace(self.start, embeddings=embeddings, float_layers=(*self.start.float_layers, *sorted(layers, key=_place)))  # fmt: skip


def _place(group: str) -> tuple[int, str]:
    """By the layer's number, what has none behind."""
    number = next((int(word) for word in group.split() if word.isdecimal()), 10**6)
    return number, group


class _Trials:
    """Variants as they are written and judged, each once."""

    def __init__(
        self,
        graph: Graph,
        float32: Path,
        folder: Path,
        judge: Judge,
        bound: float,
        watch: ProgressCallback,
        write: WriteVariant,
        name: str,
    ) -> None:
        self._write_variant, self._name = write, name
        self._graph, self._float32, self._folder = graph, float32, folder
        self._judge, self._bound, self._watch = judge, bound, watch
        self._by_variant: dict[Variant, tuple[Trial, Path]] = {}

    @property
    def done(self) -> list[Trial]:
        return [trial for trial, _ in self._by_variant.values()]

    def of(self, variant: Variant) -> Trial:
        if variant not in self._by_variant:
            file = self._write(variant)
            drops = self._judge(file)
            met = all(drop.points <= self._bound + _ROUNDING for drop in drops if drop.gated)
            trial = Trial(variant=variant.name, bytes=bytes_of(file), drops=drops, met=met)
            if not trial.met:
                shutil.rmtree(file.parent)
            self._by_variant[variant] = trial, file
            self._watch(0, 0, f"tried {variant.name}: {described(trial, self._bound)}")
        return self._by_variant[variant][0]

    def chosen(self, variant: Variant) -> Searched:
        trial, file = self._by_variant[variant]
        return Searched(variant=variant, trial=trial, file=file, tried=tuple(self.done))

    def gains(self, changes: Changes) -> dict[str, tuple[float, int]]:
        """What each change alone takes from the error of the outputs, and the bytes that it adds."""
        reader = GraphReader(self._graph, self._float32)
        expected = [reader.run(columns) for columns in self._judge.sample]
        error, size = self._error(changes.start, expected)
        gains = {}
        for number, change in enumerate(changes.all):
            self._watch(number, len(changes.all), "finding what must keep its precision")
            changed, larger = self._error(changes.made([change]), expected)
            gains[change] = error - changed, max(1, larger - size)
        return gains

    def _error(self, variant: Variant, expected: Sequence[Arrays]) -> tuple[float, int]:
        file = self._write(variant)
        reader = GraphReader(self._graph, file)
        errors = [
            relative_error(self._graph, columns, outputs, reader.run(columns))
            for columns, outputs in zip(self._judge.sample, expected, strict=True)
        ]
        size = bytes_of(file)
        shutil.rmtree(file.parent)
        return float(np.mean(errors)), size

    def _write(self, variant: Variant) -> Path:
        self._folder.mkdir(exist_ok=True)
        file = Path(tempfile.mkdtemp(dir=self._folder)) / self._name
        self._write_variant(self._float32, file, variant)
        return file


def _shortest(changes: Changes, order: Sequence[str], trials: _Trials) -> Variant:
    """The variant by the shortest beginning of the changes that meets the bound, of which all do and none does not."""
    too_few, enough = 0, len(order)
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if trials.of(changes.made(order[:middle])).met:
            enough = middle
        else:
            too_few = middle
    return changes.made(order[:enough])


def relative_error(graph: Graph, columns: Arrays, expected: Arrays, given: Arrays) -> float:
    """Of a graph's outputs for one batch the mean of ‖given - expected‖ / ‖expected‖, padding and infinities left out.

    Args:
        graph: whose outputs they are; of a sentence encoder its vectors alone count.
        columns: that were fed.
        expected: of the float32 graph.
        given: of another one.
    """
    real = columns["attention_mask"].astype(bool)
    errors = []
    for name in (VECTORS,) if VECTORS in expected else expected:
        by_token = graph.outputs[name][1:2] == ("sequence",)
        exact, quantized = (
            outputs[name][real] if by_token else outputs[name] for outputs in (expected, given)
        )
        finite = np.isfinite(exact) & np.isfinite(quantized)
        length = float(np.linalg.norm(exact[finite])) or 1.0
        errors.append(float(np.linalg.norm(quantized[finite] - exact[finite])) / length)
    return float(np.mean(errors))


def bytes_of(file: Path) -> int:
    """Of a graph with the file of its weights, where it has one."""
    return sum(part.stat().st_size for part in files_of(file))


def described(trial: Trial, bound: float) -> str:
    """A trial's size and worst drop in words."""
    worst = trial.worst
    verdict = "within" if trial.met else "beyond"
    return (
        f"{trial.bytes / 2**20:,.1f} MiB, loses {worst.points:.2g} points in {worst.place} ({worst.measure}, n = {worst.n}), "
        f"{verdict} the bound of {bound:g}"
    )


def _refusal(graph: Graph, tried: Sequence[Trial], bound: float) -> str:
    nearest = min(tried, key=lambda trial: trial.worst.points)
    worst = nearest.worst
    return (
        f"{graph.folder}: no eight-bit file stays within {bound:g} points of float32: the nearest, {nearest.variant}, loses {worst.points:.2g} in "
        f"{worst.place} ({worst.measure}, n = {worst.n}); raise --bound, or serve the model in float32. Nothing was written."
    )
