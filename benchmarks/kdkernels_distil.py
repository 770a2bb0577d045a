"""What does top-k distillation from hidden states cost beyond its three matrix products?

Contenders, each forward and backward in hidden states and weight: the products alone (the floor), linear_distil_loss,
linear_cross_entropy on the same rows, the dense formulation (targets scattered to [N, V], kl_div + cross_entropy), the
sparse eager one (log_softmax, gather), and where importable Liger's fused linear cross-entropy (it has no top-k loss)
and torch.compile of the sparse one. On a GPU the shape is N=8192, H=1024, V=250k.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from inputs import Case, dense, liger_cross_entropy, make_case, sparse
from record import Recorder, extra_memory, parser, race, timed_dtypes

import kdkernels

ALPHA = 0.5


class Shape(NamedTuple):
    N: int
    H: int
    V: int
    K: int = 8


CPU = Shape(N=1024, H=768, V=120_000)
CPU_QUICK = Shape(N=256, H=384, V=60_000)
GPU = Shape(N=8192, H=1024, V=250_000)


def products(case: Case) -> Callable[[], object]:
    def run() -> object:
        logits = case.hidden.detach() @ case.weight.detach().t()
        return logits @ case.weight.detach(), logits.t() @ case.hidden.detach()

    return run


def step(case: Case, loss: Callable[[Case], torch.Tensor]) -> Callable[[], object]:
    """Forward and backward, with fresh gradients."""

    def run() -> object:
        case.forget_gradients()
        loss(case).backward()
        return None

    return run


def linear_distil(case: Case, *, chunk_bytes: int | None = None) -> torch.Tensor:
    return kdkernels.linear_distil_loss(
        case.hidden, case.weight, case.bias, case.labels, case.ids, case.logprobs, alpha=ALPHA,
        chunk_bytes=chunk_bytes,
    ).loss  # fmt: skip


def linear_hard(case: Case) -> torch.Tensor:
    return kdkernels.linear_cross_entropy(case.hidden, case.weight, case.bias, case.labels).loss


def processor_race(
    contenders: dict[str, Callable[[], object]], *, repeats: int
) -> dict[str, list[float]]:
    """As `race`, by the processor time of this process."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats + 1):
        for name, run in contenders.items():
            start = time.process_time()
            run()
            if turn:  # the first is a warm-up
                times[name].append(time.process_time() - start)
    return times


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument(
        "--dtypes",
        nargs="+",
        default=[str(dtype).removeprefix("torch.") for dtype in timed_dtypes().values()],
    )
    arguments.add_argument("--rows", type=int, help="N in place of the shape's")
    arguments.add_argument("--pieces", type=int, help="V in place of the shape's")
    arguments.add_argument("--bias", action="store_true", help="with a bias")
    arguments.add_argument(
        "--processor-time", action="store_true",
        help="one thread and its processor time, for a machine that others keep busy",
    )  # fmt: skip
    arguments.add_argument("--only", nargs="+", help="contenders by name, beside the products")
    options = arguments.parse_args()
    on_gpu = torch.cuda.is_available()
    shape = GPU if on_gpu else CPU_QUICK if options.quick else CPU
    shape = shape._replace(N=options.rows or shape.N, V=options.pieces or shape.V)
    recorder = Recorder("kdkernels_distil", options)
    if options.processor_time:
        torch.set_num_threads(1)
    for name in options.dtypes:
        dtype = getattr(torch, name)
        case = make_case(*shape, dtype=dtype, device="cuda" if on_gpu else "cpu", bias=options.bias)
        losses = {
            "linear_distil_loss": linear_distil,
            "linear_cross_entropy": linear_hard,
            "sparse eager": functools.partial(sparse, alpha=ALPHA),
            "dense targets": functools.partial(dense, alpha=ALPHA),
        }
        liger = liger_cross_entropy()
        if liger is not None:
            losses["Liger fused linear CE"] = liger
        if on_gpu:
            losses["sparse, torch.compile"] = functools.partial(torch.compile(sparse), alpha=ALPHA)
        runs = {"three products": products(case)} | {
            name: step(case, loss)
            for name, loss in losses.items()
            if not options.only or name in options.only
        }
        compete = processor_race if options.processor_time else race
        times = compete(runs, repeats=3 if options.quick else options.repeats)
        memory = {name: extra_memory(run) for name, run in runs.items()}
        facts = shape._asdict() | {"dtype": name} | ({"bias": True} if options.bias else {})
        if options.processor_time:
            facts["clock"] = "processor time"
        ceiling = 1.25 if on_gpu else {"float32": 1.05}.get(name, 1.15)
        recorder.add(
            "forward and backward", times, unit="s", floor="three products",
            bar={"linear_distil_loss": ceiling}, memory=memory, shape=facts,
        )  # fmt: skip
        measured = "linear_distil_loss"
        against = {"linear_cross_entropy": (1.1, False), "sparse eager": (1.3, True)}
        against["dense targets"] = (3.0 if name == "bfloat16" else 2.0, True)
        for rival, (goal, at_least) in against.items():
            if rival not in times or measured not in times:
                continue
            pair = (
                (times[measured], times[rival]) if not at_least else (times[rival], times[measured])
            )
            recorder.add(
                f"{measured} beside {rival}, {'times faster' if at_least else 'ratio'}",
                {measured: [a / b for a, b in zip(*pair, strict=True)]},
                unit="x", bar={measured: goal}, at_least=at_least, shape=facts,
            )  # fmt: skip
    recorder.close()


if __name__ == "__main__":
    sys.exit(main())
