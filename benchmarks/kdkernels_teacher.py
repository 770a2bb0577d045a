"""What do the losses cost at the sizes of real multilingual encoders, their biases included?

Masked rows N=4096, widths of a base and a large encoder, the 250,002 pieces of XLM-R (no multiple of 8, so that the rows of
plain logits are not aligned) and 120,000, with and without bias. Forward and backward, in bfloat16, memory beside time: `linear_distil_loss` and `linear_cross_entropy`
beside their three matrix products, the same products of a vocabulary padded to a multiple of 64, and the eager formulation, `linear_kl` beside its four products and the eager one, the
comparisons of attention maps at S=512 beside eager maps. With `--blocks FILE`, blocks that `kdkernels_tune` wrote are used.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import kdkernels_online as online
import torch
import torch.nn.functional as F
from inputs import Case, liger_cross_entropy, make_case, sparse
from kdkernels_attention import OPERATIONS
from kdkernels_distil import ALPHA, linear_distil, linear_hard, products, step
from record import Recorder, extra_memory, parser, race

from kdkernels import linear_kl, tuning

LEAN_BYTES = 384 * 2**20
LEAN = "linear_distil_loss, chunks of 384 MiB"
BARS = {True: 1.25, False: 1.15}  # by whether there is a bias
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Sizes(NamedTuple):
    rows: int
    widths: tuple[int, ...]
    pieces: tuple[int, ...]
    batch: int
    length: int


REAL = Sizes(4096, (768, 1024), (250_002, 120_000), 16, 512)
QUICK = Sizes(32, (16,), (1_003, 1_024), 1, 32)


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--blocks", type=Path, help="tuned blocks, if the file is there")
    options = arguments.parse_args()
    sizes = QUICK if options.quick else REAL
    recorder = Recorder("kdkernels_teacher", options)
    blocks = use_blocks(options.blocks)
    narrow, wide = sizes.widths[0], sizes.widths[-1]
    repeats = 3 if options.quick else 5
    large, small = sizes.pieces[0], sizes.pieces[-1]
    # What has a bar comes first, for the time may not be enough for all.
    top_k(recorder, sizes.rows, narrow, large, repeats, blocks, bias=True)
    top_k(recorder, sizes.rows, narrow, small, repeats, blocks, bias=False)
    for V in sizes.pieces:
        full_distribution(recorder, sizes.rows, narrow, wide, V, repeats, blocks)
    for name, steps in OPERATIONS.items():
        maps(recorder, name, steps, sizes.batch, sizes.length, repeats)
    top_k(recorder, sizes.rows, narrow, small, repeats, blocks, bias=True)
    if DEVICE == "cuda" and not options.quick:
        compiled(recorder, sizes.rows, narrow, small, repeats)
    recorder.close()


def use_blocks(file: Path | None) -> str:
    """Put tuned rows into this process's table; which blocks are used, in a word."""
    if file is None or not file.is_file():
        return "default"
    table = tuning._table()  # of this process, cached
    for kernel, rows in json.loads(file.read_text(encoding="utf-8")).items():
        table[kernel] |= rows
    return "tuned"


def top_k(
    recorder: Recorder, N: int, H: int, V: int, repeats: int, blocks: str, *, bias: bool
) -> None:
    case = make_case(N, H, V, 8, dtype=torch.bfloat16, device=DEVICE, bias=bias)
    losses = {
        "linear_distil_loss": linear_distil,
        LEAN: functools.partial(linear_distil, chunk_bytes=LEAN_BYTES),
        "linear_cross_entropy": linear_hard,
        "sparse eager": functools.partial(sparse, alpha=ALPHA),
    }
    liger = liger_cross_entropy()
    if liger is not None and not bias:
        losses["Liger fused linear CE"] = liger
    runs = {"three products": products(case)} | {n: step(case, loss) for n, loss in losses.items()}
    if V % 64:
        runs["three products, aligned"] = aligned_products(case)
    ceiling = BARS[bias]
    times, memory = race(runs, repeats=repeats), _memory(runs)
    shape = {"N": N, "H": H, "V": V, "K": 8, "bias": bias, "dtype": "bf16", "blocks": blocks}
    recorder.add(
        "top k, forward and backward", times, unit="s", floor="three products",
        bar={"linear_distil_loss": ceiling, LEAN: ceiling} if DEVICE == "cuda" else None,
        memory=memory, shape=shape | {"aligned": V % 8 == 0},
    )  # fmt: skip
    if V % 64:
        against = {name: times[name] for name in ("three products, aligned", "linear_distil_loss")}
        recorder.add(
            "top k, against aligned products", against, unit="s", floor="three products, aligned", shape=shape
        )  # fmt: skip
    if DEVICE == "cuda":
        recorder.add(
            "top k, memory", {name: [float(max(1, size))] for name, size in memory.items()}, unit="B", floor="sparse eager",
            bar={LEAN: 0.1}, shape=shape,
        )  # fmt: skip


