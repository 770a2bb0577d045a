"""The figures of the table of signals: calibration, the shares of the online student, and who teaches with what."""

import lzma
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

import mergedistill_signals as question
from mergedistill_signals import Figures, expected_calibration_error


def _positions(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    confidence = random.random(count)
    return confidence, random.random(count) < 0.6  # too sure where sure, else not sure enough


def test_the_calibration_error_is_the_mean_gap_of_bins_weighted_by_their_size() -> None:
    confidence, hits = _positions(604, seed=1)

    error = expected_calibration_error(confidence, hits, bins=6)

    ordered = sorted(zip(confidence.tolist(), hits.tolist(), strict=True))
    bins = [ordered[:101], ordered[101:202], ordered[202:303], ordered[303:404], ordered[404:504]]
    bins.append(ordered[504:])
    gaps = [
        abs(sum(hit for _, hit in one) / len(one) - sum(c for c, _ in one) / len(one)) * len(one)
        for one in bins
    ]
    assert error == pytest.approx(sum(gaps) / 604)
    assert error > 0.05


def test_a_model_that_is_right_as_often_as_it_says_has_no_calibration_error() -> None:
    confidence = np.repeat([0.25, 0.75], 400)
    hits = np.tile([True, False, False, False], 100).tolist() + [True, True, True, False] * 100

    assert expected_calibration_error(confidence, np.array(hits), bins=2) == pytest.approx(0)


def test_one_bin_is_the_distance_of_mean_confidence_and_accuracy() -> None:
    confidence, hits = _positions(300, seed=2)

    error = expected_calibration_error(confidence, hits, bins=1)

    assert error == pytest.approx(abs(confidence.mean() - hits.mean()))


def test_the_order_of_positions_changes_no_calibration_error() -> None:
    confidence, hits = _positions(300, seed=3)
    order = np.random.default_rng(4).permutation(300)

    shuffled = expected_calibration_error(confidence[order], hits[order])

    assert shuffled == pytest.approx(expected_calibration_error(confidence, hits))


def test_shares_of_the_online_student_are_taken_seed_by_seed() -> None:
    def of(*bits: float) -> list[Figures]:
        return [
            Figures(bits_per_byte=value, accuracy=0.5, calibration_error=0.1, overconfidence=-0.1)
            for value in bits
        ]

    made = question.table(
        {"online": of(2.0, 4.0), "top 8, tail": of(2.2, 4.4)}, {"top 8, tail": 12.34}
    )

    heading, _, online, top = made.splitlines()
    assert "of online's, %" in heading
    assert online.split(" | ")[1:4] == ["-", "3.000 ± 12.706", "100.000 ± 0.000"]
    assert top.split(" | ")[1] == "12.3"
    assert top.split(" | ")[3] == "110.000 ± 0.000"


def test_lines_are_taken_from_all_over_a_text_and_the_same_ones_each_time(tmp_path: Path) -> None:
    text = tmp_path / "en.txt.xz"
    text.write_bytes(lzma.compress("".join(f"line {n}\n" for n in range(400)).encode()))

    lines = question.some_lines(text, None)

    numbers = [int(line.split()[1]) for line in lines]
    assert len(set(numbers)) == 100
    assert min(numbers) < 40
    assert max(numbers) > 360
    assert question.some_lines(text, None) == lines
    assert question.some_lines(text, 7) == lines[:7]
    for _ in range(2):
        question.write_some_lines(text, 7, tmp_path / "lines" / "en.txt")
        assert (tmp_path / "lines" / "en.txt").read_text().split("\n") == lines[:7]
        text.write_bytes(b"")  # what is there is not drawn again
