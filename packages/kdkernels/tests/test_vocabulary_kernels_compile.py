"""The Triton kernels compile for a Hopper GPU, which needs no GPU; what they compute is tested elsewhere."""

import os
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing"
    ),
    # One release of triton announces another default of fused multiply-adds; both are right for us.
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning"),
]


def compile_for_hopper(kernel: object, pointers: dict[str, str], **constants: object) -> str:
    """The PTX of a kernel; arguments that are neither pointers nor constants are strides, sizes or factors."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kinds = {"V": "i32", "K": "i32", "alpha": "fp32", "T": "fp32", "beta": "fp32"}
    names = kernel.arg_names  # type: ignore[attr-defined]  # a triton.JITFunction
    signature = {
        name: pointers.get(name) or ("constexpr" if name in constants else kinds.get(name) or "i64")
        for name in names
    }
    places = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=places)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(
    ("hard", "soft", "one_temperature", "divergence"),
    [
        (True, True, True, 0),
        (True, True, False, 1),
        (False, True, False, 2),
        (True, False, True, 0),
    ],
)
def test_row_kernel(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: str,
    hard: bool,
    soft: bool,
    one_temperature: bool,
    divergence: int,
) -> None:
    from kdkernels.topk_kl.kernel import _row_kernel

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    pointers = dict.fromkeys(["log_mass", "log_rest", "row_scale", "hard_out", "soft_out"], "*fp32")
    ptx = compile_for_hopper(
        _row_kernel,
        pointers | {"logits": f"*{dtype}", "ids": "*i64", "labels": "*i64"},
        HARD=hard,
        SOFT=soft,
        ONE_TEMPERATURE=one_temperature,
        GRADIENT=True,
        DIVERGENCE=divergence,
        BLOCK_V=4096,
        BLOCK_K=8,
    )
    assert ".target sm_90" in ptx


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("divergence", [0, 1, 2])
def test_divergence_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, divergence: int
) -> None:
    from kdkernels.kl.kernel import _divergence_kernel

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    pointers = dict.fromkeys(["student", "teacher", "gradient"], f"*{dtype}")
    ptx = compile_for_hopper(
        _divergence_kernel,
        pointers | {"row_scale": "*fp32", "values": "*fp32"},
        GRADIENT=True,
        DIVERGENCE=divergence,
        BLOCK_V=4096,
    )
    assert ".target sm_90" in ptx
