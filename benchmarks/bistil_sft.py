"""Choosing what a sparse fine-tuning keeps, at the size of XLM-R base: time, memory beyond the weights, exactness; and its file.

Weights are random; 4.3 % of 278 million entries are chosen, composable-sft's share for languages, and 8 %, its share for
tasks. Beside the time stands a bare pass over both sets of weights, |θ - θ0| and its maximum. Exactness: no entry that was
left out moved more than the smallest chosen, which with the count proves the choice.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from record import Recorder, extra_memory, parser, race

from bistil.lottery.select import Selection, select
from bistil.sparse.apply import difference
from bistil.sparse.difference import SparseFineTuning
from bistil.sparse.files import read_sparse, write_sparse


def shapes(layers: int, width: int, pieces: int) -> dict[str, tuple[int, ...]]:
    """The tensors of an encoder of BERT's kind, those of its norms left out."""
    shapes: dict[str, tuple[int, ...]] = {"words": (pieces, width), "positions": (514, width)}
    for layer in range(layers):
        for name in ("query", "key", "value", "output"):
            shapes |= {f"{layer}.{name}": (width, width), f"{layer}.{name}.bias": (width,)}
        shapes |= {
            f"{layer}.up": (4 * width, width), f"{layer}.up.bias": (4 * width,),
            f"{layer}.down": (width, 4 * width), f"{layer}.down.bias": (width,),
        }  # fmt: skip
    return shapes


def moved(sizes: dict[str, tuple[int, ...]]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:  # fmt: skip
    """Weights before and after; embeddings of rare pieces hardly move."""
    torch.manual_seed(0)
    before = {name: torch.randn(shape) * 0.02 for name, shape in sizes.items()}
    after = {}
    for name, tensor in before.items():
        after[name] = torch.randn(tensor.shape).mul_(1e-4)
        if name == "words":
            after[name] *= torch.rand(len(tensor), 1) ** 4
        after[name] += tensor
    return before, after


def bare_pass(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> float:
    largest = 0.0
    for name, tensor in before.items():
        for a, b in zip(tensor.view(-1).split(1 << 20), after[name].view(-1).split(1 << 20), strict=True):  # fmt: skip
            largest = max(largest, float((b - a).abs_().max()))
    return largest


def give_back_free_memory() -> None:
    """What was freed before counts as new when it is used again; without this it would hide what is needed."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def exact(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], chosen: Selection, count: int) -> bool:  # fmt: skip
    left_out, kept = 0.0, float("inf")
    for name, tensor in before.items():
        distance = (after[name] - tensor).abs_().view(-1)
        places = torch.from_numpy(chosen.places(name))
        kept = min(kept, float(distance[places].min()) if len(places) else kept)
        distance[places] = -1.0
        left_out = max(left_out, float(distance.max()))
    return chosen.count == count and left_out <= kept == chosen.threshold


def main() -> None:
    options = parser(__doc__.splitlines()[0]).parse_args()
    layers, width, pieces = (4, 256, 30_000) if options.quick else (12, 768, 250_002)
    before, after = moved(shapes(layers, width, pieces))
    total = sum(tensor.numel() for tensor in before.values())
    weight_bytes = 4 * total
    recorder = Recorder("bistil_sft", options)
    shape = {"parameters": total, "layers": layers, "width": width, "pieces": pieces}
    for density in (0.043, 0.08):
        count = round(density * total)
        chosen: list[Selection] = []

        def choose(count: int = count, chosen: list[Selection] = chosen) -> None:
            chosen[:] = [select(before, after, count=count)]

        give_back_free_memory()
        memory = extra_memory(choose)
        times = race(
            {"select": choose, "bare pass": lambda: bare_pass(before, after)}, repeats=3, warmup=0
        )
        if not exact(before, after, chosen[0], count):
            sys.exit("the choice is not exact")
        here = {**shape, "density": density}
        recorder.add("choosing entries", times, unit="s", bar={"select": 10}, memory={"select": memory}, shape=here)  # fmt: skip
        recorder.add(
            "memory beyond θ and θ0, as a share of θ", {"select": [memory / weight_bytes]}, unit="", bar={"select": 0.1},
            shape=here,
        )  # fmt: skip
        record_file(recorder, before, after, chosen[0], here)
    recorder.close()


def record_file(
    recorder: Recorder,
    before: dict[str, torch.Tensor],
    after: dict[str, torch.Tensor],
    chosen: Selection,
    shape: dict[str, object],
) -> None:
    """Bytes of the file for each entry, and the time to write and read it."""
    body = difference(before, after, {name: chosen.places(name) for name in before})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.safetensors"
        started = time.perf_counter()
        write_sparse(SparseFineTuning(body=body), file, values=torch.bfloat16)
        written = time.perf_counter()
        again = read_sparse(file)
        read = time.perf_counter()
        if any(not np.array_equal(again.body[name].indices, chosen.indices) for name, chosen in body.items()):  # fmt: skip
            sys.exit("the file does not give back what was written")
        size = file.stat().st_size / chosen.count
    recorder.add("bytes for each entry, bfloat16", {"file": [size]}, unit="B", bar={"file": 5}, shape=shape)  # fmt: skip
    recorder.add("the file", {"write": [written - started], "read": [read - written]}, unit="s", shape=shape)  # fmt: skip


if __name__ == "__main__":
    main()
