"""The runner in a house of one package whose cost is a constant, so that nothing depends on the machine."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from questions import read_questions  # noqa: E402  (the path comes first)

QUESTION = '''
"""What does an operation cost?"""
from record import Recorder, parser
import op

arguments = parser("cost").parse_args()
recorder = Recorder("op_cost", arguments)
size = 1 if arguments.quick else 10
recorder.add(
    "cost", {"ours": [op.COST * size] * 3, "floor": [1.0 * size] * 3}, unit="s", floor="floor", bar={"ours": 2.5},
    memory={"ours": 2**20}, shape={"N": 1 if arguments.quick else 10},
)
recorder.add("rate", {"ours": [1 / op.COST]}, unit="M/s")
recorder.add("error", {"ours": [op.ERROR]}, unit="", bar={"ours": 0.1})
recorder.close()
'''
TEST = "import op\n\n\ndef test_op() -> None:\n    assert op.RIGHT\n"

House = Callable[..., None]
Bench = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def house(tmp_path: Path) -> House:
    """Writes the package as it shall be; the first time also the house around it, and commits it."""
    questions = [f"{package.name}_*.py" for package in (ROOT / "packages").iterdir()]
    shutil.copytree(
        ROOT / "benchmarks",
        tmp_path / "benchmarks",
        ignore=shutil.ignore_patterns(*questions, "results", "tests", "__pycache__", "*.toml"),
    )
    shutil.copytree(ROOT / "tools", tmp_path / "tools", ignore=shutil.ignore_patterns("tests"))
    (tmp_path / "benchmarks" / "op_cost.py").write_text(QUESTION)
    (tmp_path / "benchmarks" / "questions.toml").write_text(
        '[op_cost]\ntests = ["packages/op/tests/test_op.py"]\nquick = "it is all there is"\n'
    )
    package = tmp_path / "packages" / "op"
    for folder in ("src/op", "tests"):
        (package / folder).mkdir(parents=True)
    (package / "pyproject.toml").write_text('[project]\nname = "op"\nversion = "0.1.0"\n')
    (package / "tests" / "test_op.py").write_text(TEST)
    (tmp_path / "conftest.py").touch()
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = packages/op/src\n")
    (tmp_path / ".gitignore").write_text("__pycache__\n.pytest_cache\n")

    def write(*, cost: float = 2.0, error: float = 0.01, right: bool = True) -> None:
        (package / "src" / "op" / "__init__.py").write_text(
            f"COST, ERROR, RIGHT = {cost}, {error}, {right}\n"
        )

    write()
    subprocess.run(["git", "-C", str(tmp_path), "init", "-q", "-b", "main"], check=True)
    _commit(tmp_path)
    return write


def _commit(root: Path) -> None:
    git = ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for arguments in (["add", "-A"], ["commit", "-q", "-m", "next"]):
        subprocess.run([*git, *arguments], check=True)


@pytest.fixture
def bench(house: House, tmp_path: Path) -> Bench:
    """Runs the runner of the house."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "benchmarks/bench.py", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
        )

    return run


def test_every_question_names_tests_that_are_there() -> None:
    questions = read_questions()

    assert {question.package for question in questions} == {
        folder.name for folder in (ROOT / "packages").iterdir()
    }


def test_a_run_tests_first_then_records_and_reports(bench: Bench, tmp_path: Path) -> None:
    done = bench()

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.index("testing packages/op/tests/test_op.py") < done.stdout.index(
        "== op_cost"
    )
    records = [
        json.loads(line) for line in (tmp_path / ".bench/latest.jsonl").read_text().splitlines()
    ]
    assert [record["contender"] for record in records] == ["ours", "floor", "ours", "ours"]
    assert records[0]["met"]
    assert records[0]["ratio"]["median"] == 2.0
    assert "What does an operation cost?" in (tmp_path / ".bench/report.html").read_text()
    status = subprocess.run(["git", "status", "--porcelain"], cwd=tmp_path, capture_output=True)
    assert status.stdout == b""


def test_records_that_change_the_checkout_are_of_the_commit_that_was_begun_with(
    house: House, tmp_path: Path
) -> None:
    out = tmp_path / "results.jsonl"
    out.touch()
    house()
    _commit(tmp_path)

    asked = [sys.executable, "benchmarks/op_cost.py", "--out", str(out)]
    subprocess.run(
        asked,
        cwd=tmp_path,
        check=True,
        env=os.environ | {"PYTHONPATH": "packages/op/src", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    commits = {json.loads(line)["commit"] for line in out.read_text().splitlines()}
    assert len(commits) == 1
    assert "dirty" not in commits.pop()


def test_without_green_tests_nothing_is_measured(
    bench: Bench, house: House, tmp_path: Path
) -> None:
    house(right=False)

    done = bench()

    assert done.returncode == 1
    assert "op_cost: its tests are red" in done.stderr
    assert not (tmp_path / ".bench/latest.jsonl").exists()


def test_a_question_outside_the_quick_set_runs_when_named_or_in_a_full_run(
    bench: Bench, tmp_path: Path
) -> None:
    table = tmp_path / "benchmarks" / "questions.toml"
    table.write_text(table.read_text().partition("quick")[0])

    assert "nothing to measure" in bench().stdout
    assert "== op_cost" in bench("op").stdout
    assert "[N=10]" in bench("--full").stdout


def test_a_question_whose_need_is_not_met_is_named_and_absent(bench: Bench, tmp_path: Path) -> None:
    table = tmp_path / "benchmarks" / "questions.toml"
    table.write_text(table.read_text() + 'needs = "data"\n')

    absent, measured = bench(), bench("--data", ".")

    assert "absent: op_cost needs --data FOLDER" in absent.stdout
    assert "nothing to measure" in absent.stdout
    assert "== op_cost" in measured.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--warp"], "bench knows no argument '--warp'"),
        (["nothing"], "bench knows no question 'nothing': there are op_cost."),
        (["--data", "nowhere"], "--data 'nowhere' is no folder."),
        (["op", "--base", "nowhere"], "git knows no commit 'nowhere'"),
        (["--base", "nowhere"], "'nowhere'"),
    ],
)
def test_misuse_exits_with_two_and_one_sentence(
    bench: Bench, arguments: list[str], sentence: str
) -> None:
    done = bench(*arguments)

    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_equal_commits_are_within_noise(bench: Bench, tmp_path: Path) -> None:
    done = bench("op", "--base", "main")

    assert done.returncode == 0, done.stdout + done.stderr
    outcome = json.loads((tmp_path / ".bench/comparison.json").read_text())
    assert {each["change"] for each in outcome["changes"]} == {"within noise"}
    assert "4 of 4 contenders are within noise." in (tmp_path / ".bench/report.md").read_text()


