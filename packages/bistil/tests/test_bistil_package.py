import subprocess
import sys

import bistil


def test_version_is_the_one_in_the_metadata() -> None:
    from importlib.metadata import version

    assert bistil.__version__ == version("bistil")


def test_python_dash_m_prints_the_version() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bistil", "--version"], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "bistil " + bistil.__version__
