import subprocess
import sys
from pathlib import Path

import mergedistill

_ANSWERS = """
import sys
from typer.testing import CliRunner
import mergedistill
from mergedistill.cli.app import app

recipe = sys.argv[1]
for arguments, code in (
    (["--help"], 0),
    (["--version"], 0),
    (["run", "--help"], 0),
    (["run", "nowhere.yaml"], 2),
    (["run", recipe, "--until", "nowhere"], 2),
    (["run", recipe, "--public"], 2),
    (["ablate", recipe], 2),
    (["ablate", recipe, "--over", "alpha"], 2),
    (["fuse", "--help"], 0),
    (["fuse", "nowhere", "-o", "out"], 2),
    (["fuse", "nowhere", "nowhere", "-o", "out", "--by", "regmean", "--text", "1=x"], 2),
    (["status", recipe], 0),
    (["status", recipe, "--json"], 0),
):
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == code, (arguments, done.output)
print(*sorted({"torch", "transformers", "datasets", "deepspeed", "matplotlib"} & sys.modules.keys()))
assert set(mergedistill.__all__) <= set(dir(mergedistill))
from mergedistill import run
import mergedistill.run.run
assert mergedistill.run is run, "the function, though its module has that name too"
"""


def test_version_is_the_one_in_the_metadata() -> None:
    from importlib.metadata import version

    assert mergedistill.__version__ == version("mergedistill")


def test_python_dash_m_prints_the_version() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mergedistill", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == "mergedistill " + mergedistill.__version__


def test_help_refusals_and_the_status_do_not_wait_for_torch(tmp_path: Path) -> None:
    (tmp_path / "de.txt").write_text("x")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "out: run\nlanguages: {de: de.txt}\nteachers: [{teacher: teacher, languages: [de]}]\n"
    )
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "config.json").write_text("{}")

    done = subprocess.run(
        [sys.executable, "-c", _ANSWERS, str(recipe)], capture_output=True, text=True, check=True
    )

    assert done.stdout == "\n"
