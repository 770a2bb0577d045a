"""Every disorder of the house is refused with one sentence: planted here, and seen refused."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.version import Version

TOOLS = Path(__file__).parent.parent
sys.path.insert(0, str(TOOLS))

import changed  # noqa: E402  (the path comes first)
import graph  # noqa: E402
import index_names  # noqa: E402
import news  # noqa: E402
import siblings  # noqa: E402
import snippets  # noqa: E402
import wheels  # noqa: E402

Build = Callable[..., dict[str, graph.Package]]


@pytest.fixture
def house(tmp_path: Path) -> Build:
    """Builds a workspace: `house(roof=["floor>=0.1,<0.2"], floor=[])`; a source imports what it requires."""

    def build(**requirements: list[str]) -> dict[str, graph.Package]:
        for name, wanted in requirements.items():
            folder = tmp_path / "packages" / name
            source = folder / "src" / name
            source.mkdir(parents=True)
            (folder / "news").mkdir()
            (folder / "news" / "first.feature.md").write_text("It exists.\n")
            (folder / "CHANGELOG.md").write_text(f"# Changelog of {name}\n")
            (folder / "pyproject.toml").write_text(
                f'[project]\nname = "{name}"\nversion = "0.1.0"\ndependencies = {json.dumps(wanted)}\n'
            )
            imports = [f"import {each.partition('>')[0]}" for each in wanted]
            (source / "__init__.py").write_text("\n".join([*imports, ""]))
            (source / "py.typed").touch()
        return graph.read_packages(tmp_path)

    return build


@pytest.fixture
def history(house: Build, tmp_path: Path) -> Callable[..., str]:
    """A committed workspace of `floor` below `roof` beside `shed`; `history(*arguments)` runs git in it."""
    house(floor=[], roof=["floor>=0.1,<0.2"], shed=[])

    def git(*arguments: str) -> str:
        done = subprocess.run(
            [
                "git",
                "-c",
                "user.name=t",
                "-c",
                "user.email=t@example.org",
                "-C",
                str(tmp_path),
                *arguments,
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    git("init", "-q", "-b", "main")
    git("add", "-A")
    git("commit", "-q", "-m", "first")
    return git


def test_packages_come_ground_first(house: Build) -> None:
    packages = house(attic=["roof>=0.1,<0.2"], roof=["floor>=0.1,<0.2"], floor=[])

    assert list(packages) == ["floor", "roof", "attic"]
    assert graph.closure(packages, "roof") == ["floor", "roof"]
    assert graph.with_dependents(packages, ["roof"]) == ["roof", "attic"]


def test_a_circle_of_packages_is_refused_by_name(house: Build) -> None:
    with pytest.raises(graph.WorkspaceError, match=r"circle \((a -> b -> a|b -> a -> b)\)"):
        house(a=["b>=0.1,<0.2"], b=["a>=0.1,<0.2"])


def test_nox_refuses_a_circle_of_packages_in_one_sentence(house: Build, tmp_path: Path) -> None:
    with pytest.raises(graph.WorkspaceError):
        house(a=["b>=0.1,<0.2"], b=["a>=0.1,<0.2"])
    for name in ("noxfile.py", "constraints.txt"):
        shutil.copy(TOOLS.parent / name, tmp_path)
    shutil.copytree(
        TOOLS, tmp_path / "tools", ignore=shutil.ignore_patterns("tests", "__pycache__")
    )

    done = _nox("--list", cwd=tmp_path)

    assert done.returncode != 0
    assert "noxfile: packages require each other in a circle" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_an_undeclared_sibling_import_is_refused(house: Build) -> None:
    packages = house(floor=[], roof=[])
    file = packages["roof"].source / "late.py"
    file.write_text("def f():\n    from floor import x\n    return x\n")

    (fault,) = siblings.check(packages)

    assert fault.startswith("roof imports floor (src/roof/late.py) but does not declare it")
    assert '"floor>=0.1,<0.2"' in fault


def test_a_declared_sibling_that_nobody_imports_is_refused(house: Build) -> None:
    packages = house(floor=[], roof=["floor>=0.1,<0.2"])
    (packages["roof"].source / "__init__.py").write_text("")

    assert siblings.check(packages) == ["roof declares floor but never imports it: remove it."]


@pytest.mark.parametrize("wanted", ["floor>=0.2,<0.3", "floor>=0.1", "floor==0.1.0"])
def test_a_window_that_shuts_the_sibling_out_or_has_no_end_is_refused(
    house: Build, wanted: str
) -> None:
    packages = house(floor=[], roof=[])
    package = packages["roof"]
    text = (package.folder / "pyproject.toml").read_text().replace("[]", json.dumps([wanted]))
    (package.folder / "pyproject.toml").write_text(text)
    (package.source / "__init__.py").write_text("import floor\n")

    (fault,) = siblings.check(graph.read_packages(package.folder.parent.parent))

    assert 'write "floor>=0.1,<0.2"' in fault


def test_our_own_house_is_in_order() -> None:
    assert siblings.check(graph.read_packages()) == []
    assert index_names.check(graph.read_packages(), graph.ROOT) == []
    assert news.check(graph.read_packages(), graph.ROOT, None) == []


def test_a_change_touches_its_package_and_all_above(
    history: Callable[..., str], tmp_path: Path
) -> None:
    packages = graph.read_packages(tmp_path)
    (packages["floor"].source / "new.py").write_text("x = 1\n")

    files = changed.changed_files(tmp_path, "main")

    assert files == ["packages/floor/src/floor/new.py"]
    assert changed.changed_packages(packages, files) == ["floor", "roof"]
    assert changed.changed_packages(packages, ["README.md", "benchmarks/x.py"]) == []
    assert changed.changed_packages(packages, ["constraints.txt"]) == list(packages)


def test_an_unknown_base_is_refused(history: Callable[..., str], tmp_path: Path) -> None:
    with pytest.raises(graph.WorkspaceError, match="'nowhere'"):
        changed.changed_files(tmp_path, "nowhere")


def test_a_changed_source_without_a_note_is_refused(
    history: Callable[..., str], tmp_path: Path
) -> None:
    packages = graph.read_packages(tmp_path)
    (packages["shed"].source / "new.py").write_text("x = 1\n")

    (fault,) = news.check(packages, tmp_path, "main")

    assert fault.startswith("shed changed since main without a news note: add packages/shed/news/")
    (packages["shed"].folder / "news" / "new.fix.md").write_text("New.\n")
    assert news.check(packages, tmp_path, "main") == []


@pytest.mark.parametrize("name", ["note.md", "Note.fix.md", "note.bug.md"])
def test_a_misnamed_note_is_refused(house: Build, name: str) -> None:
    package = house(floor=[])["floor"]
    (package.folder / "news" / name).write_text("Text.\n")

    with pytest.raises(graph.WorkspaceError, match="is no news note"):
        news.notes(package)


def test_an_empty_note_is_refused(house: Build) -> None:
    package = house(floor=[])["floor"]
    (package.folder / "news" / "blank.fix.md").write_text(" \n")

    with pytest.raises(graph.WorkspaceError, match="is empty"):
        news.notes(package)


@pytest.mark.parametrize("how", ["tag", "base"])
def test_a_version_that_went_back_is_refused(
    history: Callable[..., str], tmp_path: Path, how: str
) -> None:
    file = tmp_path / "packages" / "floor" / "pyproject.toml"
    if how == "tag":
        history("tag", "floor-v0.2.0")
    else:
        history("tag", "roof-v0.0.1")  # another package's, and lower: of no weight
    file.write_text(file.read_text().replace("0.1.0", "0.0.9"))

    (fault,) = news.check(
        graph.read_packages(tmp_path), tmp_path, "main" if how == "base" else None
    )

    highest = "0.2.0" if how == "tag" else "0.1.0"
    assert (
        fault == f"floor went back from {highest} to 0.0.9: versions only grow, restore {highest}."
    )


@pytest.mark.parametrize(
    ("last", "kinds", "expected"),
    [
        (None, ["feature"], "0.1.0"),
        ("0.1.0", ["fix"], "0.1.1"),
        ("0.1.3", ["feature", "fix"], "0.2.0"),
        ("0.1.3", ["breaking"], "0.2.0"),
        ("1.2.3", ["breaking", "fix"], "2.0.0"),
        ("1.2.3", ["feature"], "1.3.0"),
        ("1.2.3", [], "1.2.3"),
    ],
)
def test_the_next_version_follows_from_the_notes(
    last: str | None, kinds: list[str], expected: str
) -> None:
    released = None if last is None else Version(last)

    assert news.next_version(released, Version("0.1.0"), kinds) == Version(expected)


def test_folding_moves_the_notes_into_the_changelog(house: Build) -> None:
    package = house(floor=[])["floor"]
    (package.folder / "news" / "crash.fix.md").write_text("No crash\non Mondays.\n")

    news.fold(package, Version("0.2.0"), "2026-01-02")
    (package.folder / "news" / "more.feature.md").write_text("More.\n")
    news.fold(
        graph.read_packages(package.folder.parent.parent)["floor"], Version("0.3.0"), "2026-02-03"
    )

    assert (package.folder / "CHANGELOG.md").read_text() == (
        "# Changelog of floor\n\n"
        "## 0.3.0 (2026-02-03)\n\n### Features\n\n- More.\n\n"
        "## 0.2.0 (2026-01-02)\n\n### Features\n\n- It exists.\n\n### Fixes\n\n- No crash on Mondays.\n"
    )
    assert 'version = "0.3.0"' in (package.folder / "pyproject.toml").read_text()
    assert news.notes(package) == {}


def test_a_stowaway_and_a_lost_file_in_a_wheel_are_named(house: Build, tmp_path: Path) -> None:
    package = house(floor=[])["floor"]
    dist = tmp_path / "dist"
    dist.mkdir()
    (dist / "floor-0.1.0.tar.gz").write_bytes(_tarball(tmp_path))
    held = wheels.expected_wheel(package) - {"floor/py.typed"} | {"tests/test_floor.py"}
    with zipfile.ZipFile(dist / "floor-0.1.0-py3-none-any.whl", "w") as archive:
        for name in held:
            archive.writestr(name, "")

    faults = wheels.check(package, dist)

    assert "floor-0.1.0-py3-none-any.whl lacks floor/py.typed: is it in src/floor?" in faults
    assert any("holds tests/test_floor.py" in fault for fault in faults)
    assert "floor-0.1.0.tar.gz lacks LICENSE." in faults


def _tarball(folder: Path) -> bytes:
    shutil.make_archive(str(folder / "sdist"), "gztar", folder / "packages", "floor")
    return (folder / "sdist.tar.gz").read_bytes()


def test_readme_blocks_run_in_order_and_failures_name_their_line(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(
        "```python\nx = 1\n```\n\n```python\nopen('made', 'w').write(str(x))\n```\n\n"
        "```console\n$ test \\\n  -f made\nprinted\n$ exit 3\n```\n\n"
        "<!-- not run: needs the moon -->\n```console\n$ exit 4\n```\n"
    )

    (failure,) = snippets.run(readme)

    assert f"{readme}: line 10: exit 3 failed" in failure


def test_a_failing_python_block_shows_the_readme_line(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("# Title\n\n```python\nx = 1\nx.nothing\n```\n")

    (failure,) = snippets.run(readme)

    assert "README.md" in failure
    assert "line 5" in failure


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-s", "lint", "--", "--fast"], "lint takes no argument, got '--fast'."),
        (["-s", "bench", "--", "--warp"], "bench knows no argument '--warp'"),
        (["-s", "bench", "--", "no_such_question"], "bench knows no question 'no_such_question'"),
        (["-s", "ci", "--", "--quickly"], "ci knows no argument '--quickly'"),
        (["-s", "rehearse", "--", "attic"], "rehearse knows no package 'attic'"),
        (["-s", "fly"], "fly"),
    ],
)
def test_nox_refuses_what_it_does_not_know(
    arguments: list[str], sentence: str, tmp_path: Path
) -> None:
    root = tmp_path / "house"
    root.mkdir()
    for name in (
        "noxfile.py",
        "constraints.txt",
        "pyproject.toml",
        "packages",
        "tools",
        "benchmarks",
    ):
        (root / name).symlink_to(TOOLS.parent / name)
    (root / ".venv" / "bin").mkdir(parents=True)
    (root / ".venv" / "bin" / "python").symlink_to(sys.executable)
    # The environment counts as filled: what is asked is whether the argument is refused, not what it would do.
    (root / ".venv" / "stamp").write_text(_stamp())

    done = _nox(*arguments, cwd=root)

    assert done.returncode != 0
    assert sentence in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def _stamp() -> str:
    import hashlib

    root = TOOLS.parent
    files = [root / "pyproject.toml", root / "constraints.txt"]
    files += sorted(root.glob("packages/*/pyproject.toml"))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def _nox(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("NOX")}
    return subprocess.run(
        [sys.executable, "-m", "nox", *arguments],
        cwd=cwd,
        env=environment | {"NO_COLOR": "1"},
        capture_output=True,
        text=True,
    )
