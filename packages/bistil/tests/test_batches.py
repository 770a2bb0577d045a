import itertools
import tracemalloc
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bistil.errors import ExtractError
from bistil.text.batches import Corruption, MaskedBatches, Schedule, corrupt

CORRUPTION = Corruption(rate=0.15, mask=4, special=(0, 1, 2, 3, 4), pieces=50, seed=3)


def test_languages_take_turns_and_every_block_is_read_once_in_each_pass() -> None:
    sizes = {"en": 40, "sw": 8, "ha": 12}

    slots = list(Schedule(sizes, batches=30, size=4, seed=0))

    for turn in itertools.batched(slots, 3) if hasattr(itertools, "batched") else [slots[i : i + 3] for i in range(0, 30, 3)]:  # fmt: skip
        assert {language for language, _ in turn} == set(sizes)
    read = {language: [row for code, rows in slots if code == language for row in rows] for language in sizes}  # fmt: skip
    assert sorted(read["en"]) == list(range(40))
    assert set(Counter(read["sw"]).values()) == {5}
    assert sorted(read["ha"][:12]) == list(range(12))
    assert read["ha"][:12] != read["ha"][12:24]


def test_a_longer_run_begins_as_a_shorter_one() -> None:
    sizes = {"en": 10, "sw": 7}

    short, long = (Schedule(sizes, batches=count, size=3, seed=1) for count in (5, 9))

    assert _plain(short) == _plain(long)[:5]


def _plain(slots: Schedule) -> list[tuple[str, list[int]]]:
    return [(language, rows.tolist()) for language, rows in slots]


def test_a_batch_is_the_same_whichever_was_asked_for_before() -> None:
    told: dict[str, Any] = {"batches": 40, "size": 4, "seed": 2}
    expected = _plain(Schedule({"en": 9, "sw": 3}, **told))

    slots = Schedule({"en": 9, "sw": 3}, **told)
    for number in (39, 0, 17, 18, 16, 39, 5):
        language, rows = slots[number]
        assert (language, rows.tolist()) == expected[number]


def test_the_order_is_the_one_that_batches_were_dealt_in_from_the_first_version_on() -> None:
    """One order of the blocks after another, dealt out; so a run that an older version began goes on."""
    sizes, size, seed = {"en": 5, "sw": 3}, 2, 7
    turns = np.random.Generator(np.random.Philox(key=[seed, 2**63]))
    dealt = {}
    for number, (language, count) in enumerate(sizes.items()):
        random = np.random.Generator(np.random.Philox(key=[seed, 2**63 + 1 + number]))
        dealt[language] = np.concatenate([random.permutation(count) for _ in range(9)])
    expected = []
    for turn in range(6):
        for number in turns.permutation(2):
            language = list(sizes)[number]
            expected.append((language, dealt[language][2 * turn : 2 * turn + 2].tolist()))

    assert _plain(Schedule(sizes, batches=12, size=size, seed=seed)) == expected


def test_a_long_schedule_is_not_made_before_it_is_asked_for() -> None:
    tracemalloc.start()
    try:
        slots = Schedule({"en": 1000, "sw": 1000}, batches=10**9, size=8, seed=0)
        _ = [slots[number] for number in range(300)]
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(slots) == 10**9
    assert most < 200_000


def test_a_language_without_a_block_is_named() -> None:
    with pytest.raises(ExtractError, match="sw: its corpus does not fill one block"):
        Schedule({"en": 3, "sw": 0}, batches=2, size=1, seed=0)


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
    slots = Schedule({"en": 4}, batches=3, size=2, seed=0)

    once, again = (MaskedBatches(slots, blocks, CORRUPTION) for _ in range(2))

    _ = [once[number] for number in (2, 0)]  # in another order
    assert (once[1]["input_ids"] == again[1]["input_ids"]).all()
    assert not (once[1]["labels"] == again[2]["labels"]).all()


def test_a_rate_of_zero_hides_nothing() -> None:
    gold = np.random.default_rng(0).integers(5, 50, (3, 20))

    inputs, labels = corrupt(gold, replace(CORRUPTION, rate=0.0), number=0)

    assert np.array_equal(inputs, gold)
    assert (labels == -100).all()
