"""Corpora and counting: every line once, and nothing that is not text."""

import gzip
import itertools
import lzma
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vocabmerge import VocabularyError, count_pieces, read_corpus, sample_lines

LINES = ["Ärger", "  zwei  ", "中文"]


@pytest.mark.parametrize("suffix", [".txt", ".tsv", ".gz", ".tsv.xz"])
def test_lines_come_back_from_every_container(tmp_path, suffix):
    opener = {".gz": gzip.open, ".xz": lzma.open}.get(suffix[-3:], open)
    with opener(tmp_path / f"text{suffix}", "wb") as file:
        file.write(("\ufeff" + "\r\n\n \n".join(LINES) + "\n").encode())
    assert list(read_corpus(tmp_path / f"text{suffix}")) == LINES


def test_records_are_read_line_by_line_and_not_as_they_stand(tmp_path):
    file = tmp_path / "text.jsonl"
    file.write_text('{"id": 1, "text": "one\\n \\ntwo"}\n\n{"text": "three"}\n')
    assert list(read_corpus(file)) == ["one", "two", "three"]


@pytest.mark.parametrize("name", ["a.json", "a.csv", "a.parquet", "a.txt.zst", "a.csv.gz", "a"])
def test_files_that_hold_something_else_by_their_names_are_refused(tmp_path, name):
    (tmp_path / name).write_text("one\n")
    with pytest.raises(VocabularyError, match=r"expected a name ending in \.txt or \.jsonl"):
        read_corpus(tmp_path / name)


def test_undecodable_bytes_are_refused_with_file_and_line(tmp_path):
    file = tmp_path / "text.txt"
    file.write_bytes(b"good\nab\xffc\n")
    with pytest.raises(VocabularyError, match=r"text\.txt, line 2: .*0xff at column 3"):
        list(read_corpus(file))


@pytest.mark.parametrize("content", [b"", b"\n \n\t\n"])
def test_an_empty_corpus_is_refused(tmp_path, content):
    (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises(VocabularyError, match=r"text\.txt: the corpus is empty"):
        list(read_corpus(tmp_path / "text.txt"))


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_a_truncated_archive_is_refused_not_shortened(tmp_path, suffix, pack):
    file = tmp_path / f"text{suffix}"
    file.write_bytes(pack("\n".join(LINES * 3000).encode())[:-9])
    with pytest.raises(VocabularyError, match="cannot read on"):
        list(read_corpus(file))


def test_a_missing_corpus_is_refused(tmp_path):
    with pytest.raises(VocabularyError, match="no such corpus"):
        list(read_corpus(tmp_path / "none.txt"))


@given(st.integers(0, 300), st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_a_sample_is_even_bounded_and_ordered(count, most):
    sample = sample_lines(map(str, range(count)), most)
    numbers = [int(line) for line in sample]
    assert min(count, most) / 2 <= len(numbers) <= most
    steps = {b - a for a, b in itertools.pairwise(numbers)}
    assert len(steps) <= 1
    assert numbers[:1] == ([0] if count else [])


def test_counts_are_those_of_a_plain_loop(trained, family, lines_of):
    vocabulary = trained(family)
    lines = lines_of("aa", 50) + lines_of("cc", 5)
    segmenter = vocabulary.segmenter()
    slow: Counter[int] = Counter()
    for line in lines:
        slow.update(segmenter.encode(line, add_special_tokens=False).ids)
    counts = count_pieces(vocabulary, iter(lines))
    assert {i: int(counts[i]) for i in counts.nonzero()[0].tolist()} == slow
    assert len(counts) == len(vocabulary)


def test_counting_nothing_is_refused(trained):
    with pytest.raises(VocabularyError, match="empty"):
        count_pieces(trained("wordpiece"), [])


def test_the_watcher_hears_every_line(trained):
    heard = []
    count_pieces(trained("wordpiece"), ["a"] * 3, watch=lambda *told: heard.append(told))
    assert heard == [(3, None, "lines counted")]
