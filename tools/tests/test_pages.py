"""What the front door promises is there: links lead somewhere, the picture shows the graph, guides are run."""

import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import graph  # noqa: E402  (the path comes first)
import rooms  # noqa: E402
import snippets  # noqa: E402

PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
    *ROOT.glob("packages/*/README.md"),
    ROOT / "benchmarks" / "README.md",
]


@pytest.mark.parametrize("page", sorted(PAGES), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_inside_the_house_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    inside = [target for target in targets if not target.startswith(("http:", "https:"))]

    assert [target for target in inside if not (page.parent / target).exists()] == []


def test_the_picture_says_who_imports_whom() -> None:
    picture = ElementTree.parse(ROOT / "docs" / "floors.svg").getroot()  # our own file
    (words,) = picture.findall("{http://www.w3.org/2000/svg}desc")
    shown = {
        name: set(re.findall(r"\w+", imported.replace("these", "teacherzoo vocabmerge kdkernels")))
        for name, imported in re.findall(r"(\w+) imports ([^;.]+)", words.text or "")
    }
    packages = graph.read_packages()

    assert {name: shown.get(name, set()) & set(packages) for name in packages} == {
        name: set(package.siblings) for name, package in packages.items()
    }


def test_the_readme_names_every_package_and_every_guide() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    for name in graph.read_packages():
        assert f"[`{name}`](packages/{name})" in readme
    for guide in ROOT.glob("docs/*.md"):
        assert f"](docs/{guide.name})" in readme


def test_the_place_of_the_demo_s_table_is_marked_once() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    assert readme.count("<!-- demo -->") == readme.count("<!-- /demo -->") == 1
    assert readme.index("<!-- demo -->") < readme.index("<!-- /demo -->")


def test_every_figure_of_the_readme_stands_in_the_records() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| [^|]+ \| ([^|]*\*\*[^|]+) \| `(\w+)` \|$", readme, flags=re.MULTILINE)
    records = [
        json.loads(line)
        for file in ROOT.glob("benchmarks/results/*.jsonl")
        for line in file.read_text(encoding="utf-8").splitlines()
    ]

    assert len(rows) >= 7
    for words, question in rows:
        its = [each for each in records if each["question"] == question and not each["quick"]]
        known = [each["median"] for each in its]
        known += [each["ratio"]["median"] for each in its if each["ratio"]]
        for figure in re.findall(r"\*\*([\d.]+)\*\*", words):
            digits = len(figure.partition(".")[2])
            assert figure in {f"{value:.{digits}f}" for value in known}, (question, figure)


@pytest.mark.parametrize("guide", sorted(ROOT.glob("docs/*.md")), ids=lambda guide: guide.name)
def test_a_guide_that_shows_commands_has_some_that_run(guide: Path) -> None:
    text = guide.read_text(encoding="utf-8")

    if "```console" in text or "```python" in text:
        assert snippets.snippets(text)


@pytest.mark.parametrize("name", graph.read_packages())
def test_the_picture_shows_every_room_above_what_it_imports(name: str) -> None:
    picture = ElementTree.parse(rooms.PICTURE).getroot()  # our own file
    (words,) = picture.findall("{http://www.w3.org/2000/svg}desc")
    (shown,) = re.findall(rf"\b{name}: ([^.]+)\.", words.text or "")
    height = {room: -row for row, line in enumerate(shown.split("; ")) for room in line.split(", ")}
    imports = rooms.rooms(graph.read_packages()[name])

    assert height.keys() == imports.keys(), "run `python tools/rooms.py`"
    for room, imported in imports.items():
        assert all(height[room] > height[below] for below in imported), (room, imported)


def test_a_room_stands_above_what_it_imports() -> None:
    assert rooms.levels({"a": {"b", "c"}, "b": {"c"}, "c": set(), "d": set()}) == [
        ["a"],
        ["b"],
        ["c", "d"],
    ]
    with pytest.raises(graph.WorkspaceError, match="a -> b -> a is a circle"):
        rooms.levels({"a": {"b"}, "b": {"a"}})
