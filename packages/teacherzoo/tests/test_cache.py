"""Made once: whole or not at all, by one run at a time, again where what it is made of changed, and never over another's work."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import filelock
import pytest

from teacherzoo.atomic_write import written_whole
from teacherzoo.cache import MADE, alone_in, is_made, made_once, work_dir
from teacherzoo.errors import CacheError, TeacherError

HOLD = """
import fcntl, sys
held = open(sys.argv[1], "a")
fcntl.flock(held, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def count() -> Callable[[Path], None]:
    """Makes a folder with how often it was called."""
    calls = []

    def make(work: Path) -> None:
        calls.append(work)
        (work / MADE).mkdir()
        (work / MADE / "count").write_text(str(len(calls)))

    return make


@pytest.fixture
def held_by_another(tmp_path: Path) -> Callable[[Path], "subprocess.Popen[bytes]"]:
    """Starts a process that works in a folder."""

    def start(folder: Path) -> "subprocess.Popen[bytes]":
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "-S", "-c", HOLD, str(folder / ".lock")]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        return process

    return start


def stop(_work: Path) -> None:
    raise KeyboardInterrupt


def test_what_is_there_is_taken_and_made_anew_of_other_inputs(
    tmp_path: Path, count: Callable[[Path], None]
) -> None:
    made = [
        (made_once(tmp_path / "a", inputs, count) / "count").read_text()
        for inputs in ({"text": "1", "n": 2}, {"n": 2, "text": "1"}, {"text": "2"}, {"text": "2"})
    ]

    assert made == ["1", "1", "2", "2"]
    assert is_made(tmp_path / "a", {"text": "2"})
    assert not is_made(tmp_path / "a", {"text": "1", "n": 2})
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_an_interrupted_run_goes_on_with_what_is_there_and_one_of_other_inputs_does_not(
    tmp_path: Path,
) -> None:
    seen = []

    def make(work: Path) -> None:
        seen.append((work / "checkpoint").exists())
        (work / "checkpoint").write_text("half")
        (work / MADE).mkdir(exist_ok=False)
        if len(seen) < 3:
            raise KeyboardInterrupt

    for inputs in ({"text": "1"}, {"text": "1"}):
        with pytest.raises(KeyboardInterrupt):
            made_once(tmp_path / "a", inputs, make)
        assert not (tmp_path / "a").exists()
    made_once(tmp_path / "a", {"text": "2"}, make)

    assert seen == [False, True, False]
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["made_of.json"]


