"""The workflows, as far as one can look without GitHub: what they name is there, and their shell does what it says."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FLOWS: dict[str, dict[str, Any]] = {file.stem: yaml.safe_load(file.read_text()) for file in FILES}
JOBS = [(flow, job) for flow, its in FLOWS.items() for job in its["jobs"]]
each_job = pytest.mark.parametrize(("flow", "job"), JOBS, ids=lambda name: name)


def steps(flow: str, job: str) -> list[dict[str, Any]]:
    return FLOWS[flow]["jobs"][job]["steps"]


def script(flow: str, job: str, words: str) -> str:
    (found,) = [step["run"] for step in steps(flow, job) if words in step.get("run", "")]
    return found


def bash(text: str, folder: Path, **environment: str) -> None:
    """As a runner does it."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["bash", "-e", "-c", text], cwd=folder, env=os.environ | {"PATH": path} | environment, check=True
    )  # fmt: skip


def git(folder: Path, *arguments: str) -> str:
    named = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(
        ["git", *named, "-C", str(folder), *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize("flow", FLOWS)
def test_a_workflow_may_read_and_only_named_jobs_more(flow: str) -> None:
    assert FLOWS[flow]["permissions"] == {"contents": "read"}
    more = {name: its.get("permissions", {}) for name, its in FLOWS[flow]["jobs"].items()}
    assert {name: set(its) for name, its in more.items() if its} == {
        "ci": {"publish": {"pages", "id-token"}},
        "bench": {"keep": {"contents"}},
        "release": {"publish": {"id-token"}},
    }[flow]


@each_job
def test_shell_parses_and_takes_what_comes_from_outside_by_its_environment(
    flow: str, job: str
) -> None:
    for step in steps(flow, job):
        text = step.get("run", "")
        assert "${{" not in text
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)


@each_job
def test_outputs_and_jobs_that_are_named_are_there(flow: str, job: str) -> None:
    its = FLOWS[flow]["jobs"][job]
    needed = its.get("needs", [])
    ids = {step["id"] for step in its["steps"] if "id" in step}
    text = json.dumps(its)

    assert set([needed] if isinstance(needed, str) else needed) <= set(FLOWS[flow]["jobs"])
    assert set(re.findall(r"steps\.(\w+)\.outputs", text)) <= ids
    for other, output in re.findall(r"needs\.(\w+)\.outputs\.(\w+)", text):
        assert output in FLOWS[flow]["jobs"][other]["outputs"]


def test_the_sessions_that_are_run_exist() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "nox", "--list"], cwd=ROOT, capture_output=True, text=True, check=True
    )  # fmt: skip
    known = set(re.findall(r"^[-*] ([\w-]+(?:\(\w+\))?)", listed.stdout, flags=re.MULTILINE))
    known |= {name.partition("(")[0] for name in known}
    matrix = FLOWS["ci"]["jobs"]["gates"]["strategy"]["matrix"]["session"]
    called = " ".join(step.get("run", "") for flow, job in JOBS for step in steps(flow, job))
    named = re.findall(r"nox -s ([\w-]+)", called) + re.findall(r'"(\w+)\(\$PACKAGE\)"', called)

    order = (ROOT / "noxfile.py").read_text().split("LONGEST_FIRST = (")[1].split("# fmt")[0]

    assert {word for session in matrix for word in session.split()} <= known
    assert set(named) <= known
    assert "slow(bistil)" in re.findall(r'"([^"]+)"', order)
    assert set(re.findall(r'"([^"]+)"', order)) <= known
    gates = {"lint", "typecheck", "interpret", "slow", "property", "browser", "readmes"}
    assert gates <= {word for session in matrix for word in session.split()}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A clone with one commit, as a runner checks it out."""
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", tmp_path / "origin"], check=True)
    subprocess.run(["git", "clone", "-q", tmp_path / "origin", tmp_path / "clone"], check=True)
    clone = tmp_path / "clone"
    git(clone, "switch", "-q", "-c", "main")
    (clone / "tracked").touch()
    git(clone, "add", "tracked")
    git(clone, "commit", "-q", "-m", "first")
    git(clone, "push", "-q", "origin", "main")
    return clone


def measured(clone: Path, *, commit: str) -> None:
    (clone / "measured").mkdir(exist_ok=True)
    (clone / "measured" / "latest.jsonl").write_text(json.dumps({"commit": commit}) + "\n")


def test_what_was_measured_is_kept_and_the_next_run_finds_its_base(
    repository: Path, tmp_path: Path
) -> None:
    keep, earlier = script("bench", "keep", "git push"), script("bench", "quick", "bench-trend")
    first = git(repository, "rev-parse", "--short", "HEAD")
    for commit in ("gone", first):
        measured(repository, commit=commit)
        bash(keep, repository, GITHUB_SHA="0" * 40)
        git(repository, "switch", "-q", "main")
        git(repository, "branch", "-D", "bench-trend")
    git(repository, "fetch", "-q")
    output = tmp_path / "output"
    bash(earlier, repository, BASE="", GITHUB_OUTPUT=str(output))

    trend = (repository / ".bench" / "trend.jsonl").read_text().splitlines()
    assert [json.loads(line)["commit"] for line in trend] == ["gone", first]
    assert output.read_text() == f"base={first}\n"


def test_without_a_trend_or_with_one_of_a_lost_commit_there_is_no_base(
    repository: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    earlier = script("bench", "quick", "bench-trend")
    bash(earlier, repository, BASE="", GITHUB_OUTPUT=str(output))
    measured(repository, commit="gone")
    bash(script("bench", "keep", "git push"), repository, GITHUB_SHA="0" * 40)
    git(repository, "fetch", "-q")
    bash(earlier, repository, BASE="", GITHUB_OUTPUT=str(output))
    bash(earlier, repository, BASE="of-the-pull-request", GITHUB_OUTPUT=str(output))

    assert output.read_text() == "base=\nbase=\nbase=of-the-pull-request\n"


def test_a_push_without_a_past_tests_every_package(tmp_path: Path) -> None:
    output = tmp_path / "output"
    bash(script("ci", "changed", "changed.py"), ROOT, BASE="0" * 40, GITHUB_OUTPUT=str(output))
    name, _, packages = output.read_text().partition("=")

    assert name == "packages"
    assert set(json.loads(packages)) == {
        file.parent.name for file in ROOT.glob("packages/*/pyproject.toml")
    }


def test_a_tag_names_its_package(tmp_path: Path) -> None:
    output = tmp_path / "output"
    name = script("release", "build", "GITHUB_REF_NAME")
    bash(name, tmp_path, GITHUB_REF_NAME="kdkernels-v0.1.0", GITHUB_OUTPUT=str(output))

    assert output.read_text() == "package=kdkernels\n"
