"""The program that serves an export: the files of `programs/` that its kind of model needs, as one file."""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from importlib.resources import files

_PROGRAMS = "bistil.export.folder.programs"


def program(kind: str, *, session: str = "onnx_session") -> str:
    """One file of Python that needs nothing but a runtime, tokenizers and numpy.

    Args:
        kind: the file of `programs/` with what a user calls.
        session: the one that opens the graph.

    Example:
        >>> text = program("reranker")
        >>> "class Reranker(Graph)" in text, "import bistil" in text
        (True, False)
    """
    parts = [files(_PROGRAMS).joinpath(f"{name}.py").read_text("utf-8") for name in (session, "rows", kind)]  # fmt: skip
    trees = [ast.parse(part) for part in parts]
    bodies = [_body(part, tree) for part, tree in zip(parts, trees, strict=True)]
    summary = f'"""{ast.get_docstring(trees[-1], clean=False)}"""'
    opening = "\n\n".join([summary, "\n".join(_imports(trees)), bodies[0]])
    return "\n\n\n".join([opening, *bodies[1:]]) + "\n"


def _body(part: str, tree: ast.Module) -> str:
    """What follows the imports."""
    imports = [node.end_lineno or 0 for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]  # fmt: skip
    return "\n".join(part.splitlines()[max(imports) :]).strip("\n")


def _imports(trees: list[ast.Module]) -> Iterator[str]:
    """The imports of all parts but those of each other, sorted: of Python, then of other libraries."""
    names: dict[str, set[str]] = defaultdict(set)
    whole = set()
    for node in (node for tree in trees for node in tree.body):
        if isinstance(node, ast.Import):
            whole |= {ast.unparse(node)}
        elif (
            isinstance(node, ast.ImportFrom)
            and node.module
            and not node.module.startswith(_PROGRAMS)
        ):
            names[node.module] |= {alias.name for alias in node.names}
    lines = sorted(whole) + [f"from {module} import {', '.join(sorted(names[module]))}" for module in sorted(names)]  # fmt: skip
    yield "from __future__ import annotations"
    for of_python in (True, False):
        yield ""
        for line in lines:
            module = line.split()[1].split(".")[0]
            if module != "__future__" and (module in sys.stdlib_module_names) is of_python:
                yield line
