"""`kdkernels` as a repository of the Hub's `kernels` library, made from the package's sources.

    python tools/hub_kernel.py FOLDER [--repository OWNER/NAME]

FOLDER then holds what `kernels.get_local_kernel(Path(FOLDER))` loads and what a `kernel` repository on the Hub consists of:

    build.toml                    what kernel-builder reads: a kernel without a compiled part
    torch-ext/kdkernels/          its sources
    build/torch-cpu/, torch-cuda/ the same, with metadata.json: what is loaded where torch has that backend
    README.md, LICENSE

A kernel is imported from wherever it was downloaded to, under a name that is unique to its contents, so that two versions
can be loaded side by side. Its imports are therefore relative, and its operators are registered under that name.
"""

from __future__ import annotations

import argparse
import ast
import base64
import hashlib
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

from graph import Package, WorkspaceError, read_packages

NAME = "kdkernels"
BACKENDS = ("cpu", "cuda")
LEFT_OUT = ("hf", "testing.py", "py.typed")
"""Not operations: the glue to Trainer and the tools of tests, which the package has."""
EDITION = 5
"""Of the format of build.toml."""

_IMPORT = re.compile(rf"^(\s*)from {NAME}((?:\.\w+)*) import ", re.MULTILINE)
_OPERATOR = re.compile(rf'"{NAME}::(\w+)"')
_OWN_NAME = '__name__.partition(".")[0]'

CARD = """---
library_name: kernels
license: apache-2.0
tags:
  - kernels
  - knowledge-distillation
  - triton
---

# {name}

{description}

Triton kernels on NVIDIA devices of compute capability 8.0 or more, plain torch elsewhere; the same sources as the package
`{name}` {version}.

```python
from kernels import get_kernel

{name} = get_kernel("{repository}", version={major}, trust_remote_code=True)
result = {name}.linear_distil_loss(
    hidden, head.weight, head.bias, labels, topk_ids, topk_logprobs, alpha=0.5
)
```

From a folder: `kernels.get_local_kernel(Path("FOLDER"))`.

## Available functions

{functions}

## Modules

{layers}
"""

OLD_PLACE = '''"""The kernel, where older versions of `kernels` look for it."""

import importlib.util
import sys
from pathlib import Path

if "{identifier}" not in sys.modules:
    _spec = importlib.util.spec_from_file_location("{identifier}", Path(__file__).parents[1] / "__init__.py")
    sys.modules["{identifier}"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["{identifier}"])
_kernel = sys.modules["{identifier}"]
__all__ = _kernel.__all__
globals().update({{name: getattr(_kernel, name) for name in __all__}})
'''


