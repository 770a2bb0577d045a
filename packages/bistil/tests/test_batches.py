import itertools
from collections import Counter

import numpy as np
import pytest

from bistil.batches import Corruption, MaskedBatches, corrupt, even_schedule
from bistil.errors import ExtractError

CORRUPTION = Corruption(rate=0.15, mask=4, special=(0, 1, 2, 3, 4), pieces=50, seed=3)


def test_languages_take_turns_and_every_block_is_read_once_in_each_pass() -> None:
    sizes = {"en": 40, "sw": 8, "ha": 12}

    slots = even_schedule(sizes, batches=30, size=4, seed=0)

    for turn in itertools.batched(slots, 3) if hasattr(itertools, "batched") else [slots[i : i + 3] for i in range(0, 30, 3)]:  # fmt: skip
        assert {language for language, _ in turn} == set(sizes)
    read = {language: [row for code, rows in slots if code == language for row in rows] for language in sizes}  # fmt: skip
    assert sorted(read["en"]) == list(range(40))
    assert set(Counter(read["sw"]).values()) == {5}
    assert sorted(read["ha"][:12]) == list(range(12))
    assert read["ha"][:12] != read["ha"][12:24]


def test_a_longer_run_begins_as_a_shorter_one() -> None:
    sizes = {"en": 10, "sw": 7}

    short = even_schedule(sizes, batches=5, size=3, seed=1)
    long = even_schedule(sizes, batches=9, size=3, seed=1)

    assert [(code, rows.tolist()) for code, rows in short] == [
        (code, rows.tolist()) for code, rows in long[:5]
    ]


def test_a_language_without_a_block_is_named() -> None:
    with pytest.raises(ExtractError, match="sw: its corpus does not fill one block"):
        even_schedule({"en": 3, "sw": 0}, batches=2, size=1, seed=0)


def test_every_block_has_as_many_masks_as_any_other_and_special_pieces_none() -> None:
    gold = np.random.default_rng(0).integers(5, 50, (200, 40))
    gold[:, 0], gold[:, 20] = 2, 3

    inputs, labels = corrupt(gold, CORRUPTION, number=0)

    asked = labels >= 0
    assert (asked.sum(axis=1) == 6).all()
    assert not asked[:, [0, 20]].any()
    assert (labels[asked] == gold[asked]).all()
    assert (inputs[~asked] == gold[~asked]).all()
    share = Counter(np.where(inputs[asked] == 4, "mask", np.where(inputs[asked] == gold[asked], "kept", "random")).tolist())  # fmt: skip
    assert share["mask"] / asked.sum() == pytest.approx(0.8, abs=0.05)
    assert share["random"] / asked.sum() == pytest.approx(0.1, abs=0.04)
    swapped = inputs[asked][(inputs[asked] != 4) & (inputs[asked] != gold[asked])]
    assert swapped.min() >= 5


def test_masks_follow_from_seed_and_number_alone() -> None:
    blocks = {"en": np.arange(5, 45, dtype=np.int32)[None].repeat(4, axis=0)}
    slots = even_schedule({"en": 4}, batches=3, size=2, seed=0)

    once, again = (MaskedBatches(slots, blocks, CORRUPTION) for _ in range(2))

    _ = [once[number] for number in (2, 0)]  # in another order
    assert (once[1]["input_ids"] == again[1]["input_ids"]).all()
    assert not (once[1]["labels"] == again[2]["labels"]).all()
