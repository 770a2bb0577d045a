"""A process that is killed outright, in the midst of a checkpoint, or finds no room on the disk, and is called again."""

import functools
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

Command = Callable[[Path], list[str]]


@pytest.fixture(scope="module")
def commands(
    python: str, teacher: Path, student: Path, texts: dict[str, Path], tasks: Path
) -> dict[str, Command]:
    """Each writes its argument."""
    corpora = [part for code in ("en", "sw") for part in ("--corpus", f"{code}={texts[code]}")]
    learning = ["--steps", "30", "--evaluate-every", "5", "--learning-rate", "0.001", "--length", "40"]  # fmt: skip
    bistil = [python, "-m", "bistil"]
    return {
        "extract": lambda out: [
            *bistil, "extract", str(teacher), "--source", "en", "--target", "sw", *corpora, "-o", str(out),
            "--steps", "30", "--checkpoint-every", "5", "--length", "32", "--batch", "2", "--width", "16",
        ],
        "sft": lambda out: [
            *bistil, "sft", str(teacher), "--corpus", f"sw={texts['sw']}", "-o", str(out), *learning,
        ],
        "adapt": lambda out: [
            *bistil, "adapt", str(student), "--teacher", str(teacher), "--task", "pos", "--data", str(tasks),
            "--precision", "float32", "-o", str(out), *learning,
        ],
    }  # fmt: skip


def _start(
    command: list[str], cache: Path, *, largest_file: int | None = None
) -> subprocess.Popen[str]:
    def confine() -> None:
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    return subprocess.Popen(
        command,
        preexec_fn=confine,
        env={**os.environ, "OMP_NUM_THREADS": "1", "XEVAL_CACHE": str(cache)},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def _finish(command: list[str], cache: Path) -> None:
    process = _start(command, cache)
    _, told = process.communicate(timeout=900)
    assert process.returncode == 0, told[-3000:]


@dataclass(frozen=True)
class Undisturbed:
    """What a command wrote that ran to its end, and the cache that it filled."""

    out: Path
    cache: Path


@pytest.fixture(scope="module")
def undisturbed(
    commands: dict[str, Command], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Undisturbed]:
    @functools.cache
    def run(name: str) -> Undisturbed:
        folder = tmp_path_factory.mktemp(name)
        _finish(commands[name](folder / "out"), folder / "cache")
        return Undisturbed(folder / "out", folder / "cache")

    return run


def _has_checkpoint(folder: Path) -> bool:
    """Folders that the other process takes away meanwhile are passed over."""
    return any(name.startswith("checkpoint-") for _, names, _ in os.walk(folder) for name in names)


def _weights(out: Path) -> bytes:
    return (out / "model.safetensors" if out.is_dir() else out).read_bytes()


@pytest.mark.parametrize("command", ["extract", "sft", "adapt"])
def test_killed_at_a_checkpoint_and_called_again_ends_in_the_same_bytes(
    command: str,
    commands: dict[str, Command],
    undisturbed: Callable[[str], Undisturbed],
    tmp_path: Path,
) -> None:
    whole, killed = undisturbed(command), tmp_path / "out"

    process = _start(commands[command](killed), whole.cache)
    while process.poll() is None and not _has_checkpoint(killed.parent):
        time.sleep(0.01)
    assert process.poll() is None, process.stderr and process.stderr.read()[-3000:]
    process.send_signal(signal.SIGKILL)
    process.communicate()

    assert process.returncode == -signal.SIGKILL
    assert not killed.exists()
    _finish(commands[command](killed), whole.cache)
    assert _weights(killed) == _weights(whole.out)
    assert not list(killed.parent.glob(".out.*"))


@pytest.mark.parametrize("command", ["extract", "sft", "adapt"])
def test_out_of_room_it_says_so_and_goes_on_when_there_is_some(
    command: str,
    commands: dict[str, Command],
    undisturbed: Callable[[str], Undisturbed],
    tmp_path: Path,
) -> None:
    whole, cut = undisturbed(command), tmp_path / "out"

    refused = 0
    for largest_file in (2**12, 2**14, 2**16, 2**18, None):
        process = _start(commands[command](cut), whole.cache, largest_file=largest_file)
        _, told = process.communicate(timeout=900)
        if process.returncode == 0:
            break
        assert process.returncode == 2, told[-3000:]
        assert "make room" in told.splitlines()[-1]
        assert not cut.exists()
        refused += 1

    assert refused >= 2  # before training and in it
    assert _weights(cut) == _weights(whole.out)
