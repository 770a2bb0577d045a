"""Which implementation runs where, and which tensors none takes: decided before anything is computed."""

import re
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from kdkernels import (
    KernelArgumentError,
    attention_mse,
    kl,
    linear_cross_entropy,
    linear_kl,
    relation_kl,
)
from kdkernels.attention_maps import map_loss
from kdkernels.checks import choose_impl


def test_asking_for_triton_where_it_is_not_installed_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(KernelArgumentError, match=r"not installed: install kdkernels\[triton\]"):
        choose_impl("triton", operation="kl", device=torch.device("cuda"), dtype=torch.float32)
    auto = choose_impl("auto", operation="kl", device=torch.device("cuda"), dtype=torch.float32)
    assert auto == "torch"


def test_the_choice_of_implementation_is_kept_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (9, 0))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")

    def choose(impl: str, device: torch.device, dtype: torch.dtype = torch.float32) -> str:
        return choose_impl(impl, operation="kl", device=device, dtype=dtype)

    assert choose("auto", cuda) == "triton"
    assert choose("auto", cuda, torch.float64) == "torch"
    assert choose("auto", cpu) == "torch"
    assert [choose(impl, cuda) for impl in ("reference", "torch", "triton")] == [
        "reference",
        "torch",
        "triton",
    ]
    with pytest.raises(KernelArgumentError, match="TRITON_INTERPRET=1"):
        choose("triton", cpu)
    with pytest.raises(KernelArgumentError, match="float64"):
        choose("triton", cuda, torch.float64)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert choose("triton", cpu) == "triton"
    assert choose("auto", cpu) == "torch"


def choose_on_a_gpu(impl: str) -> str:
    return choose_impl(impl, operation="kl", device=torch.device("cuda"), dtype=torch.float32)


def test_on_an_amd_device_torch_runs_and_triton_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("torch.version.hip", "7.0")
    assert choose_on_a_gpu("auto") == "torch"
    with pytest.raises(KernelArgumentError, match=r"NVIDIA.*HIP 7\.0.*impl='torch'"):
        choose_on_a_gpu("triton")


def test_before_compute_capability_8_torch_runs_and_triton_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (7, 5))
    assert choose_on_a_gpu("auto") == "torch"
    with pytest.raises(KernelArgumentError, match=r"8\.0 or more; got 7\.5: ask for impl='torch'"):
        choose_on_a_gpu("triton")


@pytest.mark.parametrize(
    ("capability", "copies"),
    [((8, 0), False), ((8, 9), False), ((9, 0), True), ((10, 0), True), ((12, 0), False)],
)
def test_products_take_the_blocks_of_227_kib_where_there_is_room_for_them(
    capability: tuple[int, int], copies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Devices of capability 12.0 copy blocks by themselves and have 99 KiB."""
    pytest.importorskip("triton")
    from kdkernels.projection_kernel import copies_blocks

    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    assert copies_blocks(torch.device("cuda")) == copies


@pytest.fixture
def a_fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tensors on "cuda" that hold nothing, a device of capability 9.0, an installed triton, and nothing computed."""
    monkeypatch.setattr("kdkernels.checks._triton_is_installed", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(map_loss, "_lean_loss", lambda q_s, *_: (q_s.sum(), q_s.sum()))
    with FakeTensorMode():
        yield


TOO_WIDE = [(torch.float32, 65), (torch.float32, 1024), (torch.float16, 129), (torch.bfloat16, 768)]


@pytest.mark.parametrize(("dtype", "width"), TOO_WIDE, ids=str)
def test_heads_whose_tiles_fit_no_device_run_in_torch_unless_triton_is_asked_for(
    a_fake_gpu: None, dtype: torch.dtype, width: int
) -> None:
    narrow, wide = (torch.empty(1, 2, 8, size, dtype=dtype, device="cuda") for size in (16, width))
    for heads in ((wide, wide, narrow, narrow), (narrow, narrow, wide, wide)):
        assert attention_mse(*heads).impl == "torch"
        said = rf"at most 64 values in float32 and 128 values in float16 .*got heads of {width} .*impl='torch'"
        with pytest.raises(KernelArgumentError, match=said):
            attention_mse(*heads, impl="triton")
    tokens = torch.empty(1, 8, 2 * width, dtype=dtype, device="cuda")
    assert relation_kl(tokens, tokens, 2).impl == "torch"
    with pytest.raises(KernelArgumentError, match=f"got heads of {width} .*narrower heads"):
        relation_kl(tokens, tokens, 2, impl="triton")


def test_the_widest_heads_that_fit_run_in_triton_and_a_float32_side_sets_the_width_for_both(
    a_fake_gpu: None,
) -> None:
    def heads(width: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(1, 2, 8, width, dtype=dtype, device="cuda")

    for dtype, width in ((torch.float32, 64), (torch.float16, 128), (torch.bfloat16, 128)):
        assert attention_mse(*[heads(width, dtype)] * 4).impl == "triton"
    student = heads(128, torch.bfloat16)
    for dtype, impl in ((torch.bfloat16, "triton"), (torch.float32, "torch")):
        teacher = heads(16, dtype)
        assert attention_mse(student, student, teacher, teacher).impl == impl


@pytest.fixture
def distributed() -> Iterator[Tensor]:
    """A weight [4, 4] as FSDP2 holds it, in a world of one process."""
    from torch import distributed as dist
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield distribute_tensor(torch.ones(4, 4), init_device_mesh("cpu", (1,)), [Shard(0)])
    finally:
        dist.destroy_process_group()


def test_a_weight_spread_over_processes_is_refused_by_name(distributed: Tensor) -> None:
    plain, labels = torch.ones(4, 4), torch.zeros(4, dtype=torch.int64)
    four = (torch.ones(1, 1, 4, 4),) * 3
    calls = {
        "weight": lambda: linear_cross_entropy(plain, distributed, None, labels),
        "weight_t": lambda: linear_kl(plain, plain, None, plain, distributed, None),
        "teacher": lambda: kl(plain, distributed),
        "q_s": lambda: attention_mse(distributed.view(1, 1, 4, 4), *four),
    }
    for name, call in calls.items():
        said = f"{name} must be a plain tensor; got a DTensor.*{name}.full_tensor()"
        with pytest.raises(KernelArgumentError, match=re.escape(said).replace(r"\.\*", ".*")):
            call()

    @torch.compile(backend="aot_eager")
    def compiled(weight: Tensor) -> Tensor:
        return linear_cross_entropy(plain, weight, None, labels).loss

    with pytest.raises(KernelArgumentError, match="weight must be a plain tensor; got a DTensor"):
        compiled(distributed)
    assert linear_cross_entropy(plain, distributed.full_tensor(), None, labels).rows == 4
