"""The text of a language: files, folders and data sets of the Hub."""

import gzip
import itertools

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vocabmerge import VocabularyError
from vocabmerge.language_texts import LanguageText, evenly_spread, language_texts


@given(st.integers(1, 200), st.integers(1, 40))
def test_lines_are_evenly_spread(total, most):
    taken = list(evenly_spread([*map(str, range(total))], most))
    numbers = list(map(int, taken))
    assert len(numbers) == min(total, most)
    gaps = {b - a for a, b in itertools.pairwise([*numbers, total])}
    assert numbers[0] == 0
    assert max(gaps) - min(gaps) <= 1


@given(total=st.integers(1, 900), most=st.integers(1, 12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_a_long_file_gives_as_many_lines_as_asked_from_all_over_it(total, most, tmp_path):
    (tmp_path / "long.txt").write_text("\n".join(map(str, range(total))))
    numbers = list(map(int, LanguageText([tmp_path / "long.txt"], lines=most)))
    assert len(numbers) == min(total, most)
    gaps = [b - a for a, b in itertools.pairwise([*numbers, total])]
    assert max(gaps) <= 2 * max(total / len(numbers), 1)


def test_a_folder_and_a_file_are_one_text_that_can_be_read_twice(tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "b.txt").write_text("three\nfour\n")
    (tmp_path / "texts" / "a.txt.gz").write_bytes(gzip.compress(b"one\n\ntwo\n"))
    (tmp_path / "texts" / "notes.md").write_text("no text")
    (tmp_path / "more.txt").write_text("five\nsix\n")
    sources = [tmp_path / "texts", tmp_path / "more.txt"]

    whole, part = LanguageText(sources, lines=None), LanguageText(sources, lines=3)

    assert list(whole) == list(whole) == ["one", "two", "three", "four", "five", "six"]
    assert list(part) == list(part) == ["one", "three", "five"]


@pytest.fixture
def data_set(tmp_path):
    """A folder as the Hub's data sets are, written by the library that reads them."""
    made = {
        "plain": {"text": ["one\n\ntwo", "three"], "id": [1, 2]},
        "named": {"sentence": ["vier"], "id": [1]},
        "several": {"source": ["a"], "target": ["b"]},
        "numbers": {"id": [1]},
    }
    for name, columns in made.items():
        datasets.Dataset.from_dict(columns).to_parquet(
            str(tmp_path / "data" / name / "train.parquet")
        )
    configs = "\n".join(
        f"- config_name: {name}\n  data_files: {name}/train.parquet" for name in made
    )
    (tmp_path / "data" / "README.md").write_text(f"---\nconfigs:\n{configs}\n---\n")
    return f"hub:{tmp_path / 'data'}"


def test_a_data_set_is_streamed_line_by_line_from_its_text(data_set, monkeypatch):
    asked = []
    load = datasets.load_dataset

    def remember(*arguments, **options):
        asked.append(options)
        return load(*arguments, **options)

    monkeypatch.setattr(datasets, "load_dataset", remember)

    assert list(LanguageText([f"{data_set}:plain"])) == ["one", "two", "three"]
    assert list(LanguageText([f"{data_set}:plain:train"], lines=1)) == ["one"]
    assert list(LanguageText([f"{data_set}:named"])) == ["vier"]
    assert all(options["streaming"] for options in asked)


def test_a_file_and_a_data_set_share_the_lines(data_set, tmp_path):
    (tmp_path / "own.txt").write_text("eins\nzwei\ndrei\nvier\n")
    text = LanguageText([f"{data_set}:plain", tmp_path / "own.txt"], lines=4)
    assert list(text) == ["eins", "drei", "one", "two"]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("several", "a single column of strings, got 'source', 'target'"),
        ("numbers", "a single column of strings, got 'id'"),
        ("nowhere", "cannot read this data set of the Hub"),
        ("plain:validation", "cannot read this data set of the Hub"),
    ],
)
def test_a_data_set_without_its_text_is_one_sentence(config, says, data_set):
    with pytest.raises(VocabularyError, match=says) as caught:
        list(LanguageText([f"{data_set}:{config}"]))
    assert "\n" not in str(caught.value)


def test_a_data_set_that_cannot_be_reached_is_one_sentence():
    with pytest.raises(VocabularyError, match="cannot read this data set of the Hub") as caught:
        list(LanguageText(["hub:nobody/nothing:sw"]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sources", "lines", "says"),
    [
        (["hub:"], 1, "expected hub:NAME"),
        (["hub:a:b:c:d"], 1, "expected hub:NAME"),
        (["hub:a:b:"], 1, "expected hub:NAME"),
        (["no.txt"], 1, "no.txt: no such corpus file"),
        (["."], 1, r"expected .txt or .jsonl files in the folder"),
        ([], 1, "expected a text"),
        (["hub:a"], 0, "expected 1 line or more"),
    ],
)
def test_bad_sources_are_refused_before_anything_is_read(
    sources, lines, says, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VocabularyError, match=says):
        LanguageText(sources, lines=lines)


def test_no_language_is_refused():
    with pytest.raises(VocabularyError, match="--language CODE=FILE"):
        language_texts({})