def test_by_a_users_name_nothing_is_written_over(
    tmp_path: Path, count: Callable[[Path], None]
) -> None:
    def make(work: Path) -> None:
        (work / MADE).write_text("a file")

    def interrupted(work: Path) -> None:
        (work / "checkpoint").write_text("half")
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        made_once(out, {"steps": 1}, stop, refuse=TeacherError)
    assert not work_dir(out).exists()
    # A run that was stopped before it made anything stands in nobody's way.
    with pytest.raises(KeyboardInterrupt):
        made_once(out, {"steps": 2}, interrupted, refuse=TeacherError)
    with pytest.raises(TeacherError, match="left from a run with other arguments; remove it"):
        made_once(out, {"steps": 1}, make, refuse=TeacherError)
    made_once(out, {"steps": 2}, make, refuse=TeacherError)
    with pytest.raises(TeacherError, match="out exists already; remove it"):
        made_once(out, {"steps": 2}, make, refuse=TeacherError)

    assert out.read_text() == "a file"
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("place", ["", ".", "/"])
def test_a_folder_without_a_name_is_refused_as_what_exists(
    place: str, tmp_path: Path, count: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(TeacherError, match="exists already; remove it, or choose another name"):
        made_once(Path(place), {"steps": 1}, count, refuse=TeacherError)

    assert not [*tmp_path.iterdir()]


def test_what_a_kill_behind_the_last_write_leaves_goes_with_the_next_call(
    tmp_path: Path, count: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(work: Path) -> None:
        (work / "checkpoint").mkdir()
        count(work)

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr("teacherzoo.cache.remove", lambda path: None)
        made_once(out, {"steps": 1}, make, refuse=TeacherError)
    assert len([*tmp_path.iterdir()]) == 2

    with pytest.raises(TeacherError, match="out exists already; remove it"):
        made_once(out, {"steps": 1}, make, refuse=TeacherError)

    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_what_is_known_by_its_contents_serves_a_call_of_others_and_what_is_of_one_call_alone_does_not(
    tmp_path: Path,
) -> None:
    out, steps = tmp_path / "out", list[str]()

    def make(work: Path, *, until: str) -> None:
        for step in ("text", "checkpoints/1"):
            if not (work / step).exists():
                steps.append(step)
                (work / step).mkdir(parents=True)
                (work / step / "file").touch()
            if step == until:
                raise KeyboardInterrupt
        (work / MADE).mkdir()

    def call(rate: float, until: str = "") -> None:
        made_once(out, {"rate": rate}, partial(make, until=until), refuse=TeacherError, exclusive=["checkpoints"])  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        call(0.1, until="text")
    with pytest.raises(KeyboardInterrupt):
        call(0.2, until="checkpoints/1")
    with pytest.raises(TeacherError, match="left from a run with other arguments; remove it"):
        call(0.1)
    call(0.2)

    assert steps == ["text", "checkpoints/1"]
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_a_name_that_another_process_makes_is_refused_until_that_one_is_killed(
    tmp_path: Path,
    count: Callable[[Path], None],
    held_by_another: Callable[[Path], "subprocess.Popen[bytes]"],
) -> None:
    out = tmp_path / "out"
    with held_by_another(work_dir(out)) as other:
        (work_dir(out) / "checkpoint").write_text("the other's")
        with pytest.raises(TeacherError, match="out is in use by another process; wait until"):
            made_once(out, {"steps": 1}, count, refuse=TeacherError)
        assert (work_dir(out) / "checkpoint").read_text() == "the other's"
        other.kill()
    with pytest.raises(TeacherError, match="left from a run with other arguments"):
        made_once(out, {"steps": 1}, count, refuse=TeacherError)
    (work_dir(out) / "checkpoint").unlink()

    assert made_once(out, {"steps": 1}, count, refuse=TeacherError).is_dir()
    assert [file.name for file in out.iterdir()] == ["count"]


def test_in_a_cache_the_second_says_so_waits_and_takes_what_the_first_made(
    tmp_path: Path, count: Callable[[Path], None]
) -> None:
    waiting, told = threading.Event(), []

    def watch(done: int, total: int, what: str) -> None:
        told.append(what)
        waiting.set()

    def slowly(work: Path) -> None:
        second.start()
        assert waiting.wait(timeout=30)
        count(work)

    second = threading.Thread(
        target=lambda: made_once(tmp_path / "a", {"text": "1"}, count, watch=watch)
    )
    made_once(tmp_path / "a", {"text": "1"}, slowly)
    second.join(timeout=30)

    assert (tmp_path / "a" / "count").read_text() == "1"
    assert [sentence.split(" on ")[0] for sentence in told] == [f"waiting for process {os.getpid()}"]  # fmt: skip
    assert told[0].endswith(f"which makes {tmp_path / 'a'}")
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_one_that_finished_in_the_meantime_is_refused_or_taken(
    tmp_path: Path, count: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the first look and the lock."""
    for refuse in (None, TeacherError):
        place = tmp_path / str(refuse)
        real = made_once.__globals__["alone_in"]

        def late(folder: Path, *, place=place, real=real, refuse=refuse, **options):  # type: ignore[no-untyped-def]
            monkeypatch.undo()
            made_once(place, {"text": "1"}, count, refuse=refuse)
            return real(folder, refuse=refuse, **options)

        monkeypatch.setitem(made_once.__globals__, "alone_in", late)
        if refuse is None:
            assert (made_once(place, {"text": "1"}, stop) / "count").read_text() == "1"
        else:
            with pytest.raises(TeacherError, match="exists already"):
                made_once(place, {"text": "1"}, stop, refuse=refuse)
        assert not work_dir(place).exists()


def test_a_folder_where_another_process_works_is_refused_and_one_that_died_holds_nothing(
    tmp_path: Path, held_by_another: Callable[[Path], "subprocess.Popen[bytes]"]
) -> None:
    with held_by_another(tmp_path) as other:
        with pytest.raises(CacheError, match="in use by another process"), alone_in(tmp_path):
            pass
        other.kill()

    with alone_in(tmp_path):
        assert json.loads((tmp_path / ".held-by.json").read_text())["process"] == os.getpid()


def test_a_folder_in_which_nothing_was_made_goes_with_what_is_refused_in_it(tmp_path: Path) -> None:
    def refused_in(folder: Path, *made: str) -> None:
        with alone_in(folder):
            (folder / "digests.json").write_text("{}")
            (folder / "rank").mkdir()
            for name in made:
                (folder / name).touch()
            raise TeacherError

    with pytest.raises(TeacherError):
        refused_in(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(TeacherError):
        refused_in(tmp_path / "run", "rank/facts.json")
    assert (tmp_path / "run" / "rank" / "facts.json").is_file()
    (tmp_path / "users").mkdir()
    with pytest.raises(TeacherError):
        refused_in(tmp_path / "users")
    assert (tmp_path / "users").is_dir()


def test_a_file_where_the_folder_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")

    for folder in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(CacheError, match="is to be a folder to work in"), alone_in(folder):
            pass


def test_what_a_killed_writer_left_goes_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    with written_whole(tmp_path / "a") as part:
        part.touch()
        name = part.name
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as gone:
        gone.wait()
    dead, alive = (
        tmp_path / name.replace(str(os.getpid()), str(number))
        for number in (gone.pid, os.getppid())
    )
    dead.mkdir()
    (dead / "half").write_text("")
    alive.write_text("")
    elsewhere = tmp_path / ".a.another-machine-1.part"
    elsewhere.write_text("")

    with pytest.raises(ZeroDivisionError), written_whole(tmp_path / "b") as part:
        part.write_text(str(1 / 0))
    with written_whole(tmp_path / "a") as part:
        part.write_text("whole")

    assert {file.name for file in tmp_path.iterdir()} == {"a", alive.name, elsewhere.name}


def test_a_folder_that_vanishes_while_its_lock_is_taken_is_made_again(tmp_path, monkeypatch):
    """The run before removes it: the lock's own `mkdir` then finds it and, looking again, does not."""
    acquire, vanished = filelock.FileLock.acquire, []

    def acquire_late(lock, *arguments, **options):
        if not vanished:
            vanished.append(lock)
            raise FileExistsError(17, "File exists", lock.lock_file)
        return acquire(lock, *arguments, **options)

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire_late)
    with alone_in(tmp_path / "work"):
        assert vanished
