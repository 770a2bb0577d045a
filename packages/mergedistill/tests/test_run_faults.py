import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers.utils import logging
from typer.testing import CliRunner

from mergedistill.cli.app import app
from mergedistill.errors import StageError
from mergedistill.rank.corpus_warnings import corpus_warnings
from mergedistill.recipe.read import altered, read_recipe
from mergedistill.recipe.recipe import Recipe
from mergedistill.recipe.stages import STAGES, stages
from mergedistill.run.run import run
from mergedistill.run.status import status
from mergedistill.student.loss import DistillationLoss
from teacherzoo import Signals, TeacherError
from teacherzoo.errors import CorpusError
from teacherzoo.signals.layout import RecordingSettings

Recipes = Callable[..., Recipe]
RUN = sys.modules["mergedistill.run.run"]  # the package's attribute of that name is the function


def _undone(recipe: Recipe) -> list[str]:
    return [name for name, done in status(recipe).items() if not done]


def _teachers(first: Path, second: Path) -> list[dict[str, Any]]:
    return [
        {"teacher": str(first), "languages": ["qav"]},
        {"teacher": str(second), "languages": ["qag"]},
    ]


def test_a_run_draws_no_bars_of_transformers(
    recipe_of: Recipes, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A command that was imported by this process has put them off.
    monkeypatch.setattr(
        sys.modules["huggingface_hub.utils.tqdm"], "HF_HUB_DISABLE_PROGRESS_BARS", None
    )
    monkeypatch.setattr(logging, "_tqdm_active", True)

    run(recipe_of())

    assert "%|" not in capfd.readouterr().err


def test_a_teacher_that_changed_is_asked_again_and_others_are_not(
    town: Path, tmp_path: Path, recipe_of: Recipes
) -> None:
    shutil.copytree(town / "wp", tmp_path / "mine")
    recipe = recipe_of(teachers=_teachers(tmp_path / "mine", town / "foreign"))
    run(recipe)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "run/signals/foreign").rglob("*")}
    assert _undone(recipe) == []

    shutil.copy(town / "wp-other" / "model.safetensors", tmp_path / "mine")

    assert _undone(recipe) == ["rank", "record", "train", "card"]  # its tokenizer is the same
    run(recipe, until="record")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(list((tmp_path / "run/signals/mine").glob("qav-*/signals.json"))) == 2


