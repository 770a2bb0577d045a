"""What does Triton's compiler make of the kernels over a vocabulary, for capability 9.0 and V = 250,002? No GPU is needed.

    python benchmarks/kdkernels_compiled.py

One line a kernel: registers of a thread, bytes spilled by it, shared memory of a block, the widths of its accesses to global
memory (v4.b32 and "copy 16" are 16 bytes), its instructions of matrix products. The package's tests read the same figures.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from questions import ROOT

TESTS = ROOT / "packages" / "kdkernels" / "tests" / "test_kernels_compile.py"
DIVERGENCES = ("forward_kl", "reverse_kl", "jsd")


def main() -> None:
    spec = importlib.util.spec_from_file_location("kernels_compile", TESTS)
    assert spec is not None
    assert spec.loader is not None
    tests = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tests)
    print(f"{'kernel':48} {'regs':>4} {'spill':>5} {'shared':>7}  accesses; products")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRITON_CACHE_DIR"] = folder
        for name, compile_kernel in kernels(tests, Path(folder)):
            made = compile_kernel()
            accesses = ", ".join(
                f"{count} {width}" for width, count in sorted(made.accesses.items())
            )
            products = "".join(f"; {name}" for name in sorted(made.products))
            print(
                f"{name:48} {made.registers:4} {made.stack:5} {made.shared:7}  {accesses}{products}",
                flush=True,
            )


def kernels(tests: Any, folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Names, and what compiles each."""
    for by in ("descriptors", "pointers", "again"):
        for exponentials in (True, False):
            kept = "exponentials" if exponentials else "logits"
            yield (
                f"projection by {by}, bf16, {kept}",
                lambda by=by, exponentials=exponentials: tests.projection_kernel(
                    folder, by=by, exponentials=exponentials
                ),
            )
    for dtype in ("bf16", "fp16", "fp32"):
        for one in (True, False):
            yield (
                f"row losses, {dtype}, {'one temperature' if one else 'two temperatures'}",
                lambda dtype=dtype, one=one: tests.row_kernel(
                    dtype, tests.ALIGNED, folder, hard=True, soft=True, one=one, divergence=0
                ),
            )
    for number, divergence in enumerate(DIVERGENCES):
        for dtype, sums in (("bf16", False), ("fp32", False), ("fp16", True)):
            yield (
                f"{divergence}, {dtype}{', sums at hand' if sums else ''}",
                lambda dtype=dtype, number=number, sums=sums: tests.divergence_kernel(
                    dtype, tests.ALIGNED, folder, divergence=number, sums=sums,
                    gradient="bf16" if sums else None,
                ),
            )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
