"""A package may be distributed under another name than its folder's, and never under a stranger's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.version import Version

TOOLS = Path(__file__).parent.parent
sys.path.insert(0, str(TOOLS))

import graph  # noqa: E402  (the path comes first)
import index_names  # noqa: E402
import siblings  # noqa: E402
import wheels  # noqa: E402

INDEX = {"pip": {Version("23.0")}}
"""An index that answers and knows none of ours."""


def house(root: Path, *, floor: str, wanted: str) -> dict[str, graph.Package]:
    """`floor`, distributed as given, below `roof`, which requires `wanted`."""
    for name, distribution, requirements in (("floor", floor, []), ("roof", "roof", [wanted])):
        source = root / "packages" / name / "src" / name
        source.mkdir(parents=True)
        (source / "__init__.py").write_text("import floor\n" if requirements else "")
        (source.parent.parent / "pyproject.toml").write_text(
            f'[project]\nname = "{distribution}"\nversion = "0.1.0"\ndependencies = {json.dumps(requirements)}\n'
        )
    (root / "tools").mkdir()
    (root / index_names.STATEMENT).write_text(
        "[free]\nroof = 2026-01-01\ndistillery-floor = 2026-01-01\n[taken]\nfloor = 2026-01-01\n"
    )
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    return graph.read_packages(root)


def prefixed(root: Path) -> dict[str, graph.Package]:
    return house(root, floor="distillery-floor", wanted="distillery-floor>=0.1,<0.2")


def test_a_prefixed_distribution_is_a_sibling_under_its_folder_s_name(tmp_path: Path) -> None:
    packages = prefixed(tmp_path)

    assert list(packages) == graph.closure(packages, "roof") == ["floor", "roof"]
    assert siblings.check(packages) == []


def test_built_files_are_named_after_the_distribution_and_hold_the_import_package(
    tmp_path: Path,
) -> None:
    held = wheels.expected_wheel(prefixed(tmp_path)["floor"])

    assert "floor/__init__.py" in held
    assert "distillery_floor-0.1.0.dist-info/METADATA" in held


def test_a_sibling_required_by_the_stranger_s_name_is_refused(tmp_path: Path) -> None:
    packages = house(tmp_path, floor="distillery-floor", wanted="floor>=0.1,<0.2")

    (fault,) = siblings.check(packages)

    assert fault == (
        "roof requires floor<0.2,>=0.1, but floor is distributed as distillery-floor: "
        'write "distillery-floor>=0.1,<0.2".'
    )


def test_a_distribution_with_a_name_of_its_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        graph.WorkspaceError,
        match="the name is 'flat' but the folder is 'floor': write 'floor', or",
    ):
        house(tmp_path, floor="flat", wanted="flat>=0.1,<0.2")


def test_a_name_that_is_stated_as_taken_is_refused(tmp_path: Path) -> None:
    packages = house(tmp_path, floor="floor", wanted="floor>=0.1,<0.2")

    (fault,) = index_names.check(packages, tmp_path)

    assert fault.startswith("floor would be published as floor, which is somebody else's")


def test_a_name_of_which_nothing_is_stated_is_refused(tmp_path: Path) -> None:
    packages = prefixed(tmp_path)
    (tmp_path / index_names.STATEMENT).write_text("[free]\nroof = 2026-01-01\n[taken]\n")

    (fault,) = index_names.check(packages, tmp_path)

    assert "published as distillery-floor, of which" in fault


def test_a_release_over_a_stranger_s_package_is_refused(tmp_path: Path) -> None:
    package = prefixed(tmp_path)["floor"]
    index = INDEX | {"distillery-floor": {Version("0.0.9")}}

    with pytest.raises(graph.WorkspaceError, match=r"distillery-floor 0\.0\.9 .* is none of ours"):
        index_names.ask(package, tmp_path, lambda name: index.get(name, set()))


def test_a_release_over_our_own_versions_and_of_a_free_name_may_go_on(tmp_path: Path) -> None:
    packages = prefixed(tmp_path)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    subprocess.run([*git, "tag", "floor-v0.0.9"], check=True)
    index = INDEX | {"distillery-floor": {Version("0.0.9")}}

    index_names.ask(packages["floor"], tmp_path, lambda name: index.get(name, set()))
    index_names.ask(packages["roof"], tmp_path, lambda name: index.get(name, set()))


def test_an_index_that_does_not_answer_is_no_free_name(tmp_path: Path) -> None:
    with pytest.raises(graph.WorkspaceError, match="could not be asked for roof"):
        index_names.ask(prefixed(tmp_path)["roof"], tmp_path, lambda name: set())


def test_every_version_that_pip_names_is_seen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = prefixed(tmp_path)["floor"]
    said = "floor (0.2.0)\nAvailable versions: 0.2.0, 0.1.0rc1\n  INSTALLED: 0.3.0\n"

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0, stdout=said if "index" in command else "")

    monkeypatch.setattr(subprocess, "run", run)

    with pytest.raises(graph.WorkspaceError, match=r"distillery-floor 0\.1\.0rc1, 0\.2\.0 on"):
        index_names.ask(package, tmp_path)
