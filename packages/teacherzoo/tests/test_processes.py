"""Which GPU a process works on."""

import pytest
import torch

from teacherzoo.processes import own_device


@pytest.mark.parametrize(
    ("gpus", "local_rank", "device"),
    [
        (0, None, "cpu"),
        (0, "1", "cpu"),
        (4, None, "cuda:1"),
        (4, "2", "cuda:2"),
        (1, "0", "cuda:0"),
    ],
)
def test_each_process_of_a_launcher_has_a_gpu_of_its_own(
    monkeypatch: pytest.MonkeyPatch, gpus: int, local_rank: str | None, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", local_rank)

    assert own_device() == torch.device(device)
