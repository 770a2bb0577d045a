"""What does the size of the logits buffer cost, at the shapes of XLM-R (V=250,002, H=768)?

N=1229 is 15 % of 8192, the masked rows of a batch. Contenders: linear_distil_loss in bfloat16 by byte budget, and by
the number of rows that the usual rule next_pow2(N / ceil(V / H)) gives, which suits decoders (V/H about 31) but leaves
encoders a few rows a chunk; the floor is the default budget.
"""

from __future__ import annotations

import functools
import math
import sys

import torch
from inputs import Case, make_case
from record import Recorder, extra_memory, parser, race

import kdkernels


def step(case: Case, chunk_bytes: int) -> None:
    case.hidden.grad = case.weight.grad = None
    kdkernels.linear_distil_loss(
        case.hidden, case.weight, None, case.labels, case.ids, case.logprobs, alpha=0.5,
        chunk_bytes=chunk_bytes,
    ).loss.backward()  # fmt: skip


def usual_rows(N: int, H: int, V: int) -> int:
    """Rows a chunk by the rule next_pow2(N / ceil(V / H))."""
    return 2 ** math.ceil(math.log2(max(1, math.ceil(N / math.ceil(V / H)))))


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--rows", type=int, nargs="+", default=[1229, 8192])
    arguments.add_argument("--repeats", type=int, default=2)
    options = arguments.parse_args()
    H, V = (384, 60_000) if options.quick else (768, 250_002)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    recorder = Recorder("kdkernels_chunks", options)
    for N in options.rows[:1] if options.quick else options.rows:
        case = make_case(N, H, V, 8, dtype=torch.bfloat16, device=device)
        rows = usual_rows(N, H, V)
        budgets = {"256 MiB": 256 * 2**20, "64 MiB": 64 * 2**20, "1 GiB": 2**30}
        budgets[f"usual rule, {rows} rows"] = rows * V * 2
        runs = {name: functools.partial(step, case, size) for name, size in budgets.items()}
        times = race(runs, repeats=options.repeats, warmup=0 if N > 2000 else 1)
        recorder.add(
            "forward and backward by chunk size", times, unit="s", floor="256 MiB",
            memory={name: extra_memory(run) for name, run in runs.items()},
            shape={"N": N, "H": H, "V": V, "K": 8, "dtype": "bfloat16"},
        )  # fmt: skip
    recorder.close()


if __name__ == "__main__":
    sys.exit(main())
