import subprocess
import sys

import xeval


def test_version_is_the_one_in_the_metadata() -> None:
    from importlib.metadata import version

    assert xeval.__version__ == version("distillery-xeval")


def test_every_public_name_is_listed_and_can_be_fetched() -> None:
    assert set(xeval.__all__) <= set(dir(xeval))
    assert [name for name in xeval.__all__ if not hasattr(xeval, name)] == []


def test_python_dash_m_prints_the_version() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "xeval", "--version"], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "xeval " + xeval.__version__
