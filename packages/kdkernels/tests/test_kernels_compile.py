"""What Triton's compiler makes of each kernel at the options that it is launched with; no GPU is needed.

For compute capability 9.0 no register is spilled, and rows of V = 250,002 are read and written in whole vectors; shared
memory is enough on every device from 8.0 on. What the kernels compute is tested elsewhere.
"""

import os
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from kdkernels.attention_maps.blocks import BLOCKS, LARGE_BLOCKS, WHOLE_BLOCKS, Block, Table
from kdkernels.products import empty_rows
from kdkernels.tuning import launch_options

triton = pytest.importorskip("triton")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing"
    ),
    # One release of triton announces another default of fused multiply-adds; both are right for us.
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning"),
]
# Of a block, at most: 99 KiB on capability 8.6 and 8.9, 163 KiB on 8.0, 227 KiB on 9.0.
SHARED_MEMORY, LARGE_SHARED_MEMORY = 99 * 2**10, 227 * 2**10
V = 250_002
ALIGNED = empty_rows(1, V, torch.bfloat16, torch.device("meta")).stride(0)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Compiled(NamedTuple):
    """Figures of a compiled kernel."""

    registers: int  # of a thread
    stack: int  # bytes of a thread's stack: what was spilled
    shared: int  # bytes of a block
    accesses: Counter[str]  # of global memory, by width; copies to shared memory are "copy 16"
    products: set[str]  # instructions of matrix products


