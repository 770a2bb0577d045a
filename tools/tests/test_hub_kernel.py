"""`kdkernels` as a kernel of the Hub: the layout, and that a copy works under another name beside the package."""

import base64
import hashlib
import importlib.util
import json
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import graph  # noqa: E402
import hub_kernel  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("kernel") / "kdkernels"
    hub_kernel.write_kernel(made, repository="someone/kdkernels")
    return made


def metadata(folder: Path, backend: str = "cpu") -> dict[str, object]:
    read: dict[str, object] = json.loads(
        (folder / f"build/torch-{backend}/metadata.json").read_text()
    )
    return read


def load(folder: Path, file: str = "__init__.py") -> ModuleType:
    """As the `kernels` library does: from a path, under the kernel's own name."""
    name = str(metadata(folder)["id"]) + ("" if file == "__init__.py" else "_old")
    spec = importlib.util.spec_from_file_location(name, folder / "build/torch-cpu" / file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_a_kernel_computes_what_the_package_computes_beside_it(folder: Path) -> None:
    import torch

    import kdkernels

    kernel = load(folder)
    old_place = load(folder, "kdkernels/__init__.py")
    hidden, weight = torch.randn(4, 8), torch.randn(20, 8)
    labels, ids = torch.tensor([1, 2, -100, 3]), torch.randint(20, (4, 3))
    logprobs = torch.full((4, 3), -2.0)
    values = [
        module.linear_distil_loss(hidden, weight, None, labels, ids, logprobs, alpha=0.5).loss
        for module in (kernel, old_place, kdkernels)
    ]

    assert values[0] == values[1] == values[2]
    assert kernel.linear_distil_loss is not kdkernels.linear_distil_loss
    assert kernel.linear_distil_loss is old_place.linear_distil_loss
    assert kernel.__all__ == kdkernels.__all__
    loaded = {name: module for name, module in sys.modules.items() if name.startswith("_kdkernels")}
    assert {Path(str(module.__file__)).is_relative_to(folder) for module in loaded.values()} == {
        True
    }


@pytest.mark.parametrize("backend", hub_kernel.BACKENDS)
def test_the_variants_say_what_they_are(folder: Path, backend: str) -> None:
    variant = folder / f"build/torch-{backend}"
    read = metadata(folder, backend)
    stated = tomllib.loads((folder / "build.toml").read_text())["general"]
    files = {
        path.relative_to(variant).as_posix(): base64.b64encode(hashlib.sha256(path.read_bytes()).digest()).decode()
        for path in variant.rglob("*")
        if path.is_file() and path.name != "metadata.json" and path.suffix != ".pyc"
    }  # fmt: skip

    assert str(read["id"]).isidentifier()
    assert read["backend"] == {"type": backend}
    assert read["digest"] == {"algorithm": "sha256", "files": files}
    assert (read["name"], read["version"]) == (stated["name"], stated["version"])
    assert list(hub_kernel.BACKENDS) == stated["backends"]
    assert "tuning.json" in files
    assert (folder / "torch-ext/kdkernels/kl/kernel.py").exists()


def test_the_card_names_what_there_is(folder: Path) -> None:
    card = (folder / "README.md").read_text()

    assert 'get_kernel("someone/kdkernels", version=0' in card
    assert "- `linear_distil_loss`\n" in card
    assert "- `LinearDistilLoss`\n" in card
    assert "`__version__`" not in card


@pytest.mark.parametrize(
    ("path", "source", "made"),
    [
        ("a.py", "from kdkernels.b.c import d", "from .b.c import d"),
        ("a/b.py", "from kdkernels.c import d", "from ..c import d"),
        ("a/__init__.py", "from kdkernels import d", "from .. import d"),
        ("a/b.py", "    from kdkernels.c import d", None),
        ("a.py", 'x = custom_op("kdkernels::kl")', 'x = custom_op(__name__.partition(".")[0] + "::kl")'),
        ("a.py", '__version__ = _version("kdkernels")', '__version__ = "7"'),
        ("a.py", '"""import kdkernels"""', '"""import kdkernels"""'),
    ],
)  # fmt: skip
def test_sources_become_independent_of_their_name(path: str, source: str, made: str | None) -> None:
    if made is None:  # a late import
        source, made = f"def f():\n{source}", "def f():\n    from ..c import d"
    assert hub_kernel.relative(source, Path(path), "7") == made


@pytest.mark.parametrize("source", ["import kdkernels", "import kdkernels.kl", 'x = "kdkernels"', "from kdkernels import(a)"])  # fmt: skip
def test_a_source_that_names_the_package_is_refused(source: str) -> None:
    with pytest.raises(graph.WorkspaceError, match=r"a\.py:1 names kdkernels"):
        hub_kernel.relative(source, Path("a.py"), "7")


def test_another_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")

    with pytest.raises(graph.WorkspaceError, match="holds other files"):
        hub_kernel.write_kernel(tmp_path)
    assert (tmp_path / "thesis.tex").exists()
