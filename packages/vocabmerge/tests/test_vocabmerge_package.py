import subprocess
import sys

import pytest

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


def test_names_are_imported_when_somebody_asks() -> None:
    code = (
        "import sys, vocabmerge\n"
        "from vocabmerge import VocabularyError\n"
        "print([m for m in ('numpy', 'tokenizers', 'rich') if m in sys.modules])\n"
        "import vocabmerge.carry.carry, vocabmerge.union.overlap, vocabmerge.trim.trim\n"
        "print([type(getattr(vocabmerge, name)).__name__ for name in ('carry', 'overlap', 'trim')])\n"
        "print(sorted(set(vocabmerge.__all__) - set(dir(vocabmerge))))\n"
        "from typer.testing import CliRunner\n"
        "from vocabmerge.cli.app import app\n"
        "for arguments in (['trim', '--help'], ['trim', 'some/model', '-o', 'x', '--language', 'en'], ['apply', 'a', 'b', '-o', 'c']):\n"
        "    print(CliRunner().invoke(app, arguments).exit_code)\n"
        "heavy = {'torch', 'transformers', 'datasets', 'sentence_transformers', 'matplotlib'}\n"
        "print(sorted(heavy & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "[]",
        "['function', 'function', 'function']",
        "[]",
        *("0", "2", "2", "[]"),
    ]


def test_every_public_name_is_there_and_no_other() -> None:
    for name in vocabmerge.__all__:
        assert getattr(vocabmerge, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        vocabmerge.nothing  # noqa: B018
