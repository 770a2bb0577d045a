import subprocess
import sys

import xeval


def test_version_is_the_one_in_the_metadata() -> None:
    from importlib.metadata import version

    assert xeval.__version__ == version("distillery-xeval")


def test_python_dash_m_prints_the_version() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "xeval", "--version"], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "xeval " + xeval.__version__
