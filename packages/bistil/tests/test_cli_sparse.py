"""The commands sft, compose, adapt and compare, as typed."""

import importlib
import json
import re
import shutil
import subprocess
import sys
import typing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from bistil.cli.adapt import adapt_command
from bistil.cli.app import app
from bistil.cli.sft import sft_command
from bistil.errors import AdaptError
from bistil.losses.weights import TaskLossWeights
from bistil.lottery.config import Sparsity
from bistil.lottery.language import SPARSITY, LanguageTraining
from bistil.sparse.files import read_sparse
from bistil.tasks.training import TaskTraining
from bistil.tasks.unlabelled import UnlabelledText
from xeval import LocalFolder, score

SHORT = ["--steps", "2", "--full-steps", "2", "--batch", "4", "--evaluate-every", "2", "--length", "32", "--precision", "float32"]  # fmt: skip


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def learnt(tmp_path_factory, teacher, texts):
    """A language's file, and what the command told."""
    out = tmp_path_factory.mktemp("cli") / "sw.safetensors"
    done = run("sft", teacher, "-o", out, "--corpus", f"sw={texts['sw']}", *SHORT)
    assert done.exit_code == 0, done.stderr
    return out, done


@pytest.fixture(scope="module")
def sw(learnt):
    return learnt[0]


def test_a_log_tells_the_phases_their_loss_and_rate_and_each_evaluation(learnt):
    told = learnt[1].stderr.splitlines()
    for start in ("training all 1/2 (50 %)", "training the chosen 1/2 (50 %)"):
        assert sum(line.startswith(start) for line in told) == 1, told
    evaluations = [line for line in told if line.startswith("evaluated 2/2 (100 %), held-out loss")]
    assert len(evaluations) == 2  # one in each phase
    assert re.search(r", best held-out loss [\d.]+ at step 2", evaluations[0])


def test_a_language_a_task_a_composition_and_a_student(tmp_path, teacher, student, tasks, sw):
    pos = tmp_path / "pos.safetensors"
    done = run("sft", teacher, "-o", pos, "--task", "pos", "--data", tasks, "--language-sft", sw, "--json", "--quiet", *SHORT)  # fmt: skip
    assert done.stderr == ""
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


def test_what_a_composition_leaves_out_of_a_file_is_told(tmp_path, teacher):
    """A file as composable-sft writes it, of a tagger: an empty difference, and its head."""
    steps = {"size": (32,), "index_steps": [3], "values": torch.ones(1)}
    diffs = {"bert.encoder.layer.0.output.dense.bias": steps, "bert.pooler.dense.bias": steps}
    torch.save({"diffs": diffs, "abs": {"classifier.bias": torch.ones(3)}}, tmp_path / "pytorch_diff.bin")  # fmt: skip

    done = run("compose", teacher, "--add", tmp_path / "pytorch_diff.bin", "-o", tmp_path / "out")

    assert done.exit_code == 0
    assert done.stdout.strip() == str(tmp_path / "out")
    assert done.stderr.strip() == (
        f"{tmp_path / 'pytorch_diff.bin'}: its differences of the encoder are added, and classifier.bias, pooler.dense.bias left out, for "
        "the file does not say of which task they are."
    )


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
        (["sft", "M", "-o", "x", "--task", "pos", "--full", "--count", "3"], "leave it out"),
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


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        *((["sft", "M", "--corpus", "en=en.txt", flag, value], f"{flag} has no effect on a language") for flag, value in [
            ("--weight-decay", "0.1"), ("--patience", "3"), ("--language-sft", "f"), ("--source", "en"), ("--data", "d"),
            ("--pooling", "first"), ("--labels", "own"),
        ]),
        (["sft", "M", "--corpus", "en=en.txt", "--precision", "half"], "auto or float32, got 'half'"),
        (["sft", "M", "--task", "pos", "--labels", "own"], "--labels has no effect on 'pos'"),
        (["sft", "M", "--task", "qa", "--pooling", "mean"], "--pooling has no effect on 'qa'"),
        (["sft", "M", "--task", "pos", "--full", "--norms"], "--norms has no effect with --full"),
        (["adapt", "S", "--task", "pos", "--teacher", "M", "--layers", "1;3"], "got '1;3'"),
        *((["adapt", "S", "--task", "pos", "--no-teacher", *flag], f"{flag[0]} has no effect with --no-teacher") for flag in [
            ("--layers", "1,3"), ("--attention", "1"), ("--hidden", "1"), ("--soft", "0"), ("--gold", "1"),
            ("--temperature", "3"), ("--times-t-squared",), ("--text", "sw=sw.txt"),
        ]),
        (["adapt", "S", "--task", "pos", "--teacher", "M", "--lines", "5"], "--lines has no effect without --text"),
        (["adapt", "S", "--task", "pos", "--teacher", "M", "--text", "sw.txt"], "--text must be LANGUAGE=FILE, got 'sw.txt'"),
    ],
)  # fmt: skip
def test_an_option_without_effect_is_refused(words, fault):
    done = run(*words, "-o", "nowhere/x")
    assert done.exit_code == 2
    assert fault in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.fixture
