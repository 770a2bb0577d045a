import subprocess
import sys
from types import ModuleType

import pytest

import bistil
import bistil.extract.run  # puts the module into the package, where the function must stay


def test_version_is_the_one_in_the_metadata() -> None:
    from importlib.metadata import version

    assert bistil.__version__ == version("bistil")


def test_python_dash_m_prints_the_version() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bistil", "--version"], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "bistil " + bistil.__version__


def test_every_public_name_is_there_and_no_module_hides_it() -> None:
    assert set(bistil.__all__) <= set(dir(bistil))
    for name in bistil.__all__:
        assert not isinstance(getattr(bistil, name), ModuleType), name
    from bistil import extract

    assert extract.__module__ == "bistil.extract.run"
    with pytest.raises(AttributeError, match="'bistil' has no attribute 'extracts'"):
        _ = bistil.extracts  # type: ignore[attr-defined]  # that is the test


ASKED = """
import sys
from typer.testing import CliRunner
import bistil
from bistil.cli.app import app

for words in ([], ["extract"], ["sft"], ["compose"], ["adapt"], ["compare"], ["measure"], ["export"]):
    done = CliRunner().invoke(app, [*words, "--help"])
    assert done.exit_code == 0, done.output
here = ["extract", "teacher", "--source", "en", "--target", "sw", "-o", "out"]
for words in (
    [*here, "--corpus", "en"],
    [*here, "--corpus", "en=a.txt", "--trainer", "none.json"],
    ["sft", "teacher", "-o", "out"],
    ["adapt", "student", "--task", "pos", "-o", "out"],
    ["compose", "teacher", "-o", "out"],
):
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2, (words, done.output)
print(*sorted({"torch", "transformers", "datasets", "deepspeed"} & sys.modules.keys()))
"""


def test_help_and_refusals_of_options_need_no_library_that_takes_seconds() -> None:
    done = subprocess.run([sys.executable, "-c", ASKED], capture_output=True, text=True, check=False)  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
