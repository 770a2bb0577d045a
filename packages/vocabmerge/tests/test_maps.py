"""Vocabulary maps: rows, composition, inversion, and the file."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vocabmerge import (
    VocabularyError,
    VocabularyMap,
    identity_map,
    load_map,
    map_of_ids,
    map_of_lists,
)

SIZE = 6
rows = st.lists(st.lists(st.integers(0, SIZE - 1), max_size=3), max_size=SIZE)
full_rows = st.lists(st.lists(st.integers(0, 8), max_size=3), min_size=SIZE, max_size=SIZE)


@given(rows, full_rows)
@settings(max_examples=50, deadline=None)
def test_composition_follows_every_row(first, second):
    composed = map_of_lists(first, student_size=SIZE).compose(map_of_lists(second, student_size=9))
    expected = [
        [] if any(not second[i] for i in row) else [j for i in row for j in second[i]]
        for row in first
    ]
    assert [composed[t].tolist() for t in range(len(composed))] == expected


@given(rows)
@settings(max_examples=30, deadline=None)
def test_composing_with_the_identity_changes_nothing(first):
    made = map_of_lists(first, student_size=SIZE)
    same = made.compose(identity_map(SIZE))
    assert same.ids.tolist() == made.ids.tolist()
    assert same.offsets.tolist() == made.offsets.tolist()


@given(st.permutations(range(SIZE)))
def test_there_and_back_is_the_identity(order):
    made = map_of_ids(order, student_size=SIZE)
    assert made.compose(made.inverse()).one_to_one().tolist() == list(range(SIZE))


def test_one_to_one_hides_what_has_several_or_none():
    made = map_of_lists([[3], [], [0, 1]], student_size=4)
    assert made.one_to_one().tolist() == [3, -1, -1]
    assert made.one_to_one().dtype == np.int64
    assert made.counts == {"one_to_one": 1, "one_to_several": 1, "none": 1}


def test_a_map_comes_back_from_its_file(tmp_path):
    made = map_of_lists(
        [[3], [], [0, 1]],
        student_size=4,
        teacher_digest="a",
        student_digest="b",
        teacher="T",
        student="S",
    )
    made.save(tmp_path / "maps" / "T.safetensors")
    again = load_map(tmp_path / "maps" / "T.safetensors")
    for name in ("student_size", "teacher_digest", "student_digest", "teacher", "student"):
        assert getattr(again, name) == getattr(made, name)
    assert again.ids.tolist() == [3, 0, 1]
    assert again.offsets.tolist() == [0, 1, 1, 3]
    assert [file.name for file in (tmp_path / "maps").iterdir()] == ["T.safetensors"]


def test_a_truncated_or_foreign_file_is_refused_by_name(tmp_path):
    from safetensors.numpy import save_file

    map_of_ids([0], student_size=1).save(tmp_path / "good")
    (tmp_path / "cut").write_bytes((tmp_path / "good").read_bytes()[:-3])
    save_file({"x": np.zeros(1)}, tmp_path / "foreign")
    for name, says in (
        ("cut", "cannot read"),
        ("foreign", "vocabulary-map/1"),
        ("no", "cannot read"),
    ):
        with pytest.raises(VocabularyError, match=says) as caught:
            load_map(tmp_path / name)
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("offsets", "ids", "says"),
    [
        ([0, 2], [0], "run from 0 to 1"),
        ([0, 2, 1, 2], [0, 0], "not descend"),
        ([0, 1], [7], "must lie in"),
    ],
)
def test_contradictory_arrays_are_refused(offsets, ids, says):
    with pytest.raises(VocabularyError, match=says):
        VocabularyMap(offsets=np.array(offsets), ids=np.array(ids), student_size=4)


def test_maps_of_different_tokenizers_do_not_compose():
    first = identity_map(3, digest="a")
    with pytest.raises(VocabularyError, match="different tokenizers"):
        first.compose(identity_map(3, digest="b"))
    with pytest.raises(VocabularyError, match="ends in 3 ids"):
        first.compose(identity_map(4))
