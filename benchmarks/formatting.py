"""How figures, goals and shapes are written, in the page and in the summary."""

from __future__ import annotations

from latest import Comparison, Record, figure

_LARGE = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k"))
_SECONDS = ((1.0, 1.0, "s"), (1e-3, 1e3, "ms"), (0.0, 1e6, "µs"))


def number(value: float) -> str:
    """Three digits, with a letter for what is large."""
    value = float(f"{value:.3g}")
    for size, letter in _LARGE:
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):g} {letter}"
    return f"{value:g}"


def quantity(value: float, unit: str) -> str:
    """A figure with its unit."""
    if unit == "s":
        scale, name = next((by, name) for least, by, name in _SECONDS if value >= least)
        return f"{value * scale:.3g} {name}"
    if unit == "x":
        return f"{value:.3g} ×"
    return f"{number(value)} {unit}".rstrip()


def judged(record: Record) -> str:
    """The figure that a contender is judged by."""
    if record["floor"] not in (None, record["contender"]):
        return f"{figure(record):.3g} ×"
    return quantity(record["median"], record["unit"])


def goal(record: Record) -> str:
    """The bar that a contender is held to; empty where there is none."""
    if record["bar"] is None:
        return ""
    sign = "≥" if record["at_least"] else "≤"
    if record["floor"] is None:
        return f"{sign} {quantity(record['bar'], record['unit'])}"
    return f"{sign} {record['bar']:.3g} × {record['floor']}"


def spread(record: Record) -> str:
    """The 20th to the 80th percentile; empty where there was one repeat."""
    inner = record["ratio"] if record["floor"] not in (None, record["contender"]) else record
    if inner["repeats"] < 2:
        return ""
    if inner is record:
        return (
            f"{quantity(inner['low'], record['unit'])} to {quantity(inner['high'], record['unit'])}"
        )
    return f"{inner['low']:.3g} to {inner['high']:.3g}"


def memory(record: Record) -> str:
    """Peak extra memory; empty where it was not measured."""
    held = record["memory_bytes"]
    return "" if held is None else f"+{held / 2**20:.0f}\N{NO-BREAK SPACE}MiB"


def shape(run: Comparison) -> str:
    """Sizes and options."""
    return ", ".join(f"{name} {_size(value)}" for name, value in run.shape.items())


def _size(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
