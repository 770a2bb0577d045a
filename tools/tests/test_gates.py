"""What makes continuous integration quick: the preloaded Python, the borrowed environment, jobs side by side, the table of times."""

import compileall
import gc
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import cache_from_source
from pathlib import Path

import borrowed
import pytest
import times
from marked import BROUGHT_BY, files_marked
from nox_jobs import run_jobs
from packaging.requirements import Requirement
from preloaded import preloaded_python


@pytest.fixture(scope="module")
def programs() -> Iterator[Path]:
    with preloaded_python(modules=["decimal", "no_such_module"], commands=["timeit"]) as folder:
        yield folder


@pytest.mark.parametrize(
    "arguments",
    [
        ["-c", "import sys; print(sys.argv, sys.path[0], __name__)", "one", "two"],
        ["-m", "json.tool", "no-such-file"],
        ["program.py", "word"],
        ["-c", "raise SystemExit('said')"],
        ["-c", "raise SystemExit(3)"],
        ["-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"],
        ["-c", "import os; print(os.environ['WORD'], os.getcwd(), os.read(0, 9))"],
        ["-c", "import atexit; atexit.register(print, 'bye'); print('hello')"],
        ["-c", "import gc; print(gc.isenabled())"],
    ],
)
def test_what_it_runs_ends_and_prints_as_under_python(
    programs: Path, tmp_path: Path, arguments: list[str]
) -> None:
    (tmp_path / "program.py").write_text("import sys\nprint(sys.argv, sys.path[0], __file__)\n")

    plain, preloaded = (
        subprocess.run(
            [program, *arguments],
            cwd=tmp_path,
            env=os.environ | {"WORD": "spoken"},
            input="given",
            capture_output=True,
            text=True,
        )
        for program in (sys.executable, programs / "python")
    )

    assert preloaded.returncode == plain.returncode
    assert preloaded.stdout == plain.stdout
    assert preloaded.stderr == plain.stderr


def test_its_modules_are_imported_already_and_its_state_is_no_others(programs: Path) -> None:
    code = "import sys; print('decimal' in sys.modules, 'mark' in dir(sys)); sys.mark = 1"
    for _ in range(2):
        done = subprocess.run([programs / "python", "-c", code], capture_output=True, text=True)
        assert done.stdout == "True False\n"


def test_a_command_runs_the_module_of_its_name(programs: Path) -> None:
    done = subprocess.run([programs / "timeit", "-n1", "pass"], capture_output=True, text=True)
    assert "1 loop" in done.stdout