def test_figures_by_another_rule_of_bits_per_byte_are_measured_anew(
    recipe_of: Recipes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of()
    student = run(recipe)
    (kept,) = (tmp_path / "run/signals").rglob("held_out.json")
    first = json.loads(kept.read_text())
    kept.write_text(
        json.dumps({name: figures | {"bits_per_byte": 99.0} for name, figures in first.items()})
    )
    for module in ("recipe.stages", "publish.held_out_scores"):
        monkeypatch.setattr(f"mergedistill.{module}.BITS_PER_BYTE_RULE", "another")

    assert _undone(recipe) == ["rank", "card"]
    run(recipe)

    assert _undone(recipe) == []
    assert len(list((tmp_path / "run/signals").rglob("*.rating.json"))) == 2 * len(first)
    figures = json.loads((student / "run.json").read_text())["held_out"]
    assert sorted(of_language["teacher"] for of_language in figures.values()) == sorted(
        of_teacher["bits_per_byte"] for of_teacher in first.values()
    )


def test_a_language_without_text_is_refused_before_a_teacher_is_opened(
    town: Path, recipe_of: Recipes, tmp_path: Path
) -> None:
    (tmp_path / "blank.txt").write_text("\n \n")
    recipe = recipe_of(languages={"qav": str(town / "qav.txt"), "qag": str(tmp_path / "blank.txt")})

    with pytest.raises(CorpusError, match=r"qag: .*blank.txt holds no document"):
        run(recipe)

    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("assign", ["stated", "rank"])
@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_teacher_without_a_tokenizer_is_refused_before_anything_is_made(
    town: Path, recipe_of: Recipes, tmp_path: Path, command: str, assign: str
) -> None:
    bare = shutil.copytree(
        town / "foreign", tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*")
    )
    recipe_of(assign=assign, teachers=_teachers(town / "wp", bare), signals="shared")
    before = sorted(tmp_path.rglob("*"))

    done = CliRunner().invoke(app, [command, str(tmp_path / "recipe.yaml")])

    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == (
        f"{bare}: there is no tokenizer (tokenizer.json) beside the model; save the model's own into the folder, "
        "AutoTokenizer.from_pretrained(…).save_pretrained(folder).\n"
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_recordings_by_another_rule_for_words_are_made_anew(
    recipe_of: Recipes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a later version: it has another rule, and meets a recording that was killed."""
    recipe = recipe_of()
    run(recipe, until="record")
    first = sorted((tmp_path / "run/signals").rglob("signals.json"))
    first[0].unlink()
    monkeypatch.setattr("mergedistill.recipe.stages.WORD_RULE", "another")
    monkeypatch.setitem(RecordingSettings.__init__.__kwdefaults__, "word_rule", "another")

    assert _undone(recipe) == ["record", "train", "card"]
    run(recipe, until="record")

    anew = {*(tmp_path / "run/signals").rglob("signals.json")} - {*first}
    assert [Signals(file.parent).settings.word_rule for file in anew] == ["another"] * len(first)


def test_the_first_rule_for_words_leaves_keys_as_they_were(
    recipe_of: Recipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of()
    keys = {name: stage.key for name, stage in stages(recipe).items()}
    for name in ("WORD_RULE", "FIRST_WORD_RULE"):
        monkeypatch.setattr(f"mergedistill.recipe.stages.{name}", "another")

    assert keys == {name: stage.key for name, stage in stages(recipe).items()}


def test_text_that_changed_in_place_is_read_again(
    town: Path, tmp_path: Path, recipe_of: Recipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from teacherzoo import digests as inputs

    text = tmp_path / "qag.txt"
    shutil.copy(town / "qag.txt", text)
    os.utime(text, ns=(0, 10**18))
    recipe = recipe_of(languages={"qav": str(town / "qav.txt"), "qag": str(text)})
    run(recipe, until="record")
    assert _undone(recipe) == ["train", "card"]
    assert (tmp_path / "run" / "digests.json").is_file()

    monkeypatch.setattr(
        inputs, "_READ", {}
    )  # as another process, which knows what the first has noted
    assert _undone(recipe) == ["train", "card"]
    lines = text.read_text().splitlines()
    text.write_text("\n".join([*lines[1:], lines[0]]) + "\n")  # as long as before

    monkeypatch.setattr(inputs, "_READ", {})
    assert _undone(recipe) == list(STAGES)


def test_a_run_that_moved_with_its_files_has_nothing_to_do(
    town: Path, tmp_path: Path, recipe_of: Recipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    for name in ("qav.txt", "qag.txt"):
        shutil.copy(town / name, here)
    for name in ("wp", "foreign"):
        shutil.copytree(town / name, here / name)
    (here / "engine.json").write_text("{}")
    stated = recipe_of(
        languages={"qav": "qav.txt", "qag": "qag.txt"},
        teachers=_teachers(Path("wp"), Path("foreign")),
    ).model_dump(mode="json")
    stated |= {"out": "run", "signals": None}
    (here / "recipe.yaml").write_text(yaml.safe_dump(stated))
    run(read_recipe(here / "recipe.yaml"))

    def keys(folder: Path, **changes: object) -> dict[str, str]:
        (folder / "recipe.yaml").write_text(yaml.safe_dump(stated | changes))
        recipe = read_recipe(folder / "recipe.yaml")
        return {name: stage.key for name, stage in stages(recipe).items()}

    elsewhere = {
        "train": stated["train"] | {"arguments": {"deepspeed": "engine.json"}},
        "record": stated["record"] | {"offload": "disk"},
        # Of teachers outside of memory it must be stated who teaches.
    }
    with_files = keys(here, **elsewhere)
    keys(here)
    there = here.rename(tmp_path / "there")
    monkeypatch.chdir(there)

    assert _undone(read_recipe(Path("recipe.yaml"))) == []
    assert keys(Path(), **elsewhere) == with_files
    (there / "engine.json").write_text('{"zero_optimization": {"stage": 1}}')
    changed = keys(there, **elsewhere)
    assert [name for name in STAGES if changed[name] != with_files[name]] == ["train", "card"]


def test_another_commit_on_the_hub_is_another_text_and_another_teacher(
    recipe_of: Recipes, town: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from teacherzoo import digests as inputs

    recipe = recipe_of(
        languages={"qav": str(town / "qav.txt"), "qag": "org/text"},
        teachers=[
            {"teacher": str(town / "wp"), "languages": ["qav"]},
            {"teacher": "org/model", "languages": ["qag"]},
        ],
    )

    def keys(**commits: str) -> dict[str, str]:
        monkeypatch.setattr(
            inputs, "_on_hub", lambda name, kind: f"hub:{name}@{commits.get(kind, 'first')}"
        )
        return {name: stage.key for name, stage in stages(recipe).items()}

    first = keys()
    for kind in ("dataset", "model"):
        changed = keys(**{kind: "second"})
        assert [name for name in STAGES if changed[name] != first[name]] == list(STAGES), kind


def test_the_order_of_teachers_and_languages_is_part_of_what_is_made(
    recipe_of: Recipes,
) -> None:
    recipe = recipe_of()
    stated = recipe.model_dump()

    def key(**changes: Any) -> str:
        return stages(altered(recipe, changes))["vocabulary"].key

    assert key(teachers=[*reversed(stated["teachers"])]) != key()
    assert key(languages=dict(reversed(stated["languages"].items()))) != key()


def test_only_what_an_edit_bears_on_is_redone(recipe_of: Recipes, town: Path) -> None:
    run(recipe_of())
    train = {"steps": 4, "tokens": 256, "checkpoint_every": 2}

    edits: list[tuple[dict[str, Any], list[str]]] = [
        ({"train": {**train, "checkpoint_every": 1}}, []),
        ({"train": {**train, "arguments": {"dataloader_num_workers": 1, "logging_steps": 2}}}, []),
        ({"train": {**train, "arguments": {"report_to": "none", "save_total_limit": 3}}}, []),
        ({"train": {**train, "arguments": {"adam_beta2": 0.98}}}, ["train", "card"]),
        ({"train": {**train, "steps": 5}}, ["train", "card"]),
        ({"student": {"layers": 2, "width": 32}}, ["train", "card"]),
        ({"vocabulary": {"normalizer": "keep", "pad_to": 64}}, ["vocabulary", "train", "card"]),
        ({"distil": {"block_length": 32, "k": 4}}, ["record", "train", "card"]),
        ({"record": {"tokens": 512}}, []),
        ({"record": {"precision": "bfloat16"}}, ["record", "train", "card"]),
        ({"rank": {"documents": 11}}, ["rank"]),
        ({"combine": "mixture"}, ["train", "card"]),
        ({"held_out_share": 0.1}, list(STAGES)),
    ]
    for edit, redone in edits:
        assert _undone(recipe_of(**edit)) == redone, edit


def test_what_teachers_in_memory_compute_in_is_part_of_the_training(recipe_of: Recipes) -> None:
    online = {"block_length": 32, "online": True}
    keys = {
        precision: stages(recipe_of(distil=online, record={"precision": precision}))
        for precision in ("float32", "bfloat16")
    }

    changed = [name for name in STAGES if keys["float32"][name].key != keys["bfloat16"][name].key]
    assert changed == ["train", "card"]


def test_recording_goes_on_in_smaller_batches(recipe_of: Recipes, tmp_path: Path) -> None:
    def full(done: int, _total: int, what: str) -> None:
        if what.startswith("recording qag") and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(recipe_of(), until="record", watch=full)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "run/signals").rglob("*.parquet")}
    assert kept

    run(recipe_of(record={"tokens": 64}), until="record")

    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len([*(tmp_path / "run/signals").rglob("signals.json")]) == 2
    assert _undone(recipe_of()) == ["train", "card"]


def test_training_by_force_makes_the_student_s_folder_anew(recipe_of: Recipes) -> None:
    recipe = recipe_of(train={"steps": 1, "tokens": 64})
    student = run(recipe)
    (student / "model.safetensors").write_text("spoiled")

    run(recipe)
    assert (student / "model.safetensors").read_text() == "spoiled"
    run(recipe, force="train")

    assert (student / "model.safetensors").stat().st_size > 1000


def test_a_training_goes_on_with_as_many_processes_as_it_began_with(recipe_of: Recipes) -> None:
    recipe = recipe_of()

    def stop(done: int, _total: int, what: str) -> None:
        if what.startswith("training") and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(recipe, watch=stop)
    note = stages(recipe)["train"].checkpoints / "processes.json"
    assert note.read_text() == "1"
    note.write_text("2")

    with pytest.raises(StageError, match="the training began with 2, and 1 would read other batches; start 2 again"):  # fmt: skip
        run(recipe)
    note.write_text("1")

    assert (run(recipe) / "model.safetensors").is_file()


def test_a_stage_to_be_made_anew_behind_the_last_one_is_refused(recipe_of: Recipes) -> None:
    recipe = recipe_of()

    with pytest.raises(StageError, match="train is to be made anew, but the run ends with record"):
        run(recipe, until="record", force="train")

    assert not Path(recipe.out).exists()


def test_a_teacher_that_is_not_there_is_missed_before_others_are_ranked(
    town: Path, recipe_of: Recipes
) -> None:
    recipe = recipe_of(
        assign="rank", teachers=[{"teacher": str(town / "wp")}, {"teacher": "nobody/nothing"}]
    )

    with pytest.raises(TeacherError, match="nobody/nothing: neither a folder, nor"):
        run(recipe)

    assert not Path(recipe.out).exists()


def test_recording_anew_before_the_ranking_leaves_what_others_recorded(
    town: Path, recipe_of: Recipes
) -> None:
    asked: dict[str, Any] = {
        "assign": "rank",
        "signals": "shared",
        "teachers": [{"teacher": str(town / "wp")}, {"teacher": str(town / "foreign")}],
    }
    first = recipe_of(**asked, distil={"block_length": 32, "k": 4})
    run(first, until="record")
    second = recipe_of(**asked, out="other")

    run(second, until="record", force="record")

    assert _undone(first) == ["train", "card"]
    assert _undone(second) == ["train", "card"]


def test_ten_sentences_of_a_language_become_a_student(
    town: Path, tmp_path: Path, recipe_of: Recipes
) -> None:
    lines = (town / "qag.txt").read_text().splitlines()[:10]
    (tmp_path / "few.txt").write_text("\n".join(lines) + "\n")
    recipe = recipe_of(
        languages={"qav": str(town / "qav.txt"), "qag": str(tmp_path / "few.txt")},
        held_out_share=0.01,
    )

    student = run(recipe)

    assert (student / "languages" / "qag" / "tokenizer.json").is_file()
    assert corpus_warnings(recipe) == []


def test_teachers_that_normalise_differently_are_named_with_the_key_to_set(
    town: Path, tmp_path: Path, recipe_of: Recipes
) -> None:
    import json

    shutil.copytree(town / "foreign", tmp_path / "folded")
    file = tmp_path / "folded" / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["normalizer"] = {"type": "Lowercase"}
    file.write_text(json.dumps(tokenizer))
    recipe = recipe_of(teachers=_teachers(town / "wp", tmp_path / "folded"), vocabulary={})

    with pytest.raises(
        StageError, match=r"case: wp kept, folded folded.*vocabulary\.normalizer: keep"
    ) as caught:
        run(recipe)

    assert "\n" not in str(caught.value)
    assert not Path(recipe.out).exists()


def test_a_full_disk_is_one_sentence_and_the_run_goes_on_when_there_is_room(
    recipe_of: Recipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(RUN, "save_merged", full)
        with pytest.raises(StageError, match=r"vocabulary: .* the disk is full .* make room"):
            run(recipe)

    assert _undone(recipe) == ["vocabulary", "record", "train", "card"]
    run(recipe, until="vocabulary")


def test_other_errors_of_the_system_are_not_taken_for_a_full_disk(
    recipe_of: Recipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(RUN, "save_merged", forbidden)

    with pytest.raises(PermissionError):
        run(recipe_of())


def test_too_little_memory_for_a_step_is_one_sentence_with_the_keys_to_set(
    recipe_of: Recipes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of()
    forward = DistillationLoss.forward

    def full(module: DistillationLoss, **batch: Any) -> Any:
        if len(batch["input_ids"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 …")
        return forward(module, **batch)

    monkeypatch.setattr(DistillationLoss, "forward", full)
    done = CliRunner().invoke(app, ["run", str(tmp_path / "recipe.yaml"), "--quiet"])

    assert done.exit_code == 2
    assert "steps of 256 tokens; lower train.tokens, and" in done.stderr
    assert done.stderr.count("\n") == 1
    assert _undone(recipe) == ["train", "card"]
    run(recipe_of(train={"steps": 4, "tokens": 64}))


_CHILD = """
import os, resource, signal, sys
from pathlib import Path
import torch
from mergedistill import MergedistillError, read_recipe, run, status
from mergedistill.recipe.stages import STAGES, stages
import mergedistill.publish.card, mergedistill.training.trainer  # imported late by a run
from teacherzoo import TeacherzooError
torch.set_num_threads(1)
recipe = read_recipe(Path(sys.argv[1]))
"""
# Forked before anything is computed, so that what takes time, to import it all, is done once.
_KILLED = (
    _CHILD
    + """
def kill_in(stage):
    def watch(done, total, what):
        late = {"record": what.startswith("recording qav"), "train": what.startswith("training") and done == 3}
        if late.get(stage, True):
            os.kill(os.getpid(), signal.SIGKILL)
    earlier = STAGES[:STAGES.index(stage)]
    if earlier:
        run(recipe, until=earlier[-1])
    run(recipe, watch=watch)
for stage in STAGES:
    child = os.fork()
    if child == 0:
        kill_in(stage)
        os._exit(0)
    print(stage, os.WTERMSIG(os.waitpid(child, 0)[1]), status(recipe)[stage], flush=True)
"""
)
_IN_A_QUOTA = (
    _CHILD
    + """
most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
for name, limit in dict(rank=50, vocabulary=9000, record=900, train=20000, card=20000).items():
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
    try:
        run(recipe, until=name)
    except (MergedistillError, TeacherzooError) as error:
        print("REFUSED", name, error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert not status(recipe)[name]
    run(recipe, until=name)
"""
)


def _child(python: str, program: str, recipe: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-c", program, str(recipe)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.fixture
def two_runs(town: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The same recipe in two folders; every stage has something to do."""
    stated = {
        "out": "run",
        "assign": "rank",
        "combine": {"qav": "mixture"},
        "languages": {language: str(town / f"{language}.txt") for language in ("qav", "qag")},
        "teachers": [
            {"teacher": str(town / "wp")},
            {"teacher": str(town / "wp-other"), "languages": ["qav"]},
            {"teacher": str(town / "foreign")},
        ],
        "held_out_share": 0.05,
        "rank": {"documents": 10},
        "vocabulary": {"normalizer": "keep"},
        "student": {"layers": 1, "width": 32, "start": "carried"},
        "distil": {"block_length": 32, "policy": "whole_word"},
        "train": {"steps": 6, "tokens": 256, "checkpoint_every": 2},
    }
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text(yaml.safe_dump(stated))
    return tmp_path / "whole" / "recipe.yaml", tmp_path / "cut" / "recipe.yaml"


def _same_student(one: Path, other: Path) -> None:
    names = sorted(str(path.relative_to(one)) for path in one.rglob("*") if path.is_file())
    assert names == sorted(
        str(path.relative_to(other)) for path in other.rglob("*") if path.is_file()
    )
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.fixture
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("_one_thread")
def test_killed_in_every_stage_a_run_ends_in_the_same_student(
    python: str, two_runs: tuple[Path, Path]
) -> None:
    whole, cut = two_runs
    expected = run(read_recipe(whole))

    told = _child(python, _KILLED, cut).stdout.split("\n")

    died = [line for line in told if line.split(" ")[0] in STAGES]
    assert died == [f"{stage} {int(signal.SIGKILL)} False" for stage in STAGES]
    _same_student(run(read_recipe(cut)), expected)


@pytest.mark.slow
@pytest.mark.usefixtures("_one_thread")
@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no quota to be had")
def test_out_of_room_in_every_stage_a_run_says_so_and_ends_in_the_same_student(
    python: str, two_runs: tuple[Path, Path]
) -> None:
    whole, cut = two_runs
    expected = run(read_recipe(whole))

    told = _child(python, _IN_A_QUOTA, cut).stdout.splitlines()

    said = [line for line in told if line.startswith("REFUSED")]
    assert [line.split()[1] for line in said] == list(STAGES)
    assert all("make room" in line for line in said)
    _same_student(run(read_recipe(cut)), expected)
