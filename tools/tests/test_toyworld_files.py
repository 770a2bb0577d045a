"""The folder: the layout of the real data, re-read; refusals without a trace."""

import csv
import hashlib
import io
import json
import lzma
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import toyworld
from toyworld import TOPICS, World, main, words, write_world
from toyworld_describe import describe
from toyworld_files import write_folder
from toyworld_tasks import LABELS

COUNTS = {"train": 30, "dev": 10, "test": 20}
CODES = ("qav", "qeo")
WORLD_0 = "adc918b023ca435b52fa2c1d83cfd69ebdd47edd187caa9b84d51c3e09db6a38"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, world):
    return write_folder(world, tmp_path_factory.mktemp("data") / "toy", CODES, 3000, COUNTS)


def read(path) -> str:
    return lzma.decompress(path.read_bytes()).decode()


def table(path) -> list[list[str]]:
    return list(csv.reader(io.StringIO(read(path)), delimiter="\t", quoting=csv.QUOTE_NONE))


def test_manifest_lists_every_file_with_its_digest(folder):
    manifest = json.loads((folder / "MANIFEST.json").read_text(encoding="utf-8"))
    paths = {entry["path"] for entry in manifest["entries"]}
    assert paths == {str(p.relative_to(folder)) for p in folder.rglob("*.xz")}
    for entry in manifest["entries"]:
        packed = (folder / entry["path"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(packed).hexdigest()
        assert entry["bytes"] == len(packed)
        assert entry["raw_bytes"] == len(lzma.decompress(packed))
        assert entry["lang"] in CODES


def test_corpora_have_their_words_and_no_repeated_line(folder, world):
    for code in CODES:
        lines = read(folder / f"corpora/{code}.txt.xz").splitlines()
        assert len(lines) == len(set(lines))
        assert 3000 <= sum(len(line.split()) for line in lines) < 3030
        assert set(lines) <= set(world.sentences(code, 3000))


@pytest.mark.parametrize("split", COUNTS)
def test_treebanks_re_read_as_what_was_meant(folder, world, split):
    conllu = pytest.importorskip("conllu")
    for code in CODES:
        parsed = conllu.parse(read(folder / f"ud/{code}_toy/{split}.conllu.xz"))
        meant = world.treebank(code, COUNTS[split], split)
        assert [
            [(t["id"], t["form"], t["upos"], t["head"], t["deprel"]) for t in tree]
            for tree in parsed
        ] == [[(t.id, t.form, t.upos, t.head, t.deprel) for t in tree] for tree in meant]
        assert [words(tree.metadata["text"]) for tree in parsed] == [
            [t.form for t in tree] for tree in meant
        ]


@pytest.mark.parametrize("split", COUNTS)
def test_names_re_read_as_what_was_meant(folder, world, split):
    blocks = read(folder / f"ner/qeo/{split}.txt.xz").rstrip("\n").split("\n\n")
    assert [
        [tuple(line.split(" ")) for line in block.splitlines()] for block in blocks
    ] == world.ner("qeo", COUNTS[split], split)


@pytest.mark.parametrize("split", COUNTS)
def test_tables_re_read_as_what_was_meant(folder, world, split):
    header, *rows = table(folder / f"sib200/qeo/{split}.tsv.xz")
    assert header == ["index_id", "category", "text"]
    assert [(int(i), topic, text) for i, topic, text in rows] == world.topics(
        "qeo", COUNTS[split], split
    )
    assert {topic for _, topic, _ in rows} <= set(TOPICS)
    header, *rows = table(folder / f"nli/qeo/{split}.tsv.xz")
    assert header == ["premise", "hypothesis", "label"]
    assert {label for _, _, label in rows} <= set(LABELS)
    assert [tuple(row) for row in rows] == world.nli("qeo", COUNTS[split], split)
    header, *rows = table(folder / f"paraphrase/qeo/{split}.tsv.xz")
    assert header == ["sentence1", "sentence2", "label"]
    assert [(one, other, int(label)) for one, other, label in rows] == world.paraphrases(
        "qeo", COUNTS[split], split
    )


def test_questions_and_translations_re_read_as_what_was_meant(folder, world):
    for path, split in (("xquad/qav.json.xz", "test"), ("xquad/qav/train.json.xz", "train")):
        paragraphs = [
            p for article in json.loads(read(folder / path))["data"] for p in article["paragraphs"]
        ]
        assert len(paragraphs) == COUNTS[split]
        for paragraph, meant in zip(
            paragraphs, world.questions("qav", COUNTS[split], split), strict=True
        ):
            [asked] = paragraph["qas"]
            [answer] = asked["answers"]
            assert (paragraph["context"], asked["question"], answer["text"], answer["answer_start"]) == (
                meant.context, meant.question, meant.answer, meant.start,
            )  # fmt: skip
    assert not (folder / "xquad/qav/test.json.xz").exists()
    assert [tuple(row) for row in table(folder / "tatoeba/qeo.tsv.xz")] == world.parallel(
        "qeo", COUNTS["test"]
    )


def test_same_arguments_write_the_same_bytes(folder, world, tmp_path):
    again = write_folder(world, tmp_path / "again", CODES[:1], 3000, {"dev": 10})
    for path in again.rglob("*.xz"):
        assert path.read_bytes() == (folder / path.relative_to(again)).read_bytes()


def test_a_seed_writes_the_same_world_for_ever(folder):
    """Results and models of earlier versions were made with it."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.xz")):
        digest.update(lzma.decompress(path.read_bytes()))
    assert digest.hexdigest() == WORLD_0


def test_a_smaller_world_is_written_as_such(tmp_path, capsys):
    folder = write_world(
        tmp_path / "small", languages=["qav"], words=500, rows=COUNTS, share=0.1, frames=20
    )
    manifest = json.loads((folder / "MANIFEST.json").read_text(encoding="utf-8"))
    assert (manifest["share"], manifest["frames"]) == (0.1, 20)
    small = World(0, share=0.1, frames=20)
    assert set(read(folder / "corpora/qav.txt.xz").splitlines()) <= set(small.sentences("qav", 500))
    assert main([str(tmp_path / "none"), "--share", "0"]) == 2
    assert "share must be above 0 and at most 1, got 0.0" in capsys.readouterr().err


def test_only_tasks_that_are_named_are_written(folder, world, tmp_path, capsys):
    some = write_folder(world, tmp_path / "some", CODES[:1], 3000, {"dev": 10}, ["ner", "nli"])
    assert {p.relative_to(some).parts[0] for p in some.rglob("*.xz")} == {"corpora", "ner", "nli"}
    for path in some.rglob("*.xz"):
        assert path.read_bytes() == (folder / path.relative_to(some)).read_bytes()
    small = ["--languages", "qav", "--words", "50", "--share", "0.1", "--frames", "20", "--tasks"]
    assert main([str(tmp_path / "none"), *small]) == 0
    assert [p.name for p in (tmp_path / "none").rglob("*.xz")] == ["qav.txt.xz"]
    assert main([str(tmp_path / "no"), *small, "chess"]) == 2
    assert "task must be one of ud, ner" in capsys.readouterr().err


def test_an_existing_folder_is_refused_and_left_alone(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("kept")
    assert main([str(tmp_path / "mine")]) == 2
    assert "mine exists already: name a new folder or remove it first" in capsys.readouterr().err
    assert [p.name for p in tmp_path.rglob("*")] == ["mine", "file"]


def test_unknown_language_and_empty_corpus_are_refused(tmp_path, capsys):
    assert main([str(tmp_path / "out"), "--languages", "qav", "klingon"]) == 2
    assert "language must be one of qav" in capsys.readouterr().err
    with pytest.raises(ValueError, match="at least 1 word, got 0"):
        write_world(tmp_path / "out", words=0)
    with pytest.raises(ValueError, match="seed must not be negative, got -1"):
        World(seed=-1)
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_nothing(tmp_path, world, monkeypatch):
    monkeypatch.setattr(
        type(world), "questions", lambda *_: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(OSError, match="disk full"):
        write_folder(world, tmp_path / "out", ("qav",), 100, {"dev": 3})
    assert not list(tmp_path.iterdir())


def test_describe_names_every_language():
    world = World(seed=0, share=0.1, frames=20)
    report = "\n".join(describe(world, ["qav", "qeo"], sentences=50, judged=5))
    for word in ("Avelic", "Georic", "Georgian", "SOV", "weakly inflected", "bits/word", "topic"):
        assert word in report


def test_a_copy_of_the_modules_works_alone(tmp_path):
    """As beside the tests of one package."""
    for path in Path(toyworld.__file__).parent.glob("toyworld*.py"):
        shutil.copy(path, tmp_path)
    command = [
        sys.executable,
        "-I",
        "-c",
        "import sys; sys.path.insert(0, '.'); import toyworld; print(toyworld.TOPICS)",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(TOPICS)
