"""No name in our sources is a pronoun: it would not say what it holds."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PRONOUNS = {
    *("its", "mine", "ours", "theirs", "yours", "own", "it", "they", "them", "their"),
    *("each", "found", "somebody", "this", "that", "these", "those"),
}
SOURCES = [
    *ROOT.glob("packages/*/src/**/*.py"),
    *ROOT.glob("tools/*.py"),
    *ROOT.glob("benchmarks/*.py"),
    *ROOT.glob("examples/**/*.py"),
]


def test_no_name_is_a_pronoun() -> None:
    assert len(SOURCES) > 100
    assert [
        f"{source.relative_to(ROOT)}:{line} {name}"
        for source in sorted(SOURCES)
        for line, name in pronouns(ast.parse(source.read_text(encoding="utf-8")))
    ] == []


def test_a_pronoun_is_seen_wherever_a_name_is_bound() -> None:
    program = """
import json as its
from json import dumps as mine
class These(Base): ours: int = 0
async def own(each, *them, they=0, **their): return lambda it: (found := it)
for _those in []: self.yours = 0
with open(path) as this: pass
try: pass
except Error as that: pass
match value:
    case [theirs, *somebody]: pass
its_value, foundation, THAT_ONE = says(its)
"""
    seen = [name.strip("_").lower() for _, name in pronouns(ast.parse(program))]
    assert sorted(seen) == sorted(PRONOUNS)


def pronouns(tree: ast.AST) -> list[tuple[int, str]]:
    """(line, name) of every pronoun that a program binds, with or without underscores around it."""
    return [
        (node.lineno, name)
        for node in ast.walk(tree)
        for name in bound_names(node)
        if name.strip("_").lower() in PRONOUNS
    ]


def bound_names(node: ast.AST) -> Iterator[str]:
    """The names that a node itself binds: variables, attributes, arguments, definitions, import aliases."""
    match node:
        case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
            yield name
        case ast.arg(arg=name):
            yield name
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.alias(asname=str(name)) | ast.ExceptHandler(name=str(name)):
            yield name
        case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            yield name
        case ast.MatchMapping(rest=str(name)):
            yield name
