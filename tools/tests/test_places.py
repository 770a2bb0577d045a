"""What pages and programs say about our sources is so: the places are there, and define the names."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PROGRAMS = [
    *ROOT.glob("benchmarks/**/*.py"),
    *ROOT.glob("examples/*.py"),
    *ROOT.glob("tests/*.py"),
    *ROOT.glob("tools/**/*.py"),
]


def test_the_house_answers_where_to_change_what() -> None:
    """At least twelve questions; every place is there, and defines the name that it is said to."""
    table = (ROOT / "HOUSE.md").read_text(encoding="utf-8").split("## Where do I change", 1)[1]
    rows = [line for line in table.split("\n## ")[0].splitlines() if line.startswith("| ")][2:]
    places = [re.findall(r"`([\w./-]+)(?:::(\w+))?`", row.split("|")[2]) for row in rows]

    assert len(rows) >= 12
    assert all(places)
    assert [place for row in places for place in row if not is_there(*place)] == []


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_program_imports_of_ours_is_there(program: Path) -> None:
    """Benchmarks are not run before every commit, and would not tell that a name has gone."""
    assert [name for name in imported(program) if not is_there(*name)] == []


def test_a_place_that_is_not_there_would_be_seen(tmp_path: Path) -> None:
    assert is_there("tools/rooms.py", "draw")
    assert is_there("tools/rooms.py", "PICTURE")
    assert not is_there("tools/rooms.py", "paint")
    assert not is_there("tools/chambers.py")
    (tmp_path / "beside.py").write_text("HERE = 1\n")
    program = tmp_path / "program.py"
    program.write_text(
        "def f():\n    from xeval.tasks import TASKS, CHORES\n    import xeval.chores\n"
        "from beside import HERE, GONE\n"
    )

    there = {name: is_there(place, name) for place, name in imported(program)}
    assert there == {"HERE": True, "GONE": False, "TASKS": True, "CHORES": False, "": False}


def imported(program: Path) -> Iterator[tuple[str, str]]:
    """(place, name) of everything that a program imports of our packages and of what lies beside it."""
    for node in ast.walk(ast.parse(program.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.module or "", alias.name) for alias in node.names]
        else:
            continue
        for module, name in names:
            beside = program.with_name(f"{module}.py")
            if beside.exists():
                yield str(beside), name
            elif source_of(module.partition(".")[0]).is_dir():
                yield module.replace(".", "/"), name


def source_of(package: str) -> Path:
    return ROOT / "packages" / package / "src" / package


def is_there(place: str, name: str = "") -> bool:
    """Whether a path from the root or from a package's sources, with or without its .py, is there and defines a name."""
    package, _, rest = place.partition("/")
    path = source_of(package) / rest if source_of(package).is_dir() else ROOT / place
    if not path.exists():
        path = path.with_suffix(".py")
    if not name or not path.exists():
        return path.exists()
    if path.is_dir():
        beside = (path / name).is_dir() or (path / f"{name}.py").exists()
        return beside or name in defined(ast.parse((path / "__init__.py").read_text()).body)
    text = path.read_text(encoding="utf-8")
    return name in (defined(ast.parse(text).body) if path.suffix == ".py" else text)


def defined(body: list[ast.stmt]) -> set[str]:
    """The names that the statements of a module define, those for type checking included."""
    names: set[str] = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.If):
            names |= defined(node.body)
        else:
            names |= {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    return names
