import json
from pathlib import Path

import pytest

from teacherzoo.catalogue.catalogue import catalogue_entry, find_teacher, read_catalogue
from teacherzoo.catalogue.licence import licence_of
from teacherzoo.encoders.teachers import teacher_folder
from teacherzoo.errors import CorpusError, TeacherError
from teacherzoo.text.corpora import Corpus

GOOD = "- name: a\n  hub: o/a\n  languages: [en]\n"


def test_our_catalogue_holds_its_schema_and_covers_both_kinds() -> None:
    entries = read_catalogue()

    assert len({entry.name for entry in entries}) == len(entries) >= 40
    assert {entry.multilingual for entry in entries} == {True, False}
    norwegian = catalogue_entry("nb-bert-base")
    assert norwegian.languages == ("no",)  # YAML reads a bare `no` as false


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- name: a\n", "entry 1 (a): the field 'hub' is missing."),
        ("- hub: o/a\n", "entry 1: the field 'name' is missing."),
        (GOOD + "  licens: MIT\n", "entry 1 (a): unknown field 'licens' (did you mean 'licence'?)"),
        (GOOD + "  vocabulary: many\n", "vocabulary must be a positive whole number, got 'many'."),
        (GOOD + "  vocabulary: true\n", "vocabulary must be a positive whole number, got True."),
        (GOOD + "  head: causal\n", "head must be one of masked-lm, discriminator, got 'causal'."),
        ("- name: a\n  hub: o/a\n  languages: [no]\n", "quote `no`"),
        ("- name: a/b\n  hub: o/a\n", "name must be a short name without slash or space"),
        ("- name: a\n  hub: oa\n", "hub must be owner/model, got 'oa'."),
        (GOOD + GOOD, "name 'a' stands twice"),
        ("a: b\n", "expected a list of entries"),
        ("- [\n", "not YAML"),
        (GOOD + "  hub: a/c\n", "the key 'hub' stands a second time; make one of the two"),
    ],
)
def test_a_faulty_entry_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "teachers.yaml"
    file.write_text(text)

    with pytest.raises(TeacherError) as caught:
        read_catalogue(file)

    assert str(file) in str(caught.value)
    assert message in str(caught.value)


def test_a_name_becomes_its_hub_name_and_a_folder_stays_itself() -> None:
    assert find_teacher("mbert-cased") == "google-bert/bert-base-multilingual-cased"
    assert find_teacher("google-bert/bert-base-multilingual-cased") == find_teacher("mbert-cased")
    assert find_teacher("./raised/teacher") == "./raised/teacher"


def test_a_discriminator_is_refused_with_the_reason() -> None:
    with pytest.raises(TeacherError, match=r"mdeberta-v3-base: .* discriminator, which cannot say"):
        find_teacher("mdeberta-v3-base")


def test_a_misspelt_name_gets_the_nearest_one() -> None:
    with pytest.raises(
        TeacherError, match=r"no teacher 'mbert-case' \(did you mean 'mbert-cased'\?\)"
    ):
        catalogue_entry("mbert-case")


def test_the_catalogue_survives_json() -> None:
    from dataclasses import asdict

    rows = json.loads(json.dumps([asdict(entry) for entry in read_catalogue()]))

    assert rows[0]["name"] == "mbert-cased"


def test_a_mistyped_path_is_never_asked_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: object, **__: object) -> None:
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr("huggingface_hub.snapshot_download", asked)
    monkeypatch.setattr("datasets.load_dataset", asked)
    monkeypatch.chdir(tmp_path)
    Path("models").mkdir()
    Path("texts").mkdir()

    for name in ("models/bret", "./bret", "/models/bret", "models/multilingual/bret", "~/bret"):
        with pytest.raises(TeacherError, match=f"{name}: there is no such folder"):
            teacher_folder(name)
    for source in ("texts/em", "./em", "/texts/em", "~/em"):
        with pytest.raises(CorpusError, match=f"en: there is no file {source}"):
            next(Corpus("en", source).documents())


def test_a_name_on_the_hub_is_asked_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: tmp_path / name)
    monkeypatch.chdir(tmp_path)

    assert teacher_folder("google/bert") == tmp_path / "google/bert"
    assert teacher_folder("mbert-cased") == tmp_path / "google-bert/bert-base-multilingual-cased"


@pytest.mark.parametrize(
    ("header", "known"),
    [("license: mit", "mit"), ("license: mit\nname: a: b", None), ("no pairs of words", None)],
)
def test_a_licence_is_what_the_folders_card_says_if_that_can_be_read(
    tmp_path: Path, header: str, known: str | None
) -> None:
    (tmp_path / "README.md").write_text(f"---\n{header}\n---\n\n# A model\n")

    assert licence_of(str(tmp_path)) == known
