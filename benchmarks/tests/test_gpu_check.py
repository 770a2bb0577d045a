"""The command for a machine with a GPU: what it does when things go wrong, and that nothing in it needs one to be tried."""

import argparse
import contextlib
import importlib
import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tools")]

import gpu_check  # noqa: E402  (the path comes first)
import gpu_check_wheels  # noqa: E402
from gpu_check import Part, Runner, Status, all_parts, missing  # noqa: E402
from graph import read_packages  # noqa: E402

WHOLE = {"gpus": [{"name": "H100"}], "missing": []}


def _python(name: str, text: str, **options: Any) -> Part:
    return Part(name=name, command=("-c", text), **{"seconds": 60.0, **options})


def _records(out: Path) -> list[Any]:
    return [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]


def test_a_part_that_is_cut_off_or_fails_leaves_what_it_measured_and_the_next_one_runs(
    tmp_path: Path,
) -> None:
    append = (
        f"file = open({str(tmp_path / 'records.jsonl')!r}, 'a'); print(%s, file=file, flush=True)"
    )
    run = Runner(tmp_path, {}, time.monotonic() + 60)

    run(_python("long", append % 1 + "\nimport time; time.sleep(60)", seconds=1.0))
    run(_python("broken", append % 2 + "\nraise SystemExit(3)"))
    run(_python("absent", "", reason="there is no CUDA device"))
    run(_python("right", append % 4))

    assert _records(tmp_path) == [1, 2, 4]
    assert [status.outcome for status in run.statuses] == ["cut off", "failed", "skipped", "done"]
    told = [
        Status(**json.loads(line)) for line in (tmp_path / "parts.jsonl").read_text().splitlines()
    ]
    assert told == run.statuses
    summary = (tmp_path / "summary.txt").read_text()
    assert "long: cut off" in summary
    assert "broken: failed" in summary
    assert "exit 3" in summary
    assert "there is no CUDA device" in summary
    assert "records: 3" in summary


def _runs(pid: str) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    return False


def test_a_part_that_is_cut_off_takes_its_children_along(tmp_path: Path) -> None:
    child = "import time; time.sleep(60)"
    text = f"import subprocess, sys; c = subprocess.Popen([sys.executable, '-c', {child!r}]); print(c.pid, flush=True); c.wait()"
    Runner(tmp_path, {}, time.monotonic() + 60)(_python("parent", text, seconds=2.0))

    pid = (tmp_path / "log.txt").read_text().split()[-1]
    for _ in range(100):  # a killed process takes a moment to be gone
        if not _runs(pid):
            break
        time.sleep(0.1)
    assert not _runs(pid)


def test_no_part_starts_when_the_whole_time_is_over(tmp_path: Path) -> None:
    run = Runner(tmp_path, {}, time.monotonic() + 1)
    run(_python("late", "raise SystemExit(1)"))

    [status] = run.statuses
    assert (status.outcome, status.reason) == (
        "skipped", "the time limit of the whole run is reached",
    )  # fmt: skip


def test_a_whole_machine_runs_every_part_and_one_that_lacks_a_module_says_which() -> None:
    packages, out = read_packages(ROOT), Path("out")

    whole = all_parts(packages, WHOLE, out)
    lacking = all_parts(packages, {**WHOLE, "missing": ["pydantic"]}, out)
    bare = all_parts(packages, {"gpus": [], "missing": []}, out)

    assert [part.reason for part in whole] == [None] * len(whole)
    assert sum(part.seconds for part in whole) <= gpu_check.LIMIT + 60
    skipped = {part.name for part in lacking if part.reason}
    assert skipped == {
        "tests of bistil",
        "tests of mergedistill",
        "bistil_step",
        "mergedistill_step",
    }
    assert {part.reason for part in lacking if part.reason} == {
        "pydantic is missing; bring it with --wheels"
    }
    assert {part.reason for part in bare} == {"there is no CUDA device"}
    broken = all_parts(packages, {"gpus": [], "broken": {"torch": "ImportError: libcudart"}}, out)
    assert {part.reason for part in broken} == {"torch cannot be imported (ImportError: libcudart)"}
    assert missing(packages, "xeval", {"missing": ["conllu", "pydantic"]}) == ["conllu"]


def test_every_file_with_a_test_for_a_gpu_is_run() -> None:
    [tests] = [
        part for part in all_parts(read_packages(ROOT), WHOLE, Path("out")) if part.name == "tests"
    ]
    files = {Path(word).name for word in tests.command if word.endswith(".py")}
    carrying = {
        file.name
        for file in ROOT.glob("packages/*/tests/test_*.py")
        if "pytest.mark.gpu" in (text := file.read_text()) or '("kind", DEVICES)' in text
    }
    assert {
        "test_gpu_commands.py",
        "test_gpu_judge.py",
        "test_gpu_run.py",
        "test_gpu_teachers.py",
    } <= files
    assert files == carrying


def test_wheels_of_what_is_there_stay_packed(tmp_path: Path) -> None:
    def wheel(name: str, version: str) -> None:
        info = f"{name}-{version}.dist-info"
        with zipfile.ZipFile(tmp_path / f"{name}-{version}-py3-none-any.whl", "w") as file:
            file.writestr(f"{name}/__init__.py", f"VERSION = {version!r}\n")
            file.writestr(
                f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            )
            file.writestr(
                f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            file.writestr(f"{info}/RECORD", "")

    for name, version in (
        ("numpy", "1.0"),
        ("made_up_library", "1.9"),
        ("made_up_library", "1.10"),
    ):
        wheel(name, version)

    unpacked = gpu_check_wheels.unpack_missing(tmp_path, tmp_path / "site")

    assert unpacked == ["made_up_library-1.10-py3-none-any.whl"]
    assert "1.10" in (tmp_path / "site/made_up_library/__init__.py").read_text()
    assert not (tmp_path / "site/numpy").exists()


def test_a_folder_with_something_in_it_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "records.jsonl").touch()
    assert gpu_check.main(["--out", str(tmp_path)]) == 2
    assert "is there and not empty" in capsys.readouterr().err