def called(monkeypatch, tmp_path):
    """What a command calls its function with, which then fails."""
    calls = {}
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text("some text")

    def catch(module, name):
        def caught(*_, **options):
            calls.update(options)
            raise AdaptError("caught")

        monkeypatch.setattr(importlib.import_module(f"bistil.{module}"), name, caught)

    for module, name in (("lottery.language", "language_sft"), ("tasks.task_sft", "task_sft"), ("tasks.adapt", "adapt")):  # fmt: skip
        catch(module, name)
    return calls


def test_what_is_not_typed_is_what_the_function_does_by_itself(called):
    run("sft", "M", "-o", "x", "--corpus", "en=t.txt")
    assert called["training"] == LanguageTraining()
    assert called["sparsity"] == SPARSITY
    called.clear()
    run("sft", "M", "-o", "x", "--task", "pos")
    assert called["training"] == TaskTraining()
    run("sft", "M", "-o", "x", "--task", "pos", "--full")
    assert called["training"].sparsity == Sparsity(full=True)
    called.clear()
    run("adapt", "S", "-o", "x", "--task", "pos", "--teacher", "M")
    assert called["training"] == TaskTraining()
    assert called["loss"] == TaskLossWeights()
    assert called["layers"] is None
    assert called["text"] is None
    run("adapt", "S", "-o", "x", "--task", "pos", "--teacher", "M", "--text", "sw=t.txt")
    assert called["text"] == UnlabelledText(sources={"sw": ["t.txt"]})


def test_the_defaults_that_help_names_are_those_of_the_functions():
    language, task = LanguageTraining(), TaskTraining()
    of_tasks = {
        "steps": task.protocol.steps, "weight_decay": task.protocol.weight_decay, "patience": task.protocol.patience,
        "evaluate_every": task.protocol.evaluate_every, "pooling": task.protocol.pooling, "labels": task.protocol.labels,
        "density": task.sparsity.density, "source": "en", "data": "the folder data",
    }  # fmt: skip
    both = "{} for a language, {} for a task".format
    assert shown_defaults(sft_command) == of_tasks | {
        "steps": both(language.steps, task.protocol.steps),
        "evaluate_every": both(language.evaluate_every, task.protocol.evaluate_every),
        "density": both(SPARSITY.density, task.sparsity.density),
        "l1": both(SPARSITY.l1, task.sparsity.l1) + " and with --full",
    } | {name: str(of_tasks[name]) for name in ("weight_decay", "patience")}  # fmt: skip
    defaults = TaskLossWeights().to_json()
    weights = {name: str(defaults[name]) for name in ("attention", "hidden", "soft", "gold", "temperature")}  # fmt: skip
    shown = shown_defaults(adapt_command)
    assert shown.pop("layers").startswith("what `extract` wrote")
    assert shown == weights | {
        "data": of_tasks["data"], "pooling": of_tasks["pooling"], "labels": of_tasks["labels"],
        "density": str(of_tasks["density"]), "lines": f"{UnlabelledText(sources={}).lines:,}",
    }  # fmt: skip