def write_kernel(folder: Path, *, repository: str | None = None) -> None:
    """Write the repository; replaces what stands at `folder` if that was written so before.

    Args:
        folder: to write.
        repository: on the Hub, for the card and build.toml.

    Raises:
        WorkspaceError: `folder` holds something else, or a source names the package where a copy has another name.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / "build.toml").exists():
        raise WorkspaceError(f"{folder} holds other files: name a new folder, or empty this one.")
    package = read_packages()[NAME]
    sources = kernel_sources(package)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        made = Path(temporary, "kernel")
        _write(made / "torch-ext" / NAME, sources)
        for backend in BACKENDS:
            _write_variant(made / "build" / f"torch-{backend}", backend, package, sources)
        (made / "build.toml").write_text(_build_file(package, repository), encoding="utf-8")
        (made / "README.md").write_text(
            _card(package, sources, repository or f"OWNER/{NAME}"), encoding="utf-8"
        )
        shutil.copy(package.folder / "LICENSE", made / "LICENSE")
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)


def kernel_sources(package: Package) -> dict[str, bytes]:
    """Path inside the kernel to contents, of every file that belongs to it.

    Raises:
        WorkspaceError: a source names the package where a copy has another name.
    """
    sources = {}
    for file in sorted(package.source.rglob("*")):
        path = file.relative_to(package.source)
        if file.is_dir() or path.parts[0] in LEFT_OUT or "__pycache__" in path.parts:
            continue
        contents = file.read_bytes()
        if file.suffix == ".py":
            contents = relative(contents.decode(), path, str(package.version)).encode()
        sources[path.as_posix()] = contents
    return sources


def relative(source: str, path: Path, version: str) -> str:
    """A module's source, that works under any name of its package.

    Raises:
        WorkspaceError: where it names the package still.
    """
    dots = "." * len(path.parts)
    source = _IMPORT.sub(lambda line: f"{line[1]}from {dots}{line[2][1:]} import ", source)
    source = _OPERATOR.sub(rf'{_OWN_NAME} + "::\1"', source)
    source = source.replace(f'files("{NAME}")', f"files({_OWN_NAME})")
    source = source.replace("from importlib.metadata import version as _version\n\n", "")
    source = source.replace(f'_version("{NAME}")', f'"{version}"')
    tree = ast.parse(source)
    texts = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)
    }  # docstrings, which may say anything
    for node in ast.walk(tree):
        names = (
            [alias.name for alias in node.names] if isinstance(node, ast.Import)
            else [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0
            else [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts
            else []
        )  # fmt: skip
        if any(re.fullmatch(rf"{NAME}(\W.*)?", name, re.DOTALL) for name in names):
            raise WorkspaceError(
                f"{path}:{node.lineno} names {NAME}, which a kernel of the Hub is not called: write it as "
                "tools/hub_kernel.py::relative knows it, or teach it."
            )
    return source


def _write(folder: Path, sources: dict[str, bytes]) -> None:
    for path, contents in sources.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(contents)


def _write_variant(folder: Path, backend: str, package: Package, sources: dict[str, bytes]) -> None:
    identifier = f"_{NAME}_{backend}_{_digest_of(sources)}"
    old_place = OLD_PLACE.format(identifier=identifier).encode()
    sources = {**sources, f"{NAME}/__init__.py": old_place}
    _write(folder, sources)
    metadata = {
        "name": NAME,
        "id": identifier,
        "version": package.version.major,
        "license": "Apache-2.0",
        "python-depends": [],
        "backend": {"type": backend},
        "digest": {
            "algorithm": "sha256",
            "files": {
                path: base64.b64encode(hashlib.sha256(contents).digest()).decode()
                for path, contents in sorted(sources.items())
            },
        },
    }
    (folder / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")


def _digest_of(sources: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for path, contents in sorted(sources.items()):
        digest.update(f"{path}\0{len(contents)}\0".encode() + contents)
    return digest.hexdigest()[:12]


def _build_file(package: Package, repository: str | None) -> str:
    backends = ", ".join(f'"{backend}"' for backend in BACKENDS)
    hub = f'\n[general.hub]\nrepo-id = "{repository}"\n' if repository else ""
    return (
        f'[general]\nname = "{NAME}"\nversion = {package.version.major}\nedition = {EDITION}\nlicense = "Apache-2.0"\n'
        f'backends = [{backends}]\n{hub}\n[torch-noarch]\npyext = ["py", "json"]\n'
    )


def _card(package: Package, sources: dict[str, bytes], repository: str) -> str:
    tree = ast.parse(sources["__init__.py"])
    (public,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    modules = [
        node.name
        for node in ast.parse(sources["modules.py"]).body
        if isinstance(node, ast.ClassDef) and node.name in public
    ]
    functions = [name for name in public if name.islower() and not name.startswith("_")]
    return CARD.format(
        name=NAME,
        description=ast.get_docstring(tree),
        version=package.version,
        repository=repository,
        major=package.version.major,
        functions="\n".join(f"- `{name}`" for name in functions),
        layers="\n".join(f"- `{name}`" for name in modules),
    )


def main() -> None:
    """Write it, or exit with the reason."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repository", metavar="OWNER/NAME")
    stated = parser.parse_args()
    try:
        write_kernel(stated.folder, repository=stated.repository)
    except WorkspaceError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
