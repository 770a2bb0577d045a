import json
from importlib import import_module
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from teacherzoo import Signals
from teacherzoo.cli.app import app
from teacherzoo.signals.layout import read_manifest


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_record_verify_and_stats_in_one_go(teacher: Path, text: Path, tmp_path: Path) -> None:
    folder = str(tmp_path / "signals")

    recorded = call(
        *(
            "record",
            str(teacher),
            "--corpus",
            f"en={text}",
            "-o",
            folder,
            "--limit",
            "30",
            "--k",
            "4",
            "--json",
        )
    )
    verified = call("verify", folder, str(teacher), "--rows", "10", "--json")
    silent = call("verify", folder, str(teacher), "--rows", "10", "--quiet")
    weighed = call("stats", folder, "--json")

    signals = Signals(folder)
    positions = len(signals.batch(range(len(signals))).labels)
    assert json.loads(recorded.stdout)["positions"] == positions
    assert json.loads(verified.stdout)["rows"] == 10
    assert verified.stderr.splitlines()[-1] == "asking again 10/10 (100 %)"
    assert silent.stderr == ""
    assert json.loads(verified.stdout)["worst_kl"] < 1e-4
    assert json.loads(weighed.stdout)["languages"]["en"]["positions"] == positions
    assert json.loads(weighed.stdout)["k"] == 4


def test_people_get_tables_and_sentences(recording: Path, teacher: Path) -> None:
    verified, weighed = call("verify", str(recording), str(teacher)), call("stats", str(recording))

    assert "KL mean" in verified.stdout
    assert "worst" in verified.stdout
    for word in ("accuracy", "tail", "bytes per masked position", "together"):
        assert word in weighed.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["record", "{teacher}", "--corpus", "{text}", "-o", "{out}"],
            "--corpus must be LANGUAGE=SOURCE",
        ),
        (
            ["record", "{teacher}", "--corpus", "en=missing.txt", "-o", "{out}"],
            "there is no file missing.txt",
        ),
        (
            ["record", "./nowhere", "--corpus", "en={text}", "-o", "{out}"],
            "there is no such folder",
        ),
        (
            ["record", "{teacher}", "--corpus", "en={text}", "-o", "{out}", "--k", "0"],
            "k must be at least 1",
        ),
        (
            ["record", "{teacher}", "--corpus", "en={text}", "-o", "{out}", "--policy", "x"],
            "policy must be",
        ),
        (
            ["record", "{teacher}", "--corpus", "en={text}", "-o", "{out}", "--part", "x"],
            "part must be",
        ),
        (
            ["record", "{teacher}", "--corpus", "en={text}", "-o", "{recording}"],
            "record into another folder",
        ),
        (["verify", "{out}", "{teacher}"], "there is no such folder"),
        (["stats", "{out}"], "there is no such folder"),
    ],
)
def test_every_refusal_is_one_sentence_and_exit_2(
    teacher: Path, text: Path, recording: Path, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    places = {"teacher": teacher, "text": text, "out": tmp_path / "out", "recording": recording}

    done = call(*(argument.format(**places) for argument in arguments))

    assert done.exit_code == 2
    assert done.stdout == ""
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_ctrl_c_says_how_to_go_on(
    teacher: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(import_module("teacherzoo.signals.record"), "record", interrupted)
    done = call("record", str(teacher), "--corpus", f"en={text}", "-o", str(tmp_path / "out"))

    assert done.exit_code == 130
    assert "goes on from what is done" in done.stderr


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 …"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)  # fmt: skip
def test_too_little_memory_is_one_sentence_of_every_command(
    teacher: Path, text: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(import_module("teacherzoo.rank.rank"), "bits_per_byte", full)
    done = call("rank", str(teacher), "--corpus", f"en={text}", "--part", "all", "--quiet")

    assert done.exit_code == 2
    assert "Memory does not suffice; what was finished before is kept" in done.stderr
    assert done.stderr.count("\n") == 1


def test_other_errors_of_torch_keep_their_traceback(
    teacher: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(import_module("teacherzoo.rank.rank"), "bits_per_byte", broken)
    done = call("rank", str(teacher), "--corpus", f"en={text}", "--part", "all", "--quiet")

    assert isinstance(done.exception, RuntimeError)


def test_what_the_launcher_of_deepspeed_says_of_a_process_is_taken() -> None:
    assert call("--local_rank=1", "record", "--help").exit_code == 0


def test_a_data_set_on_the_hub_is_named_with_its_configuration_and_split(
    teacher: Path, lines: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def load_dataset(*named: object, **options: object) -> list[dict[str, str]]:
        asked.append((named, options))
        return [{"title": "of a page", "text": line} for line in lines]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    folder = tmp_path / "signals"

    recorded = call("record", str(teacher), "--corpus", "en=hub:wikimedia/wikipedia:20231101.en:test", "-o", str(folder), "--limit", "9")  # fmt: skip
    refused = call("record", str(teacher), "--corpus", "en=hub:a/b:c:d:e", "-o", str(folder))

    assert recorded.exit_code == 0
    assert {repr(one) for one in asked} == {
        repr((("wikimedia/wikipedia", "20231101.en"), {"split": "test", "streaming": True}))
    }
    assert read_manifest(folder).corpora["en"].documents == 9
    assert refused.exit_code == 2
    assert "expected hub:NAME[:CONFIG[:SPLIT]], got 'hub:a/b:c:d:e'" in refused.stderr
