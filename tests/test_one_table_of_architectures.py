"""Nothing but the table of architectures compares with an architecture's name."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from teacherzoo.encoders.families import FAMILIES

PACKAGES = Path(__file__).parents[1] / "packages"


def _named(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of each architecture that a comparison, a `match` or the key of a mapping names.

    A masking policy is called `bert`, too.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and getattr(node.left, "attr", "") != "policy":
            parts: list[ast.AST] = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            parts = [node.value]
        elif isinstance(node, ast.Dict):
            parts = [key for key in node.keys if key is not None]
        else:
            continue
        for part in parts:
            for leaf in ast.walk(part):
                if isinstance(leaf, ast.Constant) and leaf.value in FAMILIES:
                    yield leaf.lineno, leaf.value


@pytest.mark.parametrize("package", ["teacherzoo", "mergedistill", "bistil"])
def test_no_code_asks_which_architecture_it_is(package: str) -> None:
    files = (PACKAGES / package / "src").rglob("*.py")
    asked = [
        f"{file.name}:{line} {name}"
        for file in files
        if file.name != "families.py"
        for line, name in _named(ast.parse(file.read_text(encoding="utf-8")))
    ]
    assert asked == []


@pytest.mark.parametrize(
    "code",
    [
        "if config.model_type == 'modernbert': pass",
        "if kind in ('albert', 'electra'): pass",
        "match kind:\n case 'deberta-v2': pass",
        "INNER = {'distilbert': 'hidden_dim'}",
    ],
)
def test_a_question_would_be_seen(code: str) -> None:
    assert list(_named(ast.parse(code)))
