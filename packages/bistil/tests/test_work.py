"""The folder beside an outcome: kept from other arguments, and from another process."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bistil.cache import alone_in, remove_work, work_folder
from bistil.errors import ExtractError

OTHER = """
import pathlib, sys
from filelock import FileLock
lock = FileLock(pathlib.Path(sys.argv[1]) / "lock")
lock.acquire()
print("held", flush=True)
sys.stdin.readline()
"""


def test_a_folder_that_another_process_works_in_is_refused_until_that_one_is_killed(
    tmp_path: Path,
) -> None:
    work = work_folder(tmp_path / "out", {"steps": 1})
    remove_work(work)
    work.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", OTHER, str(work)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        (work / "plan.json").write_text("other arguments")
        (work / "text").mkdir()
        with pytest.raises(ExtractError, match="out: another process is making it; wait"):
            work_folder(tmp_path / "out", {"steps": 1}, error=ExtractError)
        assert (work / "plan.json").read_text() == "other arguments"
        other.kill()
    with pytest.raises(ExtractError, match="left from a run with other arguments; remove it"):
        work_folder(tmp_path / "out", {"steps": 1}, error=ExtractError)
    shutil.rmtree(work)

    assert work_folder(tmp_path / "out", {"steps": 1}) == work
    assert (work / "plan.json").is_file()
    remove_work(work)


def test_the_process_that_began_goes_on_there_and_leaves_nothing(tmp_path: Path) -> None:
    work = work_folder(tmp_path / "out", {"steps": 1})
    (work / "text").mkdir()

    assert work_folder(tmp_path / "out", {"steps": 1}) == work
    with pytest.raises(ExtractError, match="other arguments"):
        work_folder(tmp_path / "out", {"steps": 2}, error=ExtractError)
    shutil.rmtree(work)  # as that message says
    assert work_folder(tmp_path / "out", {"steps": 2}) == work
    assert (work / "plan.json").is_file()
    remove_work(work)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_work_is_taken_over(tmp_path: Path) -> None:
    work = work_folder(tmp_path / "out", {"steps": 1})

    assert work_folder(tmp_path / "out", {"steps": 2}) == work
    assert '"steps": 2' in (work / "plan.json").read_text()
    remove_work(work)


def test_who_comes_second_says_so_and_waits_for_the_first(tmp_path: Path) -> None:
    waiting, order = threading.Event(), []
    told: list[str] = []

    def watch(done: int, total: int, what: str) -> None:
        told.append(what)
        waiting.set()

    def second() -> None:
        with alone_in(tmp_path / "shelf", watch):
            order.append("second")

    other = threading.Thread(target=second)
    with alone_in(tmp_path / "shelf", watch):
        other.start()
        assert waiting.wait(timeout=30)
        order.append("first")
    other.join(timeout=30)

    assert order == ["first", "second"]
    assert told == [f"waiting for another run that fills {tmp_path / 'shelf'}"]
