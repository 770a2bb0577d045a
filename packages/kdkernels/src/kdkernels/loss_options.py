"""What the loss of a row is, settled once for all implementations."""

from typing import NamedTuple


class LossOptions(NamedTuple):
    """(1-alpha)·hard + alpha·soft: cross-entropy with the label, and T² D(teacher, student) at a temperature T."""

    alpha: float
    temperature: float = 1.0
    divergence: str = "forward_kl"
    beta: float = 0.5
