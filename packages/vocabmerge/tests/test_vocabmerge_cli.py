"""The command line: what it writes, what it prints for machines, and how it refuses."""

import json

import pytest
from typer.testing import CliRunner

from vocabmerge import read_vocabulary
from vocabmerge.cli.app import app


@pytest.fixture
def world(tmp_path, trained, lines_of):
    """Two teacher folders, A and B, and a text for each."""
    for name, family, code in (("A", "wordpiece", "aa"), ("B", "unigram", "bb")):
        (tmp_path / name).mkdir()
        tokenizer = json.dumps(trained(family, code).tokenizer)
        (tmp_path / name / "tokenizer.json").write_text(tokenizer)
        (tmp_path / f"{code}.txt").write_text("\n".join(lines_of(code, 200)) + "\n")
    return tmp_path


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def merging(world, *more):
    return call(
        *("merge", world / "A", world / "B", "--language", "aa=A", "--language", "bb=B"),
        *("--corpus", f"aa={world / 'aa.txt'}", "--corpus", f"bb={world / 'bb.txt'}"),
        *("-o", world / "union", *more),
    )


def test_merge_writes_folders_and_prints_its_facts(world):
    done = merging(world, "--json")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    written = {str(path.relative_to(world / "union")) for path in (world / "union").rglob("*.*")}
    assert written == {
        "tokenizer.json",
        "tokenizer_config.json",
        "languages/aa/tokenizer.json",
        "languages/aa/tokenizer_config.json",
        "languages/bb/tokenizer.json",
        "languages/bb/tokenizer_config.json",
        "maps/A.safetensors",
        "maps/B.safetensors",
        "report.json",
        "report.html",
    }
    assert facts == json.loads((world / "union" / "report.json").read_text())
    assert read_vocabulary(world / "union").digest == facts["digest"]


def test_merge_prints_a_table_for_people(world):
    done = merging(world)
    assert done.exit_code == 0
    assert "words alike" in done.stdout
    assert "bb" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["merge", "{A}", "--language", "aa=C", "-o", "{out}"], "'C' is not among"),
        (["merge", "{A}", "--language", "aa", "-o", "{out}"], "expected CODE=TEACHER, got 'aa'"),
        (["merge", "{A}", "{A}", "--language", "aa=A", "-o", "{out}"], "different names"),
        (["merge", "{A}/no", "--language", "aa=no", "-o", "{out}"], "no such file or folder"),
        (
            ["merge", "{A}", "--language", "aa=A", "--corpus", "sw={text}", "-o", "{out}"],
            "'sw' has a corpus and no teacher",
        ),
        (
            ["merge", "{A}", "--language", "aa=A", "--corpus", "aa={bad}", "-o", "{out}"],
            "bad.txt, line 2",
        ),
        (["merge", "{A}", "--language", "aa=A", "-o", "{A}"], "not empty"),
        (["overlap", "{A}"], "two vocabularies"),
        (["inspect", "{A}", "--piece", "nowhere"], "no piece 'nowhere'"),
        (["count", "{A}", "{A}/none.txt"], "no such corpus"),
        (["overlap", "{A}", "{B}", "--picture", "{out}/a.png"], "a.png: there is no folder"),
        (
            ["merge", "{A}", "{B}", "--language", "aa=A", "--language", "aa=B", "-o", "{out}"],
            "'aa' has two teachers, 'A' and 'B'",
        ),
        (["count", "{knows}", "{text}"], "unk_id"),
        (["trim", "{knows}", "--language", "aa={text}", "-o", "{out}", "-q"], "unk_id"),
        (
            [
                *("merge", "{knows}", "{A}", "--language", "aa=knows", "--language", "bb=A", "-q"),
                *("--corpus", "aa={text}", "--corpus", "bb={text}", "-o", "{out}"),
            ],
            "give the tokenizer's model an unknown piece",
        ),
    ],
)
def test_what_the_caller_can_mend_is_one_sentence_and_status_2(world, arguments, says):
    (world / "bad.txt").write_bytes(b"a\n\xff\n")
    unigram = json.loads((world / "B" / "tokenizer.json").read_text())
    unigram["model"]["unk_id"] = None  # it knows all text, it says
    (world / "knows").mkdir()
    (world / "knows" / "tokenizer.json").write_text(json.dumps(unigram))
    with (world / "aa.txt").open("a", encoding="utf-8") as text:
        text.write("Ω ≈\n" * 20)
    places = {
        "A": world / "A",
        "B": world / "B",
        "knows": world / "knows",
        "out": world / "out",
        "text": world / "aa.txt",
        "bad": world / "bad.txt",
    }
    done = call(*(one.format(**places) for one in arguments))
    assert done.exit_code == 2
    assert says in done.stderr
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (world / "out").exists()


def test_overlap_counts_and_draws(world):
    done = call("overlap", world / "A", world / "B", "--json", "--picture", world / "overlap.png")
    found = json.loads(done.stdout)
    assert found["names"] == ["A", "B"]
    assert found["shared"][0][0] == found["sizes"][0]
    assert (world / "overlap.png").read_bytes().startswith(b"\x89PNG")
    assert "A" in call("overlap", world / "A", world / "B").stdout


def test_inspect_explains_a_piece(world):
    done = call("inspect", world / "B", "--json", "--piece", "</s>", "--piece", "20")
    found = json.loads(done.stdout)
    assert found["family"] == "unigram"
    assert found["specials"]["sep"] == {"token": "</s>", "id": 2}
    assert [piece["id"] for piece in found["pieces"]] == [2, 20]
    assert found["pieces"][1]["score"] < 0
    assert "unigram" in call("inspect", world / "B", "--piece", "20").stdout


def test_count_counts(world):
    done = call("count", world / "A", world / "aa.txt", "--json")
    found = json.loads(done.stdout)
    assert sum(found["counts"].values()) == found["tokens"] > 1000
    assert len(found["counts"]) == found["used"] <= found["size"]
    assert "tokens" in call("count", world / "A", world / "aa.txt").stdout


def test_a_name_can_be_given_with_the_path(world):
    done = call(
        *("merge", f"deutsch={world / 'A'}", "--language", "de=deutsch", "-o", world / "out"),
        "--json",
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["teachers"][0]["name"] == "deutsch"
    assert (world / "out" / "maps" / "deutsch.safetensors").is_file()
