import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from teacherzoo import Corpus, RecordError, record
from teacherzoo.encoders import zero3


def test_without_deepspeed_the_refusal_says_what_to_install(
    teacher: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)

    with pytest.raises(RecordError, match=r"pip install 'teacherzoo\[deepspeed\]'"):
        record(teacher, [Corpus("en", text)], tmp_path / "signals", offload="cpu")


def test_without_libaio_the_refusal_says_what_to_install(
    teacher: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("deepspeed", reason="the extra 'deepspeed' is not installed")
    monkeypatch.setattr(zero3, "_disk_is_usable", lambda: False)

    with pytest.raises(RecordError, match="needs libaio and a C"):
        record(teacher, [Corpus("en", text)], tmp_path / "signals", offload=tmp_path / "disk")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_sharded_teacher_says_the_same(
    python: str, recording: Path, teacher: Path, text: Path, tmp_path: Path, processes: int
) -> None:
    pytest.importorskip("deepspeed", reason="the extra 'deepspeed' is not installed")

    done = offloaded(python, teacher, text, tmp_path / "signals", "cpu", processes)

    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "signals") == contents(recording)


@pytest.mark.slow
def test_a_teacher_on_disk_says_the_same_to_two_processes(
    python: str,
    tokenizer: Any,
    make_teacher: Callable[..., Path],
    lines: list[str],
    tmp_path: Path,
) -> None:
    pytest.importorskip("deepspeed", reason="the extra 'deepspeed' is not installed")
    if not zero3._disk_is_usable():
        pytest.skip("the system's libaio is not installed")
    # DeepSpeed keeps shares of less than a MiB in memory.
    teacher = make_teacher(tmp_path / "teacher", tokenizer, intermediate_size=1 << 16)
    text = tmp_path / "en.txt"
    text.write_text("\n".join(lines[:60]), encoding="utf-8")

    done = offloaded(python, teacher, text, tmp_path / "signals", str(tmp_path / "disk"), 2)

    assert done.returncode == 0, done.stderr
    record(teacher, [Corpus("en", text)], tmp_path / "plain", block_length=32, shard_bytes=8000)
    assert contents(tmp_path / "signals") == contents(tmp_path / "plain")
    swapped = [path.stat().st_size for path in (tmp_path / "disk").rglob("*") if path.is_file()]
    assert sum(swapped) > 1 << 20


def offloaded(
    python: str, teacher: Path, text: Path, folder: Path, offload: str, processes: int
) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "--no-python", python]  # fmt: skip
    options = ["--block-length", "32", "--shard-bytes", "8000", "--offload", offload]
    return subprocess.run(
        [
            python,
            *(launcher if processes > 1 else []),
            *(
                "-m",
                "teacherzoo",
                "record",
                str(teacher),
                "--corpus",
                f"en={text}",
                "-o",
                str(folder),
            ),
            *options,
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )


def contents(folder: Path) -> dict[str, Any]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name != "run.json"}