def compiled(
    kernel: object,
    arguments: dict[str, object],
    *,
    constants: dict[str, object],
    folder: Path,
    capability: int = 90,
    **options: int,
) -> Compiled:
    """Compile as a launch would: pointers and sizes that 16 divides are known to be so, and ones are constants.

    Args:
        kernel: a triton.JITFunction.
        arguments: for each argument that is no constant a pointer's type such as "*bf16", a size, or "fp32".
        constants: arguments that are part of the source.
        folder: for the compiler's cache.
        capability: 90 for 9.0.
        options: num_warps and so on.
    """
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names  # type: ignore[attr-defined]  # a triton.JITFunction
    constants = constants | {name: 1 for name, value in arguments.items() if value == 1}
    signature, attributes = {}, {}
    for place, name in enumerate(names):
        value = arguments.get(name)
        signature[name] = value if isinstance(value, str) else "i32"
        if name in constants:
            signature[name] = "constexpr"
        elif value != "fp32" and (isinstance(value, str) or value % 16 == 0):
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs=attributes,
    )
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    file = folder / "kernel.cubin"
    file.write_bytes(made.asm["cubin"])
    usage = subprocess.run(
        [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(file)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    (stack,) = re.findall(r"STACK:(\d+)", usage)
    (registers,) = re.findall(r"REG:(\d+)", usage)
    accesses = re.findall(r"\b(?:ld|st)\.global\S*?\.((?:v\d\.)?b\d+)\b", made.asm["ptx"])
    copies = re.findall(r"cp\.async\.c[ag]\.shared\.global.*?, (0x\w+|\d+)", made.asm["ptx"])
    counted = Counter(accesses) + Counter(f"copy {int(size, 0)}" for size in copies)
    products = set(re.findall(r"\b(wgmma\.mma_async|mma\.sync)\b", made.asm["ptx"]))
    return Compiled(int(registers), int(stack), made.metadata.shared, counted, products)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the compiler, so that it compiles."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def row_kernel(
    dtype: str, stride: int, folder: Path, *, hard: bool, soft: bool, one: bool, divergence: int,
    gradient: str | None = None, capability: int = 90,
) -> Compiled:  # fmt: skip
    """Of losses of rows: `dtype` of the logits, and of the gradient over them unless another is given."""
    from kdkernels.topk_kl.kernel import _row_kernel

    options = launch_options(
        "row_losses", torch.device("cpu"), columns=V, itemsize=DTYPES[dtype].itemsize
    )
    pointers = dict.fromkeys(["log_mass", "log_rest", "row_scale", "hard_out", "soft_out"], "*fp32")
    numbers = dict.fromkeys(["scale", "alpha", "T", "inverse_T", "beta"], "fp32")
    return compiled(
        _row_kernel,
        pointers | numbers | {"ids": "*i64", "labels": "*i64", "V": V, "P": stride, "K": 8}
        | {"logits": f"*{dtype}", "gradient": f"*{gradient or dtype}"}
        | {"row_stride": stride, "gradient_stride": stride},
        constants={
            "HARD": hard, "SOFT": soft, "ONE_TEMPERATURE": one, "GRADIENT": True,
            "DIVERGENCE": divergence, "BLOCK_K": 8, "BLOCK_V": options.pop("BLOCK_V"),
            "STAGES": options.pop("STAGES"),
        },
        folder=folder,
        capability=capability,
        **options,
    )  # fmt: skip


def divergence_kernel(
    dtype: str, stride: int, folder: Path, *, divergence: int, sums: bool = False, gradient: str | None = None,
    capability: int = 90,
) -> Compiled:  # fmt: skip
    """Of dense divergences, whose row sums the products may have left."""
    from kdkernels.kl.kernel import _divergence_kernel, options_of

    name = ("forward_kl", "reverse_kl", "jsd")[divergence]
    logits = torch.empty(1, stride, dtype=DTYPES[dtype], device="meta")
    options = options_of(logits, V, name)
    return compiled(
        _divergence_kernel,
        dict.fromkeys(["student", "teacher"], f"*{dtype}") | {"gradient": f"*{gradient or dtype}"}
        | dict.fromkeys(["student_stride", "teacher_stride", "gradient_stride", "P"], stride)
        | dict.fromkeys(["row_scale", "losses", "sums_s", "sums_t"], "*fp32")
        | dict.fromkeys(["scale", "T", "beta"], "fp32") | {"V": V, "blocks_s": 977, "blocks_t": 977},
        constants={
            "GRADIENT": True, "SUMS": sums, "DIVERGENCE": divergence, "BLOCKS": 1024,
            "BLOCK_V": options.pop("BLOCK_V"), "STAGES": options.pop("STAGES"),
        },
        folder=folder,
        capability=capability,
        **options,
    )  # fmt: skip


def projection_kernel(
    folder: Path, *, by: str, exponentials: bool, bias: bool = True, capability: int = 90
) -> Compiled:
    """Of the product that ends in a softmax, by the device's copies, by pointers, or again."""
    from kdkernels import projection_kernel

    options = projection_kernel.options_of(torch.device("cpu"), V, by_descriptors=by != "pointers")
    options["ROWS"] //= 2 if by == "again" else 1
    blocks = {name: options.pop(name) for name in ("ROWS", "COLUMNS", "WIDTH")}
    rows, columns, width = blocks.values()
    plane = "bf16" if exponentials else "fp16"
    arguments: dict[str, object] = dict.fromkeys(["base", "first_base", "sums", "tops"], "*fp32")
    arguments |= {"R": 4096, "V": V, "blocks": 977, "scale": "fp32", "bias": "*bf16"}
    constants = {"H": 768, "BIAS": bias, "EXPONENTIALS": exponentials, **blocks}
    if by == "descriptors":
        del arguments["first_base"]
        arguments |= {
            "hidden": f"tensordesc<bf16[{rows}, {width}]>",
            "weight": f"tensordesc<bf16[{columns}, {width}]>",
            "plane": f"tensordesc<{plane}[{rows}, {columns}]>",
        }
        kernel = projection_kernel._descriptors_kernel
    else:
        arguments |= {"hidden": "*bf16", "weight": "*bf16", "plane": f"*{plane}", "again": "*i32"}  # fmt: skip
        arguments |= {"hidden_stride": 768, "weight_stride": 768, "plane_stride": ALIGNED}
        constants |= {"AGAIN": by == "again"}
        kernel = projection_kernel._pointers_kernel
    return compiled(
        kernel, arguments, constants=constants, folder=folder, capability=capability, **options
    )


@pytest.mark.parametrize(
    ("dtype", "hard", "soft", "one_temperature", "divergence"),
    [
        ("fp16", True, True, True, 0),
        *[
            (dtype, *case)
            for dtype in ("fp32", "bf16")
            for case in (
                (True, True, True, 0),
                (True, True, False, 1),
                (False, True, False, 2),
                (True, False, True, 0),
            )
        ],
    ],
)
def test_row_kernel_takes_whole_vectors_of_250002_columns_and_spills_nothing(
    cache: Path, dtype: str, hard: bool, soft: bool, one_temperature: bool, divergence: int
) -> None:
    figures = row_kernel(
        dtype, ALIGNED, cache, hard=hard, soft=soft, one=one_temperature, divergence=divergence
    )
    assert figures.stack == 0
    assert figures.shared <= SHARED_MEMORY
    # 32 bytes a thread and block: copied in two sweeps, in each before its loop twice and once within, and written.
    assert figures.accesses["copy 16"] == 2 * 3 * 2
    assert figures.accesses["v4.b32"] == 2 * 2
    assert not {"copy 4", "copy 8"} & set(figures.accesses)


@pytest.mark.parametrize(
    ("dtype", "divergence", "sums"),
    [
        ("fp16", 2, False),
        *[(dtype, divergence, False) for dtype in ("fp32", "bf16") for divergence in (0, 1, 2)],
        *[("fp16", divergence, True) for divergence in (0, 1, 2)],
    ],
)
def test_divergence_kernel_takes_whole_vectors_of_250002_columns_and_spills_nothing(
    cache: Path, dtype: str, divergence: int, sums: bool
) -> None:
    figures = divergence_kernel(
        dtype, ALIGNED, cache, divergence=divergence, sums=sums, gradient="bf16" if sums else None
    )
    assert figures.stack == 0
    assert figures.shared <= SHARED_MEMORY
    # Two rows, of which a thread copies 16 or 32 bytes a block.
    vectors = 1 if dtype == "fp32" or divergence == 2 else 2
    sweeps = (2 if divergence == 0 else 3) - sums
    assert figures.accesses["copy 16"] == 2 * sweeps * 3 * vectors
    assert figures.accesses["v4.b32"] == 2 * vectors
    assert not {"copy 4", "copy 8"} & set(figures.accesses)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_logits_of_the_callers_whose_rows_start_unaligned_spill_nothing(
    cache: Path, dtype: str
) -> None:
    """As a linear layer makes them: the kernels take them value by value."""
    options = {"hard": False, "soft": True, "one": False, "divergence": 2}
    assert row_kernel(dtype, V, cache, **options).stack == 0
    assert divergence_kernel(dtype, V, cache, divergence=0).stack == 0


@pytest.mark.parametrize(
    ("by", "exponentials"),
    [(by, plane) for by in ("descriptors", "pointers", "again") for plane in (True, False)],
)
def test_products_that_end_in_a_softmax_run_on_tensor_cores_and_spill_nothing(
    cache: Path, by: str, exponentials: bool
) -> None:
    figures = projection_kernel(cache, by=by, exponentials=exponentials)
    assert figures.stack == 0
    assert "wgmma.mma_async" in figures.products
    assert figures.shared <= (SHARED_MEMORY if by == "pointers" else 227 * 2**10)
    assert not {"copy 4", "copy 8"} & set(figures.accesses)


@pytest.mark.parametrize("capability", [80, 120])
def test_kernels_over_a_vocabulary_fit_devices_of_99_kib_and_spill_nothing(
    cache: Path, capability: int
) -> None:
    """Where there is no room for the blocks that a device copies by itself, products take pointers."""
    figures = [
        row_kernel("bf16", ALIGNED, cache, hard=True, soft=True, one=True, divergence=0, capability=capability),
        divergence_kernel("bf16", ALIGNED, cache, divergence=0, capability=capability),
        *(projection_kernel(cache, by=by, exponentials=True, capability=capability) for by in ("pointers", "again")),
    ]  # fmt: skip
    assert [figure.stack for figure in figures] == [0] * 4
    assert max(figure.shared for figure in figures) <= SHARED_MEMORY
    assert all(figure.products == {"mma.sync"} for figure in figures[2:])
    assert all(figure.accesses["copy 16"] for figure in figures)


def small_kernels(folder: Path, capability: int) -> dict[str, Compiled]:
    """What runs beside the products and the rows, at V = 250,002, H = 768 and K = 8."""
    from kdkernels import (
        column_sums_kernel,
        projection_kernel,
        scaling_kernel,
        targets_kernel,
    )
    from kdkernels.linear_distil_loss import kernel

    whole = dict.fromkeys(("ids", "labels", "ids_out"), "*i64")
    exact = "base listed sums tops settled log_mass log_rest log_mass_out log_rest_out logprobs log_partition row_scale hard_out"
    exact += " soft_out factor_out factor total"
    half = dict.fromkeys(("h", "W", "b", "plane", "gradient"), "*bf16")
    numbers = dict.fromkeys(("alpha", "beta", "inverse_T"), "fp32")
    sizes = {
        "V": V,
        "P": ALIGNED,
        "stride": ALIGNED,
        "R": 4096,
        "H": 768,
        "K": 8,
        "blocks": 977,
        "columns": V,
    }
    arguments: dict[str, object] = {
        **whole, **dict.fromkeys(exact.split(), "*fp32"), **half, **numbers, **sizes, "flags": "*i32", "again": "*i32",
        "ignore_index": -100, "size": V * 768,
    }  # fmt: skip
    at_launch: list[tuple[object, dict[str, object], int]] = [
        (kernel._listed_kernel, {"BIAS": True, "BLOCK_H": 1024}, 4),
        (kernel._finish_kernel, {"SOFT": True, "DIVERGENCE": 2, "BLOCK_K": 8, "BLOCKS": 1024, "COLUMNS": 256}, 4),
        (projection_kernel._settle_kernel, {"BLOCK": 1024}, 4),
        (column_sums_kernel._column_sums_kernel, {"FACTOR": True, "COLUMNS": 256, "ROWS": 32}, 8),
        (scaling_kernel._multiply_kernel, {"BLOCK": scaling_kernel.BLOCK, "BLOCKS": scaling_kernel.BLOCKS}, 8),
        (targets_kernel._look_kernel, {"BLOCK_K": 8}, 1),
        (
            targets_kernel._targets_kernel,
            {"PARTITION": True, "RENORMALISE": False, "BUCKET": True, "FLOOR": 0.0, "DUPLICATES": True, "BLOCK_K": 8},
            1,
        ),
    ]  # fmt: skip
    return {
        function.__name__: compiled(  # type: ignore[attr-defined]  # a triton.JITFunction
            function, arguments, constants=constants, folder=folder, capability=capability, num_warps=warps
        )
        for function, constants, warps in at_launch
    }  # fmt: skip


@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_beside_the_products_spill_nothing(cache: Path, capability: int) -> None:
    figures = small_kernels(cache, capability)
    assert {name: figure.stack for name, figure in figures.items()} == dict.fromkeys(figures, 0)
    assert max(figure.shared for figure in figures.values()) <= SHARED_MEMORY
    for name in ("_column_sums_kernel", "_multiply_kernel"):  # those that read a plane
        assert figures[name].accesses["v4.b32"]


def attention_kernel(
    name: str,
    dtype: str,
    width: int,
    blocks: Block,
    cache: Path,
    *,
    capability: int,
    **given: object,
) -> Compiled:
    """One of the two kernels.

    Args:
        name: of the function.
        dtype: of all operands.
        width: of a head, on both sides.
        blocks: query rows, keys, warps, stages.
        cache: see `compiled`.
        capability: see `compiled`.
        given: constants in place of those of `attention_mse` on whole blocks without mask and window.
    """
    from kdkernels.attention_maps import kernel

    rows, keys, warps, stages = blocks
    function = getattr(kernel, name)
    heads, length = 12, 512 if given.get("WHOLE", True) else 500
    strides = {"b": length * heads * width, "h": width, "s": heads * width, "d": 1}
    arguments: dict[str, object] = {"heads": heads, "length": length, "reach": 128}
    arguments |= {"mask": "*u8", "mask_b": length, "mask_i": 1, "mask_j": 0}
    for argument in function.arg_names:
        if argument in ("q_s", "k_s", "q_t", "k_t"):
            arguments[argument] = f"*{dtype}"
        elif argument in ("dq", "dk"):
            arguments[argument] = "*bf16" if dtype == "bf16" else "*fp32"
        elif argument in ("row_statistics", "totals"):
            arguments[argument] = "*fp32"
        elif argument in ("scale_s", "scale_t", "factor", "share"):
            arguments[argument] = "fp32"
        elif argument[:2] in ("qs", "ks", "qt", "kt", "dq", "dk") and argument[2] == "_":
            arguments[argument] = strides[argument[3]]
    constants: dict[str, object] = {
        "MSE": True, "MASK_AXES": 0, "LOCAL": False, "WHOLE": True, "ROWS": rows, "KEYS": keys,
        "WIDTH_S": width, "WIDTH_T": width, "width_s": width, "width_t": width,
    } | given  # fmt: skip
    if name == "_loss_and_dq_kernel":
        arguments["counts"] = "*i64"
        constants["GRADIENT"] = True
    return compiled(
        function, arguments, constants=constants, folder=cache, capability=capability,
        num_warps=warps, num_stages=stages,
    )  # fmt: skip


KERNELS = ("_loss_and_dq_kernel", "_dk_kernel")
MASKED = {"MASK_AXES": 1, "LOCAL": True, "WHOLE": False}  # a padding mask and a window


def widths(table: Table) -> list[tuple[str, int]]:
    return [(dtype, width) for dtype in DTYPES for width in table[DTYPES[dtype]]]


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(("dtype", "width"), widths(BLOCKS))
def test_attention_kernels_fit_every_device_and_spill_nothing_at_the_widths_that_auto_accepts(
    cache: Path, name: str, dtype: str, width: int
) -> None:
    blocks = BLOCKS[DTYPES[dtype]][width][KERNELS.index(name)]
    figures = attention_kernel(name, dtype, width, blocks, cache, capability=80, **MASKED)
    assert figures.stack == 0
    assert figures.shared <= SHARED_MEMORY


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(
    ("table", "dtype", "width"),
    [
        (table, dtype, width)
        for table in (LARGE_BLOCKS, WHOLE_BLOCKS)
        for dtype, width in widths(table)
        if table is WHOLE_BLOCKS or (dtype, width) in (("fp32", 64), ("bf16", 64), ("fp16", 128))
    ],
)
def test_attention_kernels_multiply_by_wgmma_and_spill_nothing_on_compute_capability_9(
    cache: Path, name: str, table: Table, dtype: str, width: int
) -> None:
    blocks = table[DTYPES[dtype]][width][KERNELS.index(name)]
    given = MASKED if table is LARGE_BLOCKS else {}
    figures = attention_kernel(name, dtype, width, blocks, cache, capability=90, **given)
    assert figures.stack == 0
    assert figures.shared <= LARGE_SHARED_MEMORY
    assert figures.products == {"wgmma.mma_async"}
