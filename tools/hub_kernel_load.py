"""Loads a folder of `hub_kernel.py` with the Hub's `kernels` library, checks it by that library's rules, and computes with it.

    python tools/hub_kernel_load.py FOLDER

Needs torch and `kernels`; the package itself need not be installed. Exits with a sentence where something is amiss.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from kernels import Metadata, get_loaded_kernels, get_local_kernel
from kernels._rust import Build, Digest  # what kernel-builder is made of


def main(folder: Path) -> None:
    """Check build.toml and the digests, load the variant of this machine, and compare a loss with its reference."""
    stated = Build.open(folder).general
    for backend in stated.backends:
        variant = folder / "build" / f"torch-{str(backend).lower().rpartition('.')[2]}"
        metadata = Metadata.read_from_file(variant / "metadata.json")
        if metadata.digest is None:
            sys.exit(f"{variant}/metadata.json has no digest.")
        metadata.digest.validate(Digest.hash_variant(metadata.digest.algorithm, variant))
    kernel = get_local_kernel(folder)
    (loaded,) = get_loaded_kernels()
    print(f"loaded {loaded.metadata.id} from {kernel.__file__}")
    if find_spec("kdkernels") is not None or "kdkernels" in sys.modules:
        sys.exit(
            "kdkernels is installed here, so that nothing is shown: use an environment without it."
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    hidden = torch.randn(5, 16, device=device, requires_grad=True)
    head = torch.nn.Linear(16, 40, device=device)
    teacher = torch.randn(5, 40, device=device).log_softmax(1).topk(4)
    labels = torch.tensor([3, -100, 7, 39, 0], device=device)
    results = []
    for impl in ("auto", "reference"):
        hidden.grad = head.weight.grad = None
        loss = kernel.linear_distil_loss(
            hidden, head.weight, head.bias, labels, teacher.indices, teacher.values, alpha=0.5, impl=impl
        )  # fmt: skip
        loss.loss.backward()
        results.append((loss.loss.detach(), hidden.grad, head.weight.grad))
        print(f"{loss.impl}: {loss.loss.item():.6f} over {loss.rows} rows")
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
