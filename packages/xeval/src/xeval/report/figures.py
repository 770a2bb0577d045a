"""Numbers as people read them."""

from xeval.statistics.metrics import Metric
from xeval.statistics.summary import Estimate

NOTHING = "–"


def decimals(score: Metric) -> int:
    """One decimal for what goes up to 100, three for rates."""
    return 1 if score.highest == 100 else 3


def metric_title(score: Metric) -> str:
    """The name of a metric, with its unit where that is per cent."""
    return score.title + (", %" if score.unit == "%" else "")


def figure(value: float | None, score: Metric) -> str:
    """A score."""
    return NOTHING if value is None else f"{value:.{decimals(score)}f}"


def interval(estimate: Estimate, score: Metric) -> str:
    """Its 95 % interval, or nothing; from what is below zero by a word, as a dash would stand beside a minus."""
    if estimate.low is None or estimate.high is None:
        return ""
    between = " to " if estimate.low < 0 else "–"
    return f"{figure(estimate.low, score)}{between}{figure(estimate.high, score)}"


def scaled(value: float | None) -> str:
    """A count with its thousands in letters, three digits."""
    if value is None:
        return NOTHING
    value = _of_three_digits(value)
    for size, letter in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def megabytes(value: float | None) -> str:
    """Bytes, in megabytes of 10⁶."""
    return NOTHING if value is None else f"{_of_three_digits(value / 1e6):,g} MB"


def milliseconds(value: float | None) -> str:
    """A time."""
    return NOTHING if value is None else f"{_of_three_digits(value):,g} ms"


def _of_three_digits(value: float) -> float:
    return float(f"{value:.3g}")


def letter(index: int) -> str:
    """A, B, … Z, AA, AB, …: the mark of model number `index`."""
    name = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        name = chr(65 + rest) + name
    return name
