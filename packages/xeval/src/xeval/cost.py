"""What a model costs: parameters, bytes, operations, time."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xeval.errors import XevalError
from xeval.flops import count_flops
from xeval.parameters import Parameters, bytes_on_disk, parameters_of

if TYPE_CHECKING:
    from torch import nn

Watch = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The price of one model, under stated conditions.

    Args:
        model: the folder.
        parameters: and where they are.
        bytes: of the weights on disk.
        flops: operations of the encoder for one example of `length`; a multiply-add is two.
        latency_ms: median time of one forward pass of the encoder over `batch` examples.
        latency_low_ms: 20th percentile.
        latency_high_ms: 80th percentile.
        repeats: passes timed.
        threads: of torch.
        batch: examples per pass.
        length: sub-words per example, special ones included; no padding.
        device: where it ran, with its name.
        dtype: of the weights while running.
    """

    model: str
    parameters: Parameters
    bytes: int
    flops: int
    latency_ms: float
    latency_low_ms: float
    latency_high_ms: float
    repeats: int
    threads: int
    batch: int
    length: int
    device: str
    dtype: str

    @property
    def throughput(self) -> float:
        """Examples per second at this batch size."""
        return 1000 * self.batch / self.latency_ms

    def columns(self) -> dict[str, Any]:
        """The cost columns of a `Result`."""
        return {
            "parameters": self.parameters.total,
            "embedding_parameters": self.parameters.embeddings,
            "bytes": self.bytes,
            "flops": self.flops,
            "latency_ms": self.latency_ms,
            "throughput": self.throughput,
            "threads": self.threads,
            "batch": self.batch,
            "length": self.length,
            "device": self.device,
            "dtype": self.dtype,
        }


def cost(
    model: str | Path,
    *,
    threads: int | None = None,
    batch: int = 1,
    length: int = 128,
    device: str = "cpu",
    dtype: str = "float32",
    repeats: int = 20,
    watch: Watch | None = None,
) -> Cost:
    """Measure a model folder.

    Parameters are those of the class that the folder names. Operations and time are those of the encoder alone,
    without pooler or head, as the judge runs it: heads differ by task and are small beside it, but for the
    language-model head, which no task runs.

    Args:
        model: a model folder.
        threads: of torch; its own choice by default.
        batch: examples per pass.
        length: sub-words per example.
        device: "cpu" or "cuda".
        dtype: "float32", "bfloat16" or "float16".
        repeats: timed passes.
        watch: told passes done.

    Raises:
        XevalError: for a folder that is no model, or a length beyond the model's limit.
    """
    import torch

    from xeval.encoder import longest_row, open_encoder

    if min(batch, length, repeats, threads or 1) < 1:
        raise XevalError(
            f"batch, length, repeats and threads must be at least 1, got {batch}, {length}, {repeats}, {threads}"
        )
    if dtype not in ("float32", "bfloat16", "float16"):
        raise XevalError(f"dtype must be float32, bfloat16 or float16, got {dtype!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise XevalError("device 'cuda': torch sees no such device here; use --device cpu")
    folder = Path(model)
    found, size = parameters_of(folder), bytes_on_disk(folder)
    encoder = open_encoder(str(folder)).to(device=device, dtype=getattr(torch, dtype)).eval()
    if length > longest_row(encoder):
        raise XevalError(
            f"{folder}: length {length} is beyond the model's limit of {longest_row(encoder)}; choose a smaller --length"
        )
    with _threads(threads):
        times = _time_passes(encoder, batch=batch, length=length, repeats=repeats, watch=watch)
        used = torch.get_num_threads()
    ordered = sorted(times)
    return Cost(
        model=str(model),
        parameters=found,
        bytes=size,
        flops=count_flops(encoder, length=length),
        latency_ms=1000 * statistics.median(ordered),
        latency_low_ms=1000 * ordered[round(0.2 * (repeats - 1))],
        latency_high_ms=1000 * ordered[round(0.8 * (repeats - 1))],
        repeats=repeats,
        threads=used,
        batch=batch,
        length=length,
        device=_device_name(device),
        dtype=dtype,
    )


def _time_passes(
    encoder: nn.Module, *, batch: int, length: int, repeats: int, watch: Watch | None
) -> list[float]:
    """Seconds of each pass, after two that are not counted."""
    import torch

    owner: Any = encoder
    device = next(encoder.parameters()).device
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(
        owner.get_input_embeddings().num_embeddings, (batch, length), generator=generator
    ).to(device)
    mask = torch.ones_like(ids)
    times = []
    with torch.inference_mode():
        for turn in range(-2, repeats):
            start = time.perf_counter()
            encoder(input_ids=ids, attention_mask=mask)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn >= 0:
                times.append(time.perf_counter() - start)
                if watch is not None:
                    watch(turn + 1, repeats, "timing")
    return times


@contextlib.contextmanager
def _threads(wanted: int | None) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(wanted or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _device_name(device: str) -> str:
    """The kind of device, and in brackets its own name."""
    import platform

    import torch

    if device == "cuda":
        return f"cuda ({torch.cuda.get_device_name()})"
    name = platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"cpu ({name})"
