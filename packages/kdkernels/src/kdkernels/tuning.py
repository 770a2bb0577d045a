"""Block sizes of the Triton kernels: a small committed table, chosen by measurement where there was a device.

`benchmarks/kdkernels_tune.py` measures the candidates on a device and writes its rows.
"""

import functools
import json
from importlib import resources

import torch

# Major compute capabilities of which a block has 227 KiB of shared memory; others, 12.0 among them, have 99 or a little more.
LARGE_SHARED_MEMORY = (9, 10)


def launch_options(
    kernel: str, device: torch.device, *, columns: int, itemsize: int = 2
) -> dict[str, int]:
    """Block size and warps for one launch.

    Args:
        kernel: a key of the table.
        device: whose name is looked up; unknown devices and the interpreter take the row "default".
        columns: length of the rows, which bounds the block.
        itemsize: bytes of an element; the table's blocks are for 2, and of the same bytes for more.

    Returns:
        What to pass to the kernel.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "default"
    options = _table()[kernel]
    chosen = dict(options.get(name, options["default"]))
    if "BLOCK_V" in chosen:
        chosen["BLOCK_V"] = chosen["BLOCK_V"] * 2 // itemsize
    for name in ("BLOCK_V", "COLUMNS"):
        if name in chosen:
            chosen[name] = min(chosen[name], max(16, 1 << (columns - 1).bit_length()))
    return chosen


@functools.cache
def _table() -> dict[str, dict[str, dict[str, int]]]:
    table: dict[str, dict[str, dict[str, int]]] = json.loads(
        resources.files("kdkernels").joinpath("tuning.json").read_text(encoding="utf-8")
    )
    return table
