import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

import sentence_students as students
from sentence_students import Job

JOB = Job(
    pair=("en", "de"), mixture="sentences", terms=(), layers=(1, 3), seed=0, rate=1e-3, steps=10, batch=16, length=64
)  # fmt: skip


def _vectors(seed: int) -> Any:
    return np.random.default_rng(seed).normal(size=(40, 6)).astype(np.float32)


def test_neighbours_are_those_of_the_cosine_and_never_the_sentence_itself() -> None:
    vectors = _vectors(0) * np.arange(1, 41, dtype=np.float32)[:, None]

    nearest = students._nearest(vectors, vectors)

    unit = vectors / np.linalg.norm(vectors, axis=1)[:, None]
    for row, chosen in enumerate(nearest):
        cosines = {other: float(unit[row] @ unit[other]) for other in range(40) if other != row}
        assert {*chosen.tolist()} == {*sorted(cosines, key=lambda other: -cosines[other])[:10]}
    assert students._overlap(nearest, nearest) == 100
    assert students._overlap(nearest, (nearest + 1) % 40) < 100


def test_a_hit_is_a_translation_that_is_the_nearest() -> None:
    answers = _vectors(1)
    queries = answers.copy()
    queries[[3, 4]] = answers[[4, 3]]

    hits = students._hits(queries, answers)

    assert np.flatnonzero(~hits).tolist() == [3, 4]


def test_a_mixture_is_compared_with_hidden_states_of_the_same_everything() -> None:
    hits, better = np.zeros(20, dtype=bool), np.arange(20) < 8
    plain = replace(JOB, mixture="hidden", terms=students.MIXTURES["hidden"])
    items = {
        JOB: {"hits": better, "cosines": np.linspace(0.9, 1, 40)},
        plain: {"hits": hits, "cosines": np.linspace(0.8, 0.95, 40)},
        replace(JOB, seed=1): {"hits": better, "cosines": np.ones(40)},
    }

    [compared] = students._comparisons(items)

    assert compared["bitext"] == {"better": 8, "worse": 0, "p": pytest.approx(2 / 2**8)}
    assert compared["cosine"]["difference"] == pytest.approx(0.075)
    assert compared["cosine"]["p"] < 0.001


def test_lines_are_read_packed_or_plain(tmp_path: Path) -> None:
    import lzma

    (tmp_path / "plain.tsv").write_text("a\tb\n\nc\td\n")
    with lzma.open(tmp_path / "packed.tsv.xz", "wt") as stream:
        stream.write("e\tf\n")

    assert list(students._lines(tmp_path / "plain.tsv")) == ["a\tb", "c\td"]
    assert list(students._lines(tmp_path / "packed.tsv")) == ["e\tf"]
    with pytest.raises(FileNotFoundError, match=r"neither this nor its \.xz"):
        list(students._lines(tmp_path / "none.tsv"))
