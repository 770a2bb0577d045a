"""What a user sees while waiting: lines in a log, nothing under --quiet, and no library that nobody needs yet."""

import io
import json
import subprocess
import sys
import threading

import pytest
from typer.testing import CliRunner

from vocabmerge.cli.app import app
from vocabmerge.cli.console import PlainLines


class Log(io.StringIO):
    """A log that tells when it has some lines."""

    def __init__(self, lines):
        super().__init__()
        self.left = lines
        self.full = threading.Event()

    def write(self, text):
        self.left -= text.count("\n")
        if self.left <= 0:
            self.full.set()
        return super().write(text)


def test_a_new_thing_has_a_line_at_once_and_its_steps_have_none():
    log = Log(99)
    with PlainLines(log, every=1000) as watch:
        for done in range(3):
            watch(done, 8, "rounds of calibration")
        watch(2000, None, "lines compared")
    assert log.getvalue() == "0 of 8 rounds of calibration\n2,000 lines compared\n"


def test_a_long_step_is_repeated_by_itself():
    log = Log(3)
    with PlainLines(log, every=0.01) as watch:
        watch(2, 8, "rounds of calibration")
        assert log.full.wait(20)
    assert set(log.getvalue().splitlines()) <= {"reading", "2 of 8 rounds of calibration"}


def test_the_time_left_is_told_from_the_steps_since_the_beginning():
    now = iter([0.0, 0.0, 0.0, 0.0, *[60.0] * 99])
    log = Log(2)
    lines = PlainLines(log, every=1000, clock=lambda: next(now))
    with lines as watch:
        watch(1, 9, "rounds")
        watch(3, 9, "rounds")
        lines._write()
    assert log.getvalue().splitlines()[-1] == "3 of 9 rounds, 3 min left"


@pytest.fixture
def world(tmp_path, trained, lines_of, monkeypatch):
    """Two teachers and a text for each, in the working directory."""
    monkeypatch.chdir(tmp_path)
    for name, family, code in (("A", "wordpiece", "aa"), ("B", "unigram", "bb")):
        (tmp_path / name).mkdir()
        tokenizer = json.dumps(trained(family, code).tokenizer)
        (tmp_path / name / "tokenizer.json").write_text(tokenizer)
        (tmp_path / f"{code}.txt").write_text("\n".join(lines_of(code, 60)) + "\n")
    return tmp_path


COMMANDS = {
    "merge": ["merge", "A", "B", "--language", "aa=A", "--language", "bb=B", "--corpus", "aa=aa.txt", "--corpus", "bb=bb.txt", "-o", "out"],
    "trim": ["trim", "A", "--language", "aa=aa.txt", "-o", "out"],
    "count": ["count", "A", "aa.txt"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("command", "says"),
    [("merge", "rounds of calibration"), ("trim", "lines of aa counted"), ("count", "lines counted")],
)  # fmt: skip
def test_a_long_command_tells_a_log_how_it_goes(world, command, says):
    done = CliRunner().invoke(app, [*COMMANDS[command], "--json"])
    assert done.exit_code == 0
    assert says in done.stderr
    json.loads(done.stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_quiet_command_tells_a_log_nothing(world, command):
    done = CliRunner().invoke(app, [*COMMANDS[command], "--quiet"])
    assert done.exit_code == 0
    assert done.stderr == ""


def test_help_and_refusals_import_no_model_library(world):
    """A missing corpus and a taken folder are refused before the model is opened."""
    (world / "A" / "model.safetensors").write_bytes(b"")
    calls = [
        ["--help"],
        ["trim", "--help"],
        ["trim", "A", "--language", "aa=none.txt", "-o", "out"],
        ["trim", "A", "--language", "aa=aa.txt", "-o", "B"],
        ["carry", "A", "--model", "none", "-o", "out"],
        [
            "carry",
            "A",
            "--model",
            "B",
            "--method",
            "focus",
            "--language",
            "aa=none.txt",
            "-o",
            "out",
        ],
    ]
    code = (
        "import json, sys\n"
        "from typer.testing import CliRunner\n"
        "from vocabmerge.cli.app import app\n"
        f"codes = [CliRunner().invoke(app, call).exit_code for call in {calls!r}]\n"
        "print(json.dumps([codes, [m for m in ('torch', 'transformers', 'matplotlib.pyplot') if m in sys.modules]]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[0, 0, 2, 2, 2, 2], []]