def compiled(recorder: Recorder, N: int, H: int, V: int, repeats: int) -> None:
    """The eager formulation in the hands of torch.compile, which takes its time: the last of all."""
    case = make_case(N, H, V, 8, dtype=torch.bfloat16, device=DEVICE)
    runs = {
        "sparse, torch.compile": step(case, functools.partial(torch.compile(sparse), alpha=ALPHA)),
        "linear_distil_loss": step(case, linear_distil),
    }
    recorder.add(
        "top k, beside torch.compile", race(runs, repeats=repeats), unit="s", floor="sparse, torch.compile",
        memory=_memory(runs), shape={"N": N, "H": H, "V": V, "K": 8, "bias": False, "dtype": "bf16"},
    )  # fmt: skip


def aligned_products(case: Case) -> Callable[[], object]:
    """The three products of a vocabulary padded to a multiple of 64."""
    padding = -case.weight.shape[0] % 64
    weight = F.pad(case.weight.detach(), (0, 0, 0, padding)).requires_grad_()
    return products(dataclasses.replace(case, weight=weight))


def full_distribution(
    recorder: Recorder, N: int, H_s: int, H_t: int, V: int, repeats: int, blocks: str
) -> None:
    case = online.make_case(N, H_s, H_t, V).to(torch.bfloat16)
    bias_s = torch.randn(V, device=DEVICE).bfloat16().requires_grad_()
    bias_t = torch.randn(V, device=DEVICE).bfloat16()

    def fused() -> None:
        case.hidden_s.grad = case.weight_s.grad = bias_s.grad = None
        linear_kl(
            case.hidden_s, case.weight_s, bias_s, case.hidden_t, case.weight_t, bias_t
        ).loss.backward()

    def eager() -> None:
        case.hidden_s.grad = case.weight_s.grad = bias_s.grad = None
        log_q = F.log_softmax(F.linear(case.hidden_s, case.weight_s, bias_s).float(), -1)
        with torch.no_grad():
            log_p = F.log_softmax(F.linear(case.hidden_t, case.weight_t, bias_t).float(), -1)
        F.kl_div(log_q, log_p, log_target=True, reduction="batchmean").backward()

    runs: dict[str, Callable[[], object]] = {
        "four products": functools.partial(online.products, case),
        "linear_kl": fused,
        "dense eager": eager,
    }
    recorder.add(
        "whole distribution, forward and backward", race(runs, repeats=repeats), unit="s", floor="four products",
        bar={"linear_kl": 1.4} if DEVICE == "cuda" else None,
        memory=_memory(runs), shape={"N": N, "H_s": H_s, "H_t": H_t, "V": V, "bias": True, "dtype": "bf16", "blocks": blocks},
    )  # fmt: skip


def maps(
    recorder: Recorder,
    name: str,
    steps: Callable[..., dict[str, Callable[[], object]]],
    batch: int,
    length: int,
    repeats: int,
) -> None:
    for dtype in (torch.bfloat16, torch.float32):
        runs = steps(batch, length, dtype, padded=False)
        recorder.add(
            f"{name}, forward and backward", race(runs, repeats=repeats), unit="s", floor="eager maps",
            memory=_memory(runs), shape={"B": batch, "S": length, "dtype": str(dtype).removeprefix("torch.")},
        )  # fmt: skip


def _memory(runs: dict[str, Callable[[], object]]) -> dict[str, int]:
    gc.collect()
    return {name: extra_memory(run) for name, run in runs.items()}


if __name__ == "__main__":
    sys.exit(main())
