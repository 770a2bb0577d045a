"""A forgotten move is caught, a right program passes, and the numbers are the CPU's."""

import copy

import pytest
import torch
import torch.nn.functional as F
from pretended_device import DeviceMismatchError, GpuTensor, no_gpu, on_gpu, pretended_gpu
from torch import nn


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(7, 4), nn.LayerNorm(4), nn.Linear(4, 7))


IDS = torch.arange(6).reshape(2, 3)


def _train(model: nn.Module, device: str) -> list[float]:
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    losses = []
    for _ in range(3):
        ids = IDS.to(device)
        loss = F.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_training_gives_the_cpus_numbers_to_the_bit() -> None:
    model, twin = _model(), _model()
    expected = _train(twin, "cpu")

    with pretended_gpu():
        losses = _train(model, "cuda")

        assert on_gpu(model)
        weights = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    assert losses == expected
    assert all(torch.equal(weights[name], tensor) for name, tensor in twin.state_dict().items())


def _matrix_on_cpu(there: torch.Tensor) -> torch.Tensor:
    return there @ torch.eye(3)


def _difference_to_a_copy_on_cpu(there: torch.Tensor) -> torch.Tensor:
    return there - torch.zeros(3, 3)


def _mask_made_on_cpu(there: torch.Tensor) -> torch.Tensor:
    return there.masked_fill(torch.ones(3, 3, dtype=torch.bool), 0)


def _written_into_cpu(there: torch.Tensor) -> torch.Tensor:
    return torch.zeros(3, 3).add_(there)


def _cpu_rows_by_indices_there(there: torch.Tensor) -> torch.Tensor:
    return torch.eye(3)[there[0].long()]


def _values_on_cpu(there: torch.Tensor) -> torch.Tensor:
    there[torch.tensor([0])] = torch.ones(1, 3)
    return there


def _joined(there: torch.Tensor) -> torch.Tensor:
    return torch.cat([there, torch.eye(3)])


@pytest.mark.parametrize(
    "forgetful",
    [
        _matrix_on_cpu,
        _difference_to_a_copy_on_cpu,
        _mask_made_on_cpu,
        _written_into_cpu,
        _cpu_rows_by_indices_there,
        _values_on_cpu,
        _joined,
    ],
)
def test_a_forgotten_move_is_refused(forgetful) -> None:
    with pretended_gpu():
        there = torch.ones(3, 3, device="cuda")
        with pytest.raises(
            DeviceMismatchError, match="some on the GPU and on the CPU one of shape"
        ):
            forgetful(there)


def test_what_cuda_lets_pass_passes() -> None:
    with pretended_gpu():
        there = torch.arange(9.0, device="cuda").reshape(3, 3)
        there[torch.tensor([0])] = 5.0  # indices on the CPU
        there *= torch.tensor(2.0)  # a number on the CPU
        onto_cpu = torch.zeros(3, 3)
        onto_cpu.copy_(there)
        mean = there.mean()

        assert float(mean) == pytest.approx((30 + 2 * (3 + 4 + 5 + 6 + 7 + 8)) / 9)
    assert type(onto_cpu) is torch.Tensor
    assert onto_cpu[0].tolist() == [10.0] * 3


def test_a_view_has_the_address_of_what_it_views_and_a_copy_has_not() -> None:
    with pretended_gpu():
        there = torch.ones(4, 3, device="cuda")
        assert there[:2].data_ptr() == there.data_ptr() != there.clone().data_ptr()
        there[1:].zero_()
        assert there.sum().item() == 3


def test_meta_is_still_meta() -> None:
    with pretended_gpu(), torch.device("meta"):
        layer = nn.Linear(2, 2)
    assert layer.weight.is_meta
    assert not isinstance(layer.weight, GpuTensor)


def test_numpy_of_a_tensor_on_the_gpu_is_refused() -> None:
    with pretended_gpu():
        there = torch.ones(2).cuda()
        with pytest.raises((TypeError, RuntimeError)):
            there.numpy()
        assert there.cpu().numpy().tolist() == [1.0, 1.0]


def test_values_survive_every_way_to_the_gpu() -> None:
    with pretended_gpu():
        ways = [
            torch.tensor([1.0, 2.0], device="cuda"),
            torch.tensor([1.0, 2.0]).to("cuda:0"),
            torch.tensor([1.0, 2.0]).to(torch.device("cuda")),
            torch.as_tensor([1.0, 2.0], device=torch.device("cuda", 0)),
            torch.ones(1, device="cuda").new_tensor([1.0, 2.0]),
            torch.tensor([1.0, 2.0], dtype=torch.float64).to(device="cuda", dtype=torch.float32),
        ]
        assert [way.tolist() for way in ways] == [[1.0, 2.0]] * len(ways)
        assert all(isinstance(way, GpuTensor) for way in ways)


def test_a_moved_parameter_stays_the_object_it_was_and_keeps_its_hooks() -> None:
    model = _model()
    before = list(model.parameters())
    seen: list[bool] = []
    hook = before[0].register_hook(lambda gradient: seen.append(on_gpu(gradient)))
    with pretended_gpu():
        model.to("cuda")
        model(IDS.cuda()).sum().backward()
        hook.remove()
        model(IDS.cuda()).sum().backward()

        assert [id(one) for one in model.parameters()] == [id(one) for one in before]
        assert seen == [True]
        model.cpu()
        assert not any(isinstance(one, GpuTensor) for one in model.parameters())


def test_tied_weights_stay_tied() -> None:
    model = _model()
    model[2].weight = model[0].weight
    with pretended_gpu():
        copied = copy.deepcopy(model)
        model.to("cuda")
        copied.to("cuda")
        assert model[2].weight is model[0].weight
        assert copied[2].weight is copied[0].weight


def test_outside_nothing_is_pretended() -> None:
    available, count = torch.cuda.is_available(), torch.cuda.device_count()
    with pretended_gpu(3):
        assert (torch.cuda.is_available(), torch.cuda.device_count()) == (True, 3)
        with no_gpu():
            assert not torch.cuda.is_available()
    assert (torch.cuda.is_available(), torch.cuda.device_count()) == (available, count)
    assert type(torch.zeros(2)) is torch.Tensor


def test_transformers_remembers_nothing_of_a_gpu_that_came_or_went() -> None:
    from transformers.utils import is_torch_bf16_gpu_available

    before = is_torch_bf16_gpu_available()
    with no_gpu():
        assert not is_torch_bf16_gpu_available()
        with pretended_gpu():
            assert is_torch_bf16_gpu_available()
        assert not is_torch_bf16_gpu_available()
    assert is_torch_bf16_gpu_available() == before
