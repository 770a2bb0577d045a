"""Which block sizes do the Triton kernels over a vocabulary like on this GPU?

Measures the candidates and prints the device's rows for `tuning.json`; `--write` puts them there, `--blocks FILE` into a file
of their own. Needs a CUDA device.
"""

from __future__ import annotations

import functools
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from record import Recorder, parser, race, spread

from kdkernels import tuning
from kdkernels.loss_options import LossOptions
from kdkernels.products import empty_rows
from kdkernels.targets import Targets

BLOCKS = (4096, 8192, 16384, 32768)
WARPS = (8, 16, 32)
KERNELS = ("row_losses", "divergences")
N, V = 2048, 250_002


def launch(
    kernel: str,
    rows: torch.Tensor,
    teacher: torch.Tensor,
    targets: Targets,
    options: dict[str, int],
) -> None:
    """One launch with given options and nothing beside it, over rows that it overwrites with what it takes for gradients."""
    from kdkernels.kl import kernel as dense
    from kdkernels.topk_kl import kernel as sparse

    row_scale = torch.ones(len(rows), device=rows.device)
    table = {kernel: {"default": options}}
    with mock.patch.object(tuning, "_table", return_value=table):
        if kernel == "divergences":
            dense.row_losses(
                rows, teacher, row_scale=row_scale, temperature=1.0, divergence="forward_kl",
                beta=0.5, gradient=rows,
            )  # fmt: skip
        else:
            sparse.row_losses(
                rows, labels=targets.ids[:, 0], targets=targets, row_scale=row_scale,
                options=LossOptions(alpha=0.5), gradient=rows,
            )  # fmt: skip


def fits(run: Callable[[], None]) -> bool:
    """Whether the device has what a candidate needs; it is compiled on the way."""
    from triton.runtime.errors import OutOfResources

    try:
        run()
    except OutOfResources:
        return False
    return True


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--write", action="store_true", help="put the rows into tuning.json")
    arguments.add_argument("--blocks", type=Path, help="write the rows to this JSON file")
    options = arguments.parse_args()
    if not torch.cuda.is_available():
        print("kdkernels_tune: there is no CUDA device, so there is nothing to tune")
        return
    recorder = Recorder("kdkernels_tune", options)
    # As the linear losses lay their logits out.
    rows, teacher = (
        empty_rows(N, V, torch.bfloat16, torch.device("cuda")).normal_() for _ in range(2)
    )
    mass, ids = torch.log_softmax(teacher.float(), 1).topk(8)
    targets = Targets(ids, mass, torch.log1p(-mass.exp().sum(1)))
    device = torch.cuda.get_device_name()
    best = {}
    for kernel in KERNELS:
        candidates = {
            f"{block} columns, {warps} warps": {"BLOCK_V": block, "num_warps": warps}
            for block, warps in itertools.product(BLOCKS, WARPS)
            if 8
            <= block // (32 * warps)
            <= 64  # columns of a thread: fewer leave loads small, more spill
        }
        runs = {
            name: functools.partial(launch, kernel, rows, teacher, targets, candidate)
            for name, candidate in candidates.items()
        }
        runs = {name: run for name, run in runs.items() if fits(run)}
        times = race(runs, repeats=5)
        recorder.add(kernel, times, unit="s", shape={"N": N, "V": V})
        medians = {name: spread(samples).median for name, samples in times.items()}
        best[kernel] = {device: candidates[min(medians, key=medians.__getitem__)]}
        if options.blocks:
            options.blocks.write_text(json.dumps(best, indent=2) + "\n", encoding="utf-8")
    recorder.close()
    print(json.dumps(best, indent=2))
    if options.write:
        write(best)


def write(best: dict[str, dict[str, dict[str, int]]]) -> None:
    """Put the device's rows into the committed table."""
    path = Path(tuning.__file__).with_name("tuning.json")
    table = json.loads(path.read_text(encoding="utf-8"))
    for kernel, rows in best.items():
        table[kernel] |= rows
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(table, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
