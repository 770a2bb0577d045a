"""Digests of inputs: the same contents anywhere are the same, and whatever decides an outcome counts."""

import errno
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from teacherzoo import digests as inputs
from teacherzoo.digests import (
    TOKENIZER_FILES,
    _on_hub,
    digest_of_arguments,
    digest_of_inputs,
    digest_of_model,
    digest_of_text,
)
from teacherzoo.errors import CorpusError
from teacherzoo.text.corpora import Corpus


def text_in(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.txt").write_text(content, encoding="utf-8")
    return folder


def test_the_same_contents_elsewhere_are_the_same_inputs(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = text_in(tmp_path / "here", a="one\n", b="two\n")
    there = shutil.copytree(here, tmp_path / "there")
    moved = shutil.copytree(teacher, tmp_path / "moved")

    first = digest_of_inputs(corpora={"en": here}, models={"teacher": teacher}, files={"f": here / "a.txt"})  # fmt: skip
    monkeypatch.chdir(tmp_path)
    second = digest_of_inputs(corpora={"en": "there"}, models={"teacher": moved}, files={"f": there / "a.txt"})  # fmt: skip

    assert first == second
    assert digest_of_text("en", [there / "a.txt", there / "b.txt"]) == digest_of_text("en", there)


def test_a_changed_file_of_the_same_size_is_another_input_in_the_same_process(
    tmp_path: Path,
) -> None:
    file = text_in(tmp_path / "x", a="one\n") / "a.txt"
    before = digest_of_text("en", file)

    file.write_text("two\n", encoding="utf-8")
    os.utime(file, ns=(1, 1))

    assert digest_of_text("en", file) != before


def test_the_order_of_languages_and_of_files_counts(tmp_path: Path) -> None:
    folder = text_in(tmp_path / "x", a="one\n", b="two\n")
    one, two = folder / "a.txt", folder / "b.txt"

    assert digest_of_inputs(corpora={"en": one, "sw": two}) != digest_of_inputs(
        corpora={"sw": two, "en": one}
    )
    assert digest_of_text("en", [one, two]) != digest_of_text("en", [two, one])


def test_text_split_otherwise_or_read_otherwise_is_another_input(tmp_path: Path) -> None:
    one = text_in(tmp_path / "x", a="one\ntwo\n") / "a.txt"
    folder = text_in(tmp_path / "y", a="one\n", b="two\n")
    records = tmp_path / "a.jsonl"
    shutil.copy(one, records)
    corpus = Corpus("en", one)

    digests = [
        digest_of_text("en", one),
        digest_of_text("en", folder),
        digest_of_text("en", records),
        digest_of_text("en", corpus),
        digest_of_text("en", replace(corpus, part="held_out", held_out_share=0.5)),
        digest_of_text("en", replace(corpus, limit=1)),
    ]

    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors", "config.json", "tokenizer.json", "sentence_bert_config.json", "config_sentence_transformers.json",
    ],
)  # fmt: skip
def test_every_file_that_makes_a_model_counts_and_its_card_does_not(
    tmp_path: Path, teacher: Path, name: str
) -> None:
    changed = shutil.copytree(teacher, tmp_path / "changed")
    (changed / "README.md").write_text("A card.", encoding="utf-8")
    assert digest_of_model(changed) == digest_of_model(teacher)

    with (changed / name).open("ab") as file:
        file.write(b" ")

    assert digest_of_model(changed) != digest_of_model(teacher)
    same = digest_of_model(changed, TOKENIZER_FILES) == digest_of_model(teacher, TOKENIZER_FILES)
    assert same == (name != "tokenizer.json")


@pytest.fixture
def _no_commit_known() -> Iterator[None]:
    _on_hub.cache_clear()
    yield
    _on_hub.cache_clear()


@pytest.mark.usefixtures("_no_commit_known")
def test_a_name_on_the_hub_stands_with_the_commit_that_would_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def cached(name: str, file: str, *, repo_type: str) -> str:
        asked.append((name, file, repo_type))
        return f"/cache/models--x/snapshots/0a1b/{file}"

    monkeypatch.setattr("huggingface_hub.hf_hub_download", cached)

    assert digest_of_model("xlm-r-base") == "hub:FacebookAI/xlm-roberta-base@0a1b"
    assert digest_of_text("en", "people/texts") == "hub:people/texts@0a1b"
    assert asked == [
        ("FacebookAI/xlm-roberta-base", "config.json", "model"),
        ("people/texts", ".gitattributes", "dataset"),
    ]


@pytest.mark.usefixtures("_no_commit_known")
def test_a_name_of_which_nothing_can_be_known_stands_for_itself() -> None:
    assert digest_of_model("nobody/nothing") == "hub:nobody/nothing"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"there is no file .*none\.txt"):
        digest_of_text("en", tmp_path / "none.txt")
    with pytest.raises(CorpusError, match=r"none\.txt: there is no such file"):
        digest_of_text("en", [tmp_path / "none.txt"])


def test_what_one_process_read_another_knows_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def as_another_process() -> None:
        monkeypatch.setattr(inputs, "_READ", {})

    text, kept = tmp_path / "en.txt", tmp_path / "digests.json"
    text.write_text("one line\n")
    os.utime(text, ns=(0, 10**18))
    as_another_process()
    first = digest_of_text("en", text)
    inputs.keep_digests(kept)
    # Of the same size and time, so that only one who reads it sees the difference.
    text.write_text("one liar\n")
    os.utime(text, ns=(0, 10**18))

    as_another_process()
    inputs.keep_digests(kept)
    assert digest_of_text("en", text) == first
    os.utime(text, ns=(0, 10**18 + 1))
    assert digest_of_text("en", text) != first
    inputs.keep_digests(kept)
    as_another_process()
    inputs.keep_digests(kept)
    assert digest_of_text("en", text) != first


def test_a_file_that_has_just_changed_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "_READ", {})
    (tmp_path / "en.txt").write_text("one line\n")
    digest_of_text("en", tmp_path / "en.txt")

    inputs.keep_digests(tmp_path / "digests.json")

    assert not (tmp_path / "digests.json").exists()


def test_digests_that_find_no_room_are_forgotten_and_nothing_else_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: Path, text: str) -> None:
        file.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(inputs, "_READ", {"/en.txt": (1, 0, "d" * 32)})
    monkeypatch.setattr(Path, "write_text", full)

    inputs.keep_digests(tmp_path / "digests.json")

    assert list(tmp_path.iterdir()) == []


def test_of_a_file_among_a_trainers_arguments_the_content_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "engine.json").write_text("{}")
    arguments = {"deepspeed": str(tmp_path / "engine.json"), "max_grad_norm": 0.5}
    before = digest_of_arguments(arguments)

    monkeypatch.chdir(tmp_path)
    assert digest_of_arguments(arguments | {"deepspeed": "engine.json"}) == before
    assert before["max_grad_norm"] == 0.5
    assert digest_of_arguments(arguments | {"report_to": "none", "dataloader_num_workers": 2}) == before  # fmt: skip
    (tmp_path / "engine.json").write_text('{"zero_optimization": {"stage": 1}}')
    assert digest_of_arguments(arguments) != before
