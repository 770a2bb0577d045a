"""A difference between two models that is zero in most entries, and the sparse fine-tuning made of such."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bistil.encoders.body import digest_of_all


@dataclass(frozen=True, kw_only=True, eq=False)
class SparseTensor:
    """What is added to some entries of one tensor, or to all of them.

    Args:
        shape: of the tensor.
        indices: int64 [K], ascending places in the flattened tensor; None for all places.
        values: [K], added there.
    """

    shape: tuple[int, ...]
    indices: NDArray[np.int64] | None
    values: Tensor
    _moved: dict[torch.device, tuple[Tensor | None, Tensor]] = field(default_factory=dict, init=False, repr=False)  # fmt: skip

    @property
    def size(self) -> int:
        """Entries of the tensor."""
        return int(np.prod(self.shape))

    def dense(self) -> Tensor:
        """The whole difference, float32."""
        if self.indices is None:
            return self.values.float().view(self.shape)
        made = torch.zeros(self.size)
        made[torch.from_numpy(self.indices)] = self.values.float()
        return made.view(self.shape)

    def on(self, device: torch.device) -> tuple[Tensor | None, Tensor]:
        """Places, None for all, and values where a model is; what was moved to an accelerator stays there for the next time."""
        if device not in self._moved:
            places = None if self.indices is None else torch.from_numpy(self.indices).to(device)
            moved = places, self.values.to(device)
            if device.type == "cpu":  # views, which cost nothing to make
                return moved
            self._moved[device] = moved
        return self._moved[device]


@dataclass(frozen=True, kw_only=True, eq=False)
class SparseFineTuning:
    """Differences to a base model, and a head.

    Args:
        body: name in the body to difference; what is absent is not changed.
        base: name in the body to `tensor_digest` of the base model's tensor; empty where the base is not known.
        head: dense tensors of a task's head, as they are, not as differences.
        about: what it is for: kind, language or task, labels, settings; plain values.
        name: of the file, for messages.
    """

    body: Mapping[str, SparseTensor]
    base: Mapping[str, str] = field(default_factory=dict)
    head: Mapping[str, Tensor] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    name: str = "sparse fine-tuning"

    @property
    def count(self) -> int:
        """Entries that are changed."""
        return sum(len(tensor.values) for tensor in self.body.values())

    @property
    def base_digest(self) -> str:
        """One digest of the base model's body."""
        return digest_of_all(self.base)

    def rounded(self, dtype: torch.dtype) -> SparseFineTuning:
        """The same with values as a file of that number format holds them."""
        return replace(
            self,
            body={
                name: replace(tensor, values=tensor.values.to(dtype))
                for name, tensor in self.body.items()
            },
        )
