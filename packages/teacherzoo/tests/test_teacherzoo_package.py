import subprocess
import sys

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