@pytest.mark.slow
def test_without_a_gpu_it_ends_well_and_says_that_nothing_was_measured(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "gpu_check.py"), "--out", str(tmp_path / "out")],
        capture_output=True, text=True, env={"CUDA_VISIBLE_DEVICES": "", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "Nothing was measured, for there is no CUDA device."
    assert "kdkernels_teacher: skipped" in done.stdout
    files = list((tmp_path / "out").iterdir())
    assert len(files) <= 8
    machine = json.loads((tmp_path / "out" / "machine.json").read_text())
    assert machine["gpus"] == []
    assert {"torch", "transformers", "vocabmerge", "distillery-xeval"} <= machine["versions"].keys()


def _once(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    for run in runs.values():
        run()
    return {name: [1.0] for name in runs}


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs a question's own code with the pretended GPU, at sizes that take no time; its records."""
    from pretended_device import pretended_gpu

    def run(name: str, *, more: Sequence[str] = (), **sizes: object) -> list[Any]:
        question = importlib.import_module(name)
        for key, value in {"DEVICE": "cuda", **sizes}.items():
            monkeypatch.setattr(question, key, value, raising=False)
        monkeypatch.setattr(
            sys, "argv", [name, "--quick", "--out", str(tmp_path / "records.jsonl"), *more]
        )
        monkeypatch.setattr(question, "race", _once)
        with pretended_gpu():
            question.main()
        return _records(tmp_path)

    return run


def test_a_step_of_mergedistill_is_measured_on_the_gpu(pretended: Any) -> None:
    from mergedistill_step import Size

    tiny = Size(pieces=120, width=32, layers=1, depths=(1, 2), blocks=2, length=16, repeats=1)
    records = pretended("mergedistill_step", QUICK=tiny)
    assert {"mlm only", "recorded", "online, 2 layers, all logits"} <= {
        r["contender"] for r in records
    }


def test_recording_is_measured_on_the_gpu(pretended: Any) -> None:
    records = pretended("teacherzoo_record", PIECES=300, LAYERS=1)
    assert {"recording", "logits everywhere + top k", "reading"} <= {
        r["contender"] for r in records
    }


def test_a_step_of_bistil_is_measured_on_the_gpu(pretended: Any, tmp_path: Path) -> None:
    import bistil_step
    import torch
    from pretended_device import pretended_gpu
    from record import Recorder
    from transformers import BertConfig, BertForMaskedLM

    small = {"vocab_size": 60, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32}
    records = tmp_path / "records.jsonl"
    arguments = argparse.Namespace(out=records, quick=True)
    with pytest.MonkeyPatch.context() as patch, pretended_gpu():
        patch.setattr(bistil_step, "DEVICE", "cuda")
        patch.setattr(bistil_step, "kept_bytes", lambda *_: 1)  # storages are the CPU's here
        patch.setattr(bistil_step, "race", _once)
        patch.setattr(
            bistil_step, "BertConfig", lambda **_: BertConfig(num_hidden_layers=12, **small)
        )
        patch.setattr(bistil_step, "VOCABULARY", 60)
        teacher, student = bistil_step.models()
        assert isinstance(teacher, BertForMaskedLM)
        bistil_step.measure(
            Recorder("bistil_step", arguments), teacher, student, 1, 8, "fp32", torch.float32, quick=True
        )  # fmt: skip
    found = [json.loads(line) for line in records.read_text().splitlines()]
    differences = {r["contender"]: r["median"] for r in found if r["what"].startswith("difference")}
    assert differences.keys() == {"ours"}
    assert max(differences.values()) < 1e-5


def test_losses_at_the_sizes_of_real_models_are_measured_on_the_gpu(
    pretended: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("kdkernels_online", "kdkernels_attention"):
        module = importlib.import_module(name)
        if hasattr(module, "DEVICE"):
            monkeypatch.setattr(module, "DEVICE", "cuda")
    records = pretended("kdkernels_teacher")
    assert {"linear_distil_loss", "linear_kl", "tiles", "dense eager"} <= {
        r["contender"] for r in records
    }


def test_blocks_that_the_device_has_no_room_for_are_no_candidates(
    pretended: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    import kdkernels_tune
    from triton.runtime.errors import OutOfResources

    def launch(_kernel: str, *_operands: object) -> None:
        *_, options = _operands
        if options.get("BLOCK_V", 0) > 8192:
            raise OutOfResources(300_000, 232_448, "shared memory")

    file = tmp_path / "blocks.json"
    monkeypatch.setattr(kdkernels_tune, "launch", launch)
    records = pretended("kdkernels_tune", more=["--blocks", str(file)], N=2, V=16)

    assert not any(record["contender"].startswith("BLOCK_V 16384") for record in records)
    blocks = json.loads(file.read_text())
    assert blocks.keys() == {"projection", "row_losses", "divergences"}
    assert blocks["row_losses"]["pretended GPU"]["BLOCK_V"] in (4096, 8192)
