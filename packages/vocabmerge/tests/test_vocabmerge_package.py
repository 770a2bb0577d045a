import subprocess
import sys

import vocabmerge


def test_version_is_the_one_in_the_metadata() -> None:
    from importlib.metadata import version

    assert vocabmerge.__version__ == version("vocabmerge")


def test_python_dash_m_prints_the_version() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vocabmerge", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == "vocabmerge " + vocabmerge.__version__
