"""Which GPU a process works on, and what holds a process up."""

from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

from teacherzoo.errors import RecordError
from teacherzoo.processes import own_device, tell_of_locks
from teacherzoo.training.arguments import trainer_arguments


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


@pytest.mark.parametrize("variable", ["TORCH_EXTENSIONS_DIR", "XDG_CACHE_HOME"])
def test_a_lock_beside_an_operator_is_named_before_deepspeed_waits_for_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    variable: str,
) -> None:
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    # Where torch itself puts it.
    folder = Path(cpp_extension._get_build_directory("deepspeed_shm_comm", False))
    assert folder.is_relative_to(tmp_path)
    tell_of_locks()
    assert not caplog.records
    lock = folder / "lock"
    lock.touch()

    tell_of_locks()

    assert [record.getMessage() for record in caplog.records] == [
        f"{lock}: this run waits for the process that builds DeepSpeed's deepspeed_shm_comm; where there is none, it was "
        "killed: stop this run, remove that file and start again."
    ]


def test_only_a_training_under_deepspeed_is_told_of_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lock = tmp_path / "deepspeed_cpu_adam" / "lock"
    lock.parent.mkdir()
    lock.touch()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    decided = {"output_dir": str(tmp_path / "run")}
    trainer_arguments(decided, {}, where="arguments", error=RecordError)
    assert not caplog.records

    # Refused by transformers itself, before anything of DeepSpeed is built.
    with pytest.raises(RecordError):
        trainer_arguments(
            decided,
            {"deepspeed": str(tmp_path / "absent.json")},
            where="arguments",
            error=RecordError,
        )

    assert str(lock) in caplog.text