def test_a_limit_on_file_sizes_is_handed_on(programs: Path, tmp_path: Path) -> None:
    code = "open('file', 'ab', 0).write(bytes(100)); open('file', 'ab', 0).write(bytes(100))"
    done = subprocess.run(
        [programs / "python", "-c", code],
        cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "File too large" in done.stderr


def test_who_is_killed_does_nothing_once_its_streams_are_closed(
    programs: Path, tmp_path: Path
) -> None:
    code = "n = 0\nwhile True:\n n += 1\n open('count', 'w').write(str(n))\n print(n, flush=True) if n == 1 else 0"
    process = subprocess.Popen(
        [programs / "python", "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()

    process.send_signal(signal.SIGKILL)
    process.communicate()

    assert process.returncode == -signal.SIGKILL
    written = (tmp_path / "count").stat().st_mtime_ns
    time.sleep(0.1)
    assert (tmp_path / "count").stat().st_mtime_ns == written


def test_an_interrupt_reaches_it(programs: Path) -> None:
    # Whatever the shell that started this has told its children to ignore.
    code = (
        "import signal, time; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [programs / "python", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()

    process.send_signal(signal.SIGINT)

    assert "KeyboardInterrupt" in process.communicate()[1]
    assert process.returncode == -signal.SIGINT


def test_a_collection_of_garbage_leaves_out_what_was_imported() -> None:
    assert gc.isenabled()
    walked = {id(one) for one in gc.get_objects()}
    assert id(vars(pytest)) not in walked


def _distribution(environment: Path, name: str, *requires: str, version: str = "1.0") -> None:
    site = environment / "lib" / "python3.11" / "site-packages"
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    lines += [f"Requires-Dist: {wanted}" for wanted in requires]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    (site / f"{name}.py").write_text(f"name = {name!r}\n")
    (info / "RECORD").write_text(f"{name}.py,,\n{info.name}/METADATA,,\n../../../bin/{name},,\n")


@pytest.fixture
def full(tmp_path: Path) -> Path:
    environment = tmp_path / "full"
    _distribution(
        environment, "above", "middle", "rare; extra == 'more'", "absent; os_name == 'none'"
    )
    _distribution(environment, "middle", "below>=1")
    _distribution(environment, "below", "above")  # a circle is no trouble
    _distribution(environment, "rare")
    _distribution(environment, "stranger")
    return environment


def _borrowed(full: Path, tmp_path: Path, wanted: str) -> set[str]:
    (tmp_path / "new" / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
    borrowed.borrow(full, tmp_path / "new", [Requirement(wanted)])
    return {file.stem for file in (tmp_path / "new").rglob("*.py")}


def test_what_is_required_is_borrowed_and_no_stranger(full: Path, tmp_path: Path) -> None:
    assert _borrowed(full, tmp_path, "above") == {"above", "middle", "below"}


def test_an_extra_brings_what_it_asks_for(full: Path, tmp_path: Path) -> None:
    assert _borrowed(full, tmp_path, "above[more]") == {"above", "middle", "below", "rare"}


def test_bytecode_that_was_made_by_an_import_is_borrowed_and_none_of_a_stranger(
    full: Path, tmp_path: Path
) -> None:
    site = Path("lib", "python3.11", "site-packages")
    compileall.compile_dir(full / site, quiet=1)

    _borrowed(full, tmp_path, "middle")

    there = tmp_path / "new" / site
    code = Path(cache_from_source(str(there / "below.py")))
    before = code.stat().st_mtime_ns
    assert {file.name.split(".")[0] for file in code.parent.iterdir()} == {
        "above",
        "middle",
        "below",
    }
    environment = {
        name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
    }
    subprocess.run([sys.executable, "-c", "import below"], cwd=there, env=environment, check=True)
    assert code.stat().st_mtime_ns == before  # it is current: Python has no other to write


@pytest.mark.parametrize(
    ("wanted", "sentence"), [("nobody", "nobody: not in"), ("above>=2", "above>=2: .* has 1.0")]
)
def test_what_is_missing_or_too_old_is_named(full: Path, wanted: str, sentence: str) -> None:
    with pytest.raises(LookupError, match=sentence):
        borrowed.required(full, [Requirement(wanted)])


ROOT = Path(__file__).parents[2]
MARKS = re.compile(r"\bmark\.(slow|property|interpret|gpu|browser)\b")


def test_files_that_may_carry_a_mark_are_those_that_have_its_word(tmp_path: Path) -> None:
    for name, text in {
        "b/test_marked.py": "@pytest.mark.slow\n",
        "b/test_imported.py": "from elsewhere import slow\n",
        "b/test_other.py": "slowly = 1\n",
        "b/slow.py": "slow = 1\n",
        "a/test_device.py": "from pretended_device import DEVICES\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    folders = [tmp_path / "b", tmp_path / "a"]

    assert [file.name for file in files_marked("slow", folders)] == ["test_imported.py", "test_marked.py"]  # fmt: skip
    assert [file.name for file in files_marked("gpu", folders)] == ["test_device.py"]
    assert files_marked("browser", folders) == []


def test_no_mark_comes_from_where_it_is_not_looked_for() -> None:
    """Files that mark tests of others are those that the search knows of."""
    places = [ROOT / "conftest.py", *ROOT.glob("packages/*/tests/**/*.py")]
    places += [file for folder in ("tests", "tools", "benchmarks") for file in ROOT.glob(f"{folder}/**/*.py")]  # fmt: skip
    marking = {
        (mark, file.stem)
        for file in places
        if not file.name.startswith("test_")
        for mark in MARKS.findall(file.read_text(encoding="utf-8"))
    }

    assert marking - {("gpu", "gpu_check")} == {
        *BROUGHT_BY.items()
    }  # the former names it in a search


def test_the_last_line_of_the_table_names_every_job() -> None:
    sessions = [
        {"duration": 61.2, "signatures": ["lint"], "result": "success"},
        {"duration": 600.0, "signatures": ["isolated(bistil)", "isolated"], "result": "failed"},
    ]
    lines = times.table({"sessions": sessions}, []).splitlines()

    assert lines[0].split() == ["600", "s", "isolated(bistil)", "failed"]
    assert lines[-1] == "661 s in all: lint 61, isolated(bistil) 600"


def test_seconds_of_jobs_side_by_side_are_not_added_to_those_of_all() -> None:
    sessions = [
        {"duration": 90.0, "signatures": ["dev"], "result": "success"},
        {"duration": 500.0, "signatures": ["ci"], "result": "success"},
    ]
    jobs = [
        {"job": "lint", "result": "success", "seconds": 4.0, "processor_seconds": 3.0},
        {"job": "slow(bistil)", "result": "failed", "seconds": 490.0, "processor_seconds": 400.4},
    ]

    lines = times.table({"sessions": sessions}, jobs).splitlines()

    assert lines[1].split() == [
        "490",
        "s",
        "slow(bistil)",
        "failed,",
        "400",
        "s",
        "of",
        "a",
        "processor",
    ]
    assert lines[-1] == "590 s in all: dev 90, ci 500; side by side: lint 4, slow(bistil) 490"


JOBS = """
import pathlib, time
import nox

@nox.session(venv_backend="none")
@nox.parametrize("mine, other", [nox.param("a", "b", id="a"), nox.param("b", "a", id="b")])
def meets(session, mine, other):
    pathlib.Path(mine).touch()
    until = time.monotonic() + 60
    while not pathlib.Path(other).exists():
        assert time.monotonic() < until, "the other job has not begun"
        time.sleep(0.01)

@nox.session(venv_backend="none")
def fails(session):
    session.run("python", "-c", "import os; print(os.environ['WORD']); raise SystemExit(3)")
"""


def test_jobs_run_side_by_side_and_one_that_fails_is_told_with_what_it_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "noxfile.py").write_text(JOBS)
    monkeypatch.chdir(tmp_path)

    ended = {end.job: end for end in run_jobs(["meets(a)", "fails", "meets(b)"], at_once=2, WORD="told")}  # fmt: skip

    results = {name: end.result for name, end in ended.items()}
    assert results == {"meets(a)": "success", "meets(b)": "success", "fails": "failed"}
    assert "told\n" in ended["fails"].printed
    assert "Session meets(a) was successful" in ended["meets(a)"].printed
    assert all(0 < end.processor_seconds <= 2 * end.seconds for end in ended.values())
