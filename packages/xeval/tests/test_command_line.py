import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from xeval.cli.app import app

Models = Callable[[str], Path]


def test_tune_score_and_run_from_the_command_line(
    models: Models, data: Path, tmp_path: Path
) -> None:
    brief = ["--steps", "4", "--evaluate-every", "2", "--batch-size", "8", "--max-length", "32"]
    common = ["--data", str(data), "--results", str(tmp_path / "r.jsonl"), "--json"]
    shell = CliRunner()

    tuned = shell.invoke(
        app,
        ["tune", str(models("bert")), "--task", "pos", "--source", "xx", "-o", str(tmp_path / "t"),
         "--data", str(data), "--json", *brief],
    )  # fmt: skip
    scored = shell.invoke(app, ["score", str(tmp_path / "t"), "--languages", "xx,yy", *common])
    both = shell.invoke(
        app,
        ["run", str(models("bert")), "--tasks", "pos", "--source", "xx", *common, *brief],
    )

    assert tuned.exit_code == scored.exit_code == both.exit_code == 0, tuned.output + scored.output
    assert json.loads(tuned.stdout)["steps"] == 4
    assert "evaluated at step 2: accuracy" in tuned.stderr
    rows = [json.loads(line) for line in scored.stdout.splitlines()]
    assert [row["dataset"] for row in rows] == ["ud/xx_made", "ud/yy_made"]
    # The same model, seed and protocol: the run finds the figures that score wrote.
    again = [json.loads(line) for line in both.stdout.splitlines()]
    assert [row["value"] for row in again[:2]] == [row["value"] for row in rows]
    assert again[2]["skipped"] == "ud/zz_made has no test split"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["score", "nowhere"], "expected a folder written by `xeval tune`"),
        (["tune", "nowhere", "--task", "nosuch", "-o", "out"], "task 'nosuch' is not known"),
        (["tune", "nowhere", "--task", "pos", "-o", "out"], "no such folder"),
        (["run", "nowhere", "--tasks", "pos", "--steps", "0"], "steps must be at least 1, got 0"),
        (["score", "nowhere", "--data", "hub:nosuch"], "hub:nosuch: no such standard set"),
        (
            ["score", "nowhere", "--prompt", "query: "],
            "'query: ': expected text=, query= or document=",
        ),
        (
            ["run", "m", "--tasks", "sts", "--prompt", "text=a", "--prompt", "text=b"],
            "two for text; give one",
        ),
        (
            ["score", "nowhere", "--task", "sts", "--prompt", "query=query: "],
            "--prompt query= would change nothing for sts; leave it out, or take a task that reads it (retrieval, rerank)",
        ),
        (
            ["tune", "nowhere", "--task", "pos", "-o", "out", "--labels", "own"],
            "--labels would change nothing for pos",
        ),
        (
            ["run", "m", "--tasks", "pos,bitext", "--csls", "5", "--mask-rate", "0.3"],
            "--mask-rate would change nothing for pos, bitext; leave it out, or take a task that reads it (bpb)",
        ),
        (
            ["score", "tuned", "--pooling", "mean"],
            "tuned: is scored by the protocol of its tuning, and --pooling would change nothing",
        ),
        (
            ["score", "tuned", "--source", "de"],
            "--source would change nothing for pos, of which nothing is learned; leave it out, or take a task that learns (pos_probe, ",
        ),
        (
            ["score", "nowhere", "--task", "bpb", "--source", "en"],
            "--source would change nothing for bpb, of which nothing is learned",
        ),
        (
            ["run", "m", "--tasks", "sts,bitext", "--source", "de"],
            "--source would change nothing for sts, bitext, of which nothing is learned; leave it out, or take a task that learns (pos, ",
        ),
        (["score", "m", "--task", "sts", "--languages", " ,"], "--languages ' ,': expected names"),
        (["run", "m", "--tasks", ""], "--tasks '': expected names separated by commas, got none"),
        (
            ["score", "nowhere", "--task", "pos"],
            "tune it first (`xeval tune nowhere --task pos --out FOLDER`)",
        ),
    ],
)
def test_what_the_user_can_mend_is_one_sentence_and_status_two(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tuned").mkdir()
    Path("tuned/xeval.json").write_text('{"format": 1, "task": "pos"}')

    done = CliRunner().invoke(app, arguments)

    assert done.exit_code == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.output


COMMAND = """
import sys
from xeval.cli.app import app
try:
    app()
finally:
    assert "deepspeed" not in sys.modules
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["score", "nowhere", "--task", "sts", "--results", "folder"],
        ["run", "nowhere", "--tasks", "sts", "--results", "folder"],
        ["cost", "nowhere", "--out", "folder"],
        ["report", "folder"],
    ],
)
def test_a_folder_for_a_results_file_is_refused_before_anything_is_done(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "data/sts").mkdir(parents=True)
    (tmp_path / "data/sts/de.tsv").write_text("a\tb\t1\nc\td\t2\n")

    done = CliRunner().invoke(app, arguments)

    assert done.exit_code == 2
    assert done.stderr == "xeval: folder: is a folder; name a file in it\n"


def test_stdout_is_for_results_and_stderr_for_progress_whatever_libraries_print(
    models: Models, data: Path, tmp_path: Path
) -> None:
    arguments = [
        "tune", str(models("bert")), "--task", "pos", "--source", "xx", "-o", str(tmp_path / "t"),
        "--data", str(data), "--steps", "1", "--batch-size", "2", "--max-length", "32", "--json",
    ]  # fmt: skip

    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments], capture_output=True, text=True, check=True
    )

    assert json.loads(done.stdout)["steps"] == 1
    # On a slow machine each is told again every half minute, and before the first that it is starting.
    told = dict.fromkeys(re.split(r"[ :]", line)[0] for line in done.stderr.splitlines())
    told.pop("starting", None)
    assert list(told) == ["reading", "opening", "encoding", "tuning", "development", "evaluated"]


def test_quiet_leaves_stderr_empty(tuned_pos: Path, data: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["score", str(tuned_pos), "--data", str(data), "--results", str(tmp_path / "r"), "-q"]
    )

    assert (done.exit_code, done.stderr) == (0, "")


def test_names_are_whole_where_the_table_goes_to_a_file(
    models: Models, more_data: Path, tmp_path: Path
) -> None:
    name = "paraphrase-multilingual-MiniLM-L12-v2[x]"
    shutil.copytree(models("bert"), tmp_path / name)

    done = CliRunner().invoke(
        app,
        ["score", str(tmp_path / name), "--task", "bitext", "--data", str(more_data),
         "--results", str(tmp_path / "r.jsonl")],
    )  # fmt: skip

    assert done.exit_code == 0, done.output
    (row,) = (line for line in done.stdout.splitlines() if "bitext_from_source" in line)
    assert name in row
    assert "100.00 %" in row
    assert "tatoeba/yy" in row


def test_misuse_exits_with_status_two() -> None:
    assert CliRunner().invoke(app, ["tune", "model"]).exit_code == 2


REFUSALS = """
import sys
from typer.testing import CliRunner
from xeval.cli.app import app
LIBRARIES = {"torch", "transformers", "datasets", "sentence_transformers"}
for words in (
    "--help", "tune --help", "--version", "tune m --task nosuch -o t", "tune m --task bpb -o t",
    "tune m --task pos -o t --steps 0", "tune m --task pos -o t", "tune m --task pos -o t --data DATA --source qq",
    "score m --data DATA", "score m --task pos --data DATA", "score m --task bpb --data DATA --languages qq",
    "score m --task sts --prompt x", "score m --task rerank --data DATA", "run m --tasks nosuch", "run m --tasks pos --data DATA --source qq", "compare a b nowhere.jsonl",
    "compare --mteb nowhere neither", "score m --task topic_probe --data DATA --source yy",
):
    done = CliRunner().invoke(app, words.replace("DATA", sys.argv[1]).split())
    assert done.exit_code in (0, 2), done.output
    print(done.exit_code, len(done.stderr.splitlines()), LIBRARIES & set(sys.modules))
"""


def test_help_and_refusals_import_neither_torch_nor_transformers(more_data: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", REFUSALS, str(more_data)], capture_output=True, text=True, check=True
    )

    assert done.stdout.splitlines() == ["0 0 set()"] * 3 + ["2 1 set()"] * 15
