"""A forward pass as one launch: recorded as a CUDA graph, and replayed on other tokens of the same shape."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from bistil.encoders.capture import Activations

_LOGGER = logging.getLogger("bistil")
_RUNS_BEFORE = 2  # of a shape, in which libraries choose their kernels and make room for their work
_RECORDINGS = 4  # each keeps the room that its pass works in

Forward = Callable[[Tensor], Activations]


class ReplayedForward:
    """A pass through an encoder without gradients, run as it is or replayed, which may round differently.

    A pass is a thousand small kernels, which a processor can need longer to launch than a GPU to compute. The third batch of a
    shape is recorded as a CUDA graph, which is launched as one from then on. Weights are read where they are, so they may be
    changed in place between passes. What a replay returns is copied, and stays what it is when the next batch is replayed.

    Args:
        forward: from ids [B, S] to what was captured. One that waits for the device cannot be recorded: it is run as it is,
            and a warning says so.
    """

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self._runs: dict[Hashable, int] = {}
        self._recordings: dict[Hashable, Recording] = {}
        self._records = True

    def __call__(self, ids: Tensor) -> Activations:
        """What `forward` captures of ids [B, S]."""
        if not self._records or ids.device.type != "cuda" or torch.is_grad_enabled():
            return self._forward(ids)
        if torch.cuda.is_current_stream_capturing():  # part of a recording of the caller's
            return self._forward(ids)
        autocast = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
        shape = (ids.shape, ids.dtype, ids.device, autocast)
        if shape not in self._recordings:
            self._runs[shape] = self._runs.get(shape, 0) + 1
            if self._runs[shape] <= _RUNS_BEFORE or len(self._recordings) == _RECORDINGS:
                return self._forward(ids)
            try:
                self._recordings[shape] = Recording(self._forward, ids)
            except RuntimeError as error:
                self._records = False
                _LOGGER.warning("The forward pass is launched kernel by kernel, for it cannot be recorded: %s", error)  # fmt: skip
                return self._forward(ids)
        return self._recordings[shape].replay(ids)


class Recording:
    """A CUDA graph of a forward pass, and the tensors that it reads and writes."""

    def __init__(self, forward: Forward, ids: Tensor) -> None:
        self._ids = ids.clone()
        self._graph = torch.cuda.CUDAGraph()
        # Threads that fetch batches use the device meanwhile.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._activations = forward(self._ids)

    def replay(self, ids: Tensor) -> Activations:
        """What the pass captures of ids [B, S]."""
        self._ids.copy_(ids)
        self._graph.replay()
        return self._activations.copied()
