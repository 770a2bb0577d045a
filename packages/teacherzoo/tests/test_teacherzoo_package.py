import json
import subprocess
import sys
from importlib import import_module
from inspect import isfunction
from pathlib import Path

import pytest

import teacherzoo


def test_version_is_the_one_in_the_metadata() -> None:
    from importlib.metadata import version

    assert teacherzoo.__version__ == version("teacherzoo")


def test_python_dash_m_prints_the_version() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "teacherzoo", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == "teacherzoo " + teacherzoo.__version__


_LISTS_MODULES = """
import contextlib, io, sys
from teacherzoo.cli.app import app
for arguments in (["--help"], ["record", "--help"], ["list"], ["rank", "t", "--corpus", "de=none.txt"], ["pretrain", "--help"],
                  ["pretrain", "--corpus", f"de={sys.argv[1]}/de.txt", "-o", "t", "--from", sys.argv[1]]):
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        app(arguments)
print(sorted({"torch", "transformers", "datasets", "pyarrow", "deepspeed"} & set(sys.modules)))
"""


def test_help_lists_and_refusals_wait_for_no_library(tmp_path: Path) -> None:
    decoder = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}
    for name, content in {"config.json": json.dumps(decoder), "model.safetensors": "", "de.txt": "a"}.items():  # fmt: skip
        (tmp_path / name).write_text(content)

    done = subprocess.run([sys.executable, "-c", _LISTS_MODULES, str(tmp_path)], capture_output=True, text=True, check=True)  # fmt: skip

    assert done.stdout.strip() == "[]"


def test_a_function_keeps_its_name_where_a_module_has_the_same() -> None:
    import_module(
        "teacherzoo.rank.rank"
    )  # puts the room into the package, where the function must stay
    assert isfunction(teacherzoo.rank)


def test_every_public_name_can_be_had_and_is_listed() -> None:
    assert all(getattr(teacherzoo, name) is not None for name in teacherzoo.__all__)
    assert set(teacherzoo.__all__) <= set(dir(teacherzoo))
    with pytest.raises(AttributeError, match="module 'teacherzoo' has no attribute 'rang'"):
        teacherzoo.rang  # noqa: B018
