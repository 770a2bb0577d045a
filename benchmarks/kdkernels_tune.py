"""Which block sizes do the Triton kernels over a vocabulary like on this GPU?

Measures the candidates and prints the device's rows for `tuning.json`; `--write` puts them there, `--blocks FILE` into a file
of their own. Needs a CUDA device.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
from record import Recorder, parser, spread

from kdkernels import tuning
from kdkernels.loss_options import LossOptions
from kdkernels.products import padded_rows
from kdkernels.targets import Targets

N, H, V = 2048, 768, 250_002
ROWS_OPTIONS = [
    {"BLOCK_V": block, "num_warps": warps, "STAGES": stages}
    for block, warps, stages in ((8192, 16, 3), (4096, 8, 3), (16384, 32, 1))
]
OPTIONS = {
    "row_losses": ROWS_OPTIONS,
    "divergences": ROWS_OPTIONS,
    "projection": [
        {"ROWS": 128, "COLUMNS": columns, "WIDTH": 64, "num_warps": 8, "num_stages": stages}
        for columns, stages in ((256, 3), (128, 4))
    ],
}


class Inputs(NamedTuple):
    """As the linear losses have them."""

    hidden: torch.Tensor  # [N, H]
    weight: torch.Tensor  # [V, H]
    rows: torch.Tensor  # [N, P]
    teacher: torch.Tensor  # [N, P]
    targets: Targets


def make_inputs() -> Inputs:
    device = torch.device("cuda")
    rows, teacher = (padded_rows(N, V, torch.float16, device).normal_() for _ in range(2))
    mass, ids = torch.log_softmax(teacher[:, :V].float(), 1).topk(8)
    hidden, weight = (
        torch.randn(size, H, device=device, dtype=torch.bfloat16) / H**0.25 for size in (N, V)
    )
    return Inputs(
        hidden, weight, rows, teacher, Targets(ids, mass, torch.log1p(-mass.exp().sum(1)))
    )


def launch(kernel: str, inputs: Inputs, options: dict[str, int]) -> None:
    """One launch with given options, over rows that it overwrites with what it takes for gradients."""
    from kdkernels.kl import kernel as dense
    from kdkernels.projection_kernel import project
    from kdkernels.topk_kl import kernel as sparse

    row_scale, losses = torch.ones(N, device="cuda"), torch.empty(2, N, device="cuda")
    gradient = inputs.rows.view(torch.bfloat16)
    with mock.patch.object(tuning, "_table", return_value={kernel: {"default": options}}):
        if kernel == "projection":
            project(
                inputs.hidden, inputs.weight, None, losses[0].zero_(), gradient, exponentials=True
            )
        elif kernel == "divergences":
            dense.launch(
                inputs.rows, inputs.teacher, losses[0], row_scale=row_scale, columns=V, scale=1.0, temperature=1.0,
                divergence="forward_kl", beta=0.5, gradient=gradient,
            )  # fmt: skip
        else:
            sparse.launch(
                inputs.rows, *losses, inputs.targets.ids[:, 0], inputs.targets, row_scale, LossOptions(alpha=0.5),
                columns=V, scale=1.0, gradient=gradient,
            )  # fmt: skip


def fits(run: Callable[[], None]) -> bool:
    """Whether the device has what a candidate needs; it is compiled on the way."""
    from triton.runtime.errors import OutOfResources

    try:
        run()
    except OutOfResources:
        return False
    return True


def race(runs: dict[str, Callable[[], None]], *, repeats: int) -> dict[str, list[float]]:
    """Seconds of the device alone, with a cold cache."""
    from triton.testing import do_bench

    milliseconds = repeats * 5  # about what a launch takes
    return {
        name: [ms / 1000 for ms in do_bench(run, warmup=5, rep=milliseconds, return_mode="all")]
        for name, run in runs.items()
    }


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--write", action="store_true", help="put the rows into tuning.json")
    arguments.add_argument("--blocks", type=Path, help="write the rows to this JSON file")
    options = arguments.parse_args()
    if not torch.cuda.is_available():
        print("kdkernels_tune: there is no CUDA device, so there is nothing to tune")
        return
    recorder = Recorder("kdkernels_tune", options)
    inputs = make_inputs()
    device = torch.cuda.get_device_name()
    best = {}
    for kernel, candidates in OPTIONS.items():
        chosen = {
            ", ".join(f"{key} {value}" for key, value in candidate.items()): candidate
            for candidate in candidates
        }
        runs = {
            name: functools.partial(launch, kernel, inputs, candidate)
            for name, candidate in chosen.items()
        }
        times = race({name: run for name, run in runs.items() if fits(run)}, repeats=15)
        recorder.add(kernel, times, unit="s", shape={"N": N, "V": V})
        medians = {name: spread(samples).median for name, samples in times.items()}
        best[kernel] = {device: chosen[min(medians, key=medians.__getitem__)]}
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
