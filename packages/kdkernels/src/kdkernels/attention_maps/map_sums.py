"""What an implementation hands back."""

from typing import NamedTuple

from torch import Tensor


class MapSums(NamedTuple):
    """Sums over the entries of two maps, and their gradient.

    Attributes:
        total: the sum over all entries.
        counted: what its mean runs over; a number where it is known without a look at a device.
        dq: [B, h, S, d], the gradient of the total by q_s, up to the factors that the operator applies; empty if unasked.
        dk: as `dq`, by k_s.
        is_mean: whether total and gradients are of the mean already, all factors applied.
    """

    total: Tensor
    counted: Tensor | int
    dq: Tensor
    dk: Tensor
    is_mean: bool = False