def test_a_planted_slowdown_is_red_and_named(bench: Bench, house: House, tmp_path: Path) -> None:
    house(cost=2.4)

    done = bench("--base", "main")

    assert done.returncode == 1
    outcome = json.loads((tmp_path / ".bench/comparison.json").read_text())
    changes = {(each["what"], each["contender"]): each for each in outcome["changes"]}
    assert changes["cost", "ours"]["change"] == "slower"
    assert changes["cost", "ours"]["interval"]["ratio"] == pytest.approx(1.2)
    assert changes["rate", "ours"]["change"] == "slower"
    assert changes["cost", "floor"]["change"] == "within noise"
    assert changes["error", "ours"]["change"] == "within noise"
    assert "| op_cost | cost (N=1) | ours | 1.200 (1.200 to 1.200) | **slower** |" in done.stdout


def test_a_machine_that_changes_its_pace_from_run_to_run_hides_no_slowdown(
    bench: Bench, house: House, tmp_path: Path
) -> None:
    question = tmp_path / "benchmarks" / "op_cost.py"
    question.write_text(QUESTION.replace("size = 1 ", "import os; size = (1 + os.getpid() % 9) "))
    _commit(tmp_path)
    house(cost=2.4)

    done = bench("--base", "main")

    assert done.returncode == 1
    outcome = json.loads((tmp_path / ".bench/comparison.json").read_text())
    changes = {each["contender"]: each for each in outcome["changes"] if each["what"] == "cost"}
    assert changes["ours"]["change"] == "slower"
    assert changes["ours"]["interval"]["low"] == pytest.approx(1.2)


def test_a_gain_is_named_and_green(bench: Bench, house: House) -> None:
    house(cost=1.0)

    done = bench("--base", "main")

    assert done.returncode == 0
    assert "**faster**" in done.stdout


def test_a_larger_error_is_worse_and_red(bench: Bench, house: House) -> None:
    house(error=0.02)

    done = bench("--base", "main")

    assert done.returncode == 1
    assert "**worse**" in done.stdout


def test_what_the_base_cannot_answer_is_absent_and_what_the_new_tree_cannot_is_red(
    bench: Bench, tmp_path: Path
) -> None:
    question = tmp_path / "benchmarks" / "op_cost.py"
    source = tmp_path / "packages" / "op" / "src" / "op" / "__init__.py"
    question.write_text(QUESTION.replace("op.COST", "op.NOVELTY"))
    _commit(tmp_path)

    source.write_text("NOVELTY, ERROR, RIGHT = 1.0, 0.01, True\n")
    absent = bench("--base", "main")
    source.write_text("ERROR, RIGHT = 0.01, True\n")
    red = bench("--base", "main")

    assert absent.returncode == 0
    assert "op_cost: base cannot answer it: AttributeError" in absent.stdout
    assert red.returncode == 1
    assert "op_cost: new cannot answer it: AttributeError" in red.stdout


def test_a_commit_answers_with_its_own_files_whatever_they_were_called(
    bench: Bench, house: House, tmp_path: Path
) -> None:
    """A package that renames what a question calls is still compared with what it was."""
    house(cost=2.4)
    source = tmp_path / "packages" / "op" / "src" / "op" / "__init__.py"
    source.rename(source.with_name("price.py"))
    source.write_text("RIGHT = True\n")
    folder = tmp_path / "benchmarks"
    (folder / "record.py").rename(folder / "recorder.py")
    question = QUESTION.replace("import op\n", "from op import price as op\n")
    (folder / "op_cost.py").write_text(question.replace("from record ", "from recorder "))

    done = bench("--base", "main")

    assert "| op_cost | cost (N=1) | ours | 1.200 (1.200 to 1.200) | **slower** |" in done.stdout


def test_a_question_that_the_base_does_not_ask_is_absent(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "benchmarks" / "op_size.py").write_text(QUESTION)
    with (tmp_path / "packages/op/src/op/__init__.py").open("a") as file:
        file.write("SIZE = 1\n")
    table = tmp_path / "benchmarks" / "questions.toml"
    table.write_text(table.read_text() + table.read_text().replace("op_cost", "op_size"))

    done = bench("op_size", "--base", "main")

    assert done.returncode == 0
    assert "op_size: main does not ask it." in done.stdout


def test_without_a_changed_package_there_is_nothing_to_compare(bench: Bench) -> None:
    done = bench("--base", "main")

    assert done.returncode == 0
    assert "nothing to measure" in done.stdout
