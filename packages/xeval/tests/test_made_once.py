"""A tuning that was killed goes on to the same bytes, wherever its folders lie by then; what did not change is made once."""

import fcntl
import hashlib
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from xeval.data.source import LocalFolder
from xeval.errors import XevalError
from xeval.evaluate.runner import run
from xeval.finetune import tune as finetune_tune
from xeval.finetune.trainer import FineTuningTrainer
from xeval.finetune.tune import tune
from xeval.protocol import Protocol
from xeval.task_templates.heads import WordHead

# An epoch has 15 steps, and every evaluation is better than the one before it.
PROTOCOL = Protocol(
    learning_rate=1e-3, batch_size=8, steps=24, evaluate_every=6, patience=3, warmup=0.5,
    max_length=32, precision="float32",
)  # fmt: skip
Models = Callable[[str], Path]


@pytest.fixture
def place(models: Models, data: Path, tmp_path: Path) -> Path:
    """A folder with a model and data of its own."""
    shutil.copytree(models("bert"), tmp_path / "a/model")
    shutil.copytree(data / "ud", tmp_path / "a/data/ud")
    return tmp_path / "a"


def tuned(place: Path, out: str = "out", **changes: Any) -> dict[str, Any]:
    named = {"task": "pos", "language": "xx", "protocol": PROTOCOL, **changes}
    return tune(place / "model", place / out, source=LocalFolder(place / "data"), **named)


def contents(folder: Path) -> dict[str, str]:
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.iterdir()}


def killed_after(monkeypatch: pytest.MonkeyPatch, checkpoints: int) -> None:
    healthy = FineTuningTrainer._save_checkpoint
    left = iter(range(checkpoints, 0, -1))

    def save(self: Any, model: Any, trial: Any) -> None:
        healthy(self, model, trial)
        if next(left, 1) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(FineTuningTrainer, "_save_checkpoint", save)


@pytest.mark.parametrize("checkpoints", [1, 3, 4])
def test_a_killed_tuning_goes_on_to_the_bytes_of_one_that_was_not(
    place: Path, checkpoints: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = tuned(place, "whole")
    with monkeypatch.context() as patched:
        killed_after(patched, checkpoints)
        with pytest.raises(KeyboardInterrupt):
            tuned(place)
    told: list[tuple[int, int, str]] = []

    assert tuned(place, watch=lambda *state: told.append(state)) == notes

    assert notes["best_step"] == 24
    assert contents(place / "out") == contents(place / "whole")
    steps = [done for done, total, what in told if total == 24 and what.startswith("tuning,")]
    assert steps == list(range(6 * checkpoints + 1, 25))
    assert not list(place.glob(".*"))


def test_a_kill_in_the_last_write_or_behind_it_leaves_nothing_once_the_tuning_is_called_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside: set[str] = set()

    def save(state: Any, file: Path, metadata: dict[str, str]) -> None:
        beside.update(path.name for path in place.iterdir())
        save_file(state, file, metadata=metadata)

    monkeypatch.setattr("safetensors.torch.save_file", save)
    notes = tuned(place)
    assert sorted(beside) == [".out.making", "data", "model"]
    left = place / ".out.making/float32-8/checkpoint-24"
    left.mkdir(parents=True)

    assert tuned(place) == notes

    assert sorted(path.name for path in place.iterdir()) == ["data", "model", "out"]


def test_patience_survives_a_kill(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WordHead, "loss", lambda self, o, b, c=None: o["labels"].sum() * 0)
    same = {"protocol": Protocol(**{**vars(PROTOCOL), "weight_decay": 0.0, "steps": 60})}
    with monkeypatch.context() as patched:
        killed_after(patched, 3)
        with pytest.raises(KeyboardInterrupt):
            tuned(place, **same)

    notes = tuned(place, **same)

    assert (notes["best_step"], notes["steps"]) == (6, 24)


@pytest.mark.parametrize("checkpoints", [3, 4])
def test_a_killed_tuning_goes_on_where_its_folders_were_moved_to(
    place: Path, checkpoints: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = tuned(place, "whole")
    whole = contents(place / "whole")
    with monkeypatch.context() as patched:
        killed_after(patched, checkpoints)
        with pytest.raises(KeyboardInterrupt):
            tuned(place)
    place.rename(tmp_path / "b")
    monkeypatch.chdir(tmp_path / "b")

    assert tuned(Path()) == notes
    assert contents(Path("out")) == whole


def test_work_of_other_settings_is_not_gone_on_with(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        killed_after(patched, 2)
        with pytest.raises(KeyboardInterrupt):
            tuned(place, seed=1)

    assert tuned(place) == tuned(place, "whole")
    assert contents(place / "out") == contents(place / "whole")


def test_a_refused_tuning_leaves_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        WordHead, "loss", lambda self, o, b, c=None: o["labels"].sum() * float("nan")
    )

    with pytest.raises(XevalError, match="lower the learning rate"):
        tuned(place)

    assert sorted(path.name for path in place.iterdir()) == ["data", "model"]


def test_who_comes_second_waits_and_takes_what_the_first_one_made(place: Path) -> None:
    notes = tuned(place, "whole")
    work, waiting = place / ".out.making", threading.Event()
    work.mkdir()
    with (work / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second: list[dict[str, Any]] = []

        def watch(_done: int, _total: int, what: str) -> None:
            if what == f"waiting for another process that makes {place / 'out'}":
                waiting.set()

        thread = threading.Thread(target=lambda: second.append(tuned(place, watch=watch)))
        thread.start()
        assert waiting.wait(timeout=60)
        shutil.copytree(place / "whole", place / "out")
    thread.join(timeout=60)

    assert second == [notes]


def ran(place: Path) -> int:
    """How many tuned models there are afterwards."""
    protocol = Protocol(**{**vars(PROTOCOL), "steps": 2})
    run(
        [place / "model"], place / "results.jsonl", tasks=["pos"],
        source=LocalFolder(place / "data"), language="xx", languages=["yy"], protocol=protocol,
    )  # fmt: skip
    return len(list((place / "tuned").glob("*/*")))


def test_what_moved_is_not_made_anew_by_a_run(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ran(place) == 1
    before = (place / "results.jsonl").read_bytes()
    place.rename(tmp_path / "b")
    monkeypatch.chdir(tmp_path / "b")
    monkeypatch.setattr(finetune_tune, "build", None)

    assert ran(Path()) == 1
    assert Path("results.jsonl").read_bytes() == before


@pytest.mark.parametrize("changed", ["data/ud/xx_made/train.conllu.xz", "model/config.json"])
def test_a_changed_file_changes_what_a_run_makes_of_it(place: Path, changed: str) -> None:
    assert ran(place) == 1
    if changed.startswith("data"):
        shutil.copy(place / "data/ud/xx_made/dev.conllu.xz", place / changed)
    else:
        config = (place / changed).read_text()
        (place / changed).write_text(config.replace('"hidden_dropout_prob": 0.1', '"hidden_dropout_prob": 0.2'))  # fmt: skip

    assert ran(place) == 2


def test_a_changed_test_file_tunes_nothing_anew(place: Path) -> None:
    assert ran(place) == 1
    figures = (place / "results.jsonl").read_text().count("\n")
    shutil.copy(place / "data/ud/zz_made/train.conllu", place / "data/ud/yy_made/test.conllu")
    (place / "data/ud/yy_made/test.conllu").write_text(
        (place / "data/ud/zz_made/train.conllu").read_text().partition("\n\n")[0] + "\n\n"
    )

    assert ran(place) == 1
    assert (place / "results.jsonl").read_text().count("\n") == figures + 1
