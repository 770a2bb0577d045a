import subprocess
import sys

import mergedistill


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
