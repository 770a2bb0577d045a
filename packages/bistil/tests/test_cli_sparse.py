"""The commands sft, compose, adapt and compare, as typed."""

import json

import pytest
from typer.testing import CliRunner

from bistil.cli import app
from xeval import LocalFolder, score

SHORT = ["--steps", "2", "--full-steps", "2", "--batch", "4", "--evaluate-every", "2", "--length", "32", "--precision", "float32"]  # fmt: skip


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def sw(tmp_path_factory, teacher, texts):
    out = tmp_path_factory.mktemp("cli") / "sw.safetensors"
    done = run("sft", teacher, "-o", out, "--corpus", f"sw={texts['sw']}", *SHORT)
    assert done.exit_code == 0, done.stderr
    return out


def test_a_language_a_task_a_composition_and_a_student(tmp_path, teacher, student, tasks, sw):
    pos = tmp_path / "pos.safetensors"
    done = run("sft", teacher, "-o", pos, "--task", "pos", "--data", tasks, "--language-sft", sw, "--json", *SHORT)  # fmt: skip
    facts = json.loads(done.stdout)
    assert facts["task"] == "pos"
    assert facts["bytes"] == pos.stat().st_size
    done = run("compose", teacher, "--add", sw, "--add", pos, "-o", tmp_path / "worn")
    assert done.stdout.strip() == str(tmp_path / "worn")
    done = run(
        "adapt", student, "--teacher", teacher, "--language-sft", sw, "--task-sft", pos, "--task", "pos",
        "--data", tasks, "-o", tmp_path / "out", "--density", "0.1", *SHORT,
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert "accuracy" in done.stdout
    for name in ("worn", "out"):
        [figure] = score(tmp_path / name, tmp_path / "r.jsonl", source=LocalFolder(tasks), languages=["sw"])  # fmt: skip
        assert figure.value is not None


def test_a_language_can_be_composed_alone_and_taken_away(tmp_path, teacher, sw):
    assert run("compose", teacher, "--add", sw, "-o", tmp_path / "with").exit_code == 0
    assert run("compose", teacher, "--subtract", sw, "-o", tmp_path / "without").exit_code == 0
    assert (tmp_path / "with" / "tokenizer.json").is_file()


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["sft", "M", "-o", "x"], "either --corpus LANGUAGE=FILE"),
        (["sft", "M", "-o", "x", "--corpus", "a=b", "--task", "pos"], "either --corpus"),
        (["sft", "M", "-o", "x", "--corpus", "text.txt"], "LANGUAGE=FILE, got 'text.txt'"),
        (["sft", "M", "-o", "x", "--task", "pos", "--density", "0"], "density must be above 0"),
        (["sft", "M", "-o", "x", "--task", "pos", "--density", "0.1", "--count", "3"], "give one"),
        (["sft", "M", "-o", "x", "--task", "pos", "--full", "--count", "3"], "leave out"),
        (["sft", "M", "-o", "x", "--task", "bpb", "--data", "TASKS"], "choose a task with a head"),
        (["sft", "M", "-o", "x", "--task", "pos", "--trainer", "none.json"], "none.json"),
        (["compose", "M", "-o", "x"], "nothing to compose"),
        (["compose", "M", "-o", "x", "--add", "none.safetensors"], "none.safetensors"),
        (["adapt", "S", "--task", "pos", "-o", "x"], "--teacher MODEL"),
        (
            ["adapt", "S", "--task", "pos", "-o", "x", "--no-teacher", "--task-sft", "f"],
            "--teacher",
        ),
        (["adapt", "S", "--task", "pos", "-o", "x", "--no-teacher", "--data", "none"], "none"),
        (["compare", "none.yaml"], "none.yaml"),
    ],
)
def test_misuse_and_mistakes_end_with_2_and_one_sentence(monkeypatch, tmp_path, teacher, student, tasks, words, fault):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    places = {"M": teacher, "S": student, "TASKS": tasks}
    done = run(*(places.get(word, word) for word in words))
    assert done.exit_code == 2
    assert fault in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "x").exists()


def test_what_the_launcher_of_deepspeed_says_of_a_process_is_taken():
    done = run("--local_rank=1", "sft", "nowhere", "-o", "x.safetensors")

    assert done.exit_code == 2
    assert "local_rank" not in done.stderr