def shown_defaults(command):
    """Option to the default that help shows, of those whose own is None."""
    hints = typing.get_type_hints(command, include_extras=True)
    options = {name: typing.get_args(hint)[1] for name, hint in hints.items() if typing.get_args(hint)[1:]}  # fmt: skip
    return {
        name: option.show_default
        for name, option in options.items()
        if isinstance(getattr(option, "show_default", None), str)
    }


def test_what_is_typed_reaches_the_function(called):
    run(
        "sft", "M", "-o", "x", "--corpus", "en=t.txt", "--steps", "7", "--evaluate-every", "3", "--batch", "6", "--l1", "0",
        "--count", "5", "--precision", "float32", "--seed", "2", "--length", "9", "--warmup", "0.5", "--norms",
    )  # fmt: skip
    assert called["training"] == LanguageTraining(
        steps=7, evaluate_every=3, checkpoint_every=3, batch=6, bf16=False, seed=2, length=9, warmup=0.5
    )  # fmt: skip
    assert called["sparsity"] == replace(SPARSITY, l1=0.0, count=5, freeze_norms=False)
    run("adapt", "S", "-o", "x", "--task", "ner", "--teacher", "M", "--labels", "own", "--layers", "1, 3", "--gold", "1")  # fmt: skip
    assert called["training"].protocol.labels == "own"
    assert called["layers"] == (1, 3)
    assert called["loss"] == TaskLossWeights(gold=1.0)


def test_under_a_launcher_one_process_tells_what_was_made(monkeypatch, tmp_path, teacher, texts, sw):  # fmt: skip
    made = read_sparse(sw)

    def make(model, text, out, **_):
        shutil.copy(sw, out)
        return made

    monkeypatch.setattr(importlib.import_module("bistil.lottery.language"), "language_sft", make)
    words = ("sft", teacher, "--corpus", f"sw={texts['sw']}", "--json")
    assert json.loads(run(*words, "-o", tmp_path / "first").stdout)["language"] == "sw"
    monkeypatch.setenv("RANK", "1")
    assert run(*words, "-o", tmp_path / "second").stdout == ""


def test_help_and_what_is_refused_at_once_import_no_slow_library(tmp_path):
    """One process, in which each of them is typed in turn."""
    (tmp_path / "taken").touch()
    typed = [
        ["sft", "--help"], ["adapt", "--help"], ["compare", "--help"], ["sft", "M", "-o", "x"],
        ["sft", "M", "-o", "x", "--corpus", "en=none.txt"], ["sft", "M", "-o", "taken", "--task", "pos"],
        ["sft", "M", "-o", "x", "--task", "pos", "--labels", "own"], ["adapt", "S", "-o", "taken", "--task", "pos", "--no-teacher"],
        ["adapt", "S", "-o", "x", "--task", "pos", "--no-teacher", "--gold", "1"], ["compare", "none.yaml"],
    ]  # fmt: skip
    program = (
        "import sys; from typer.testing import CliRunner; from bistil.cli.app import app\n"
        f"codes = [CliRunner().invoke(app, words).exit_code for words in {typed!r}]\n"
        "print(codes, [name for name in ('torch', 'transformers', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)  # fmt: skip
    assert done.stdout.strip() == f"{[0, 0, 0] + [2] * 7} []"


def test_what_the_launcher_of_deepspeed_says_of_a_process_is_taken():
    done = run("--local_rank=1", "sft", "nowhere", "-o", "x.safetensors")

    assert done.exit_code == 2
    assert "local_rank" not in done.stderr
