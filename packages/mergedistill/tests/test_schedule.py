"""Batches follow from seed and number alone, whoever asks for them and in whatever order."""

import pickle
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mergedistill.errors import StageError
from mergedistill.targets.batch import OnlineTargets, RecordedTargets
from mergedistill.training import schedule as scheduling
from mergedistill.training.schedule import schedule


class _Recording:
    """As much of a recording as planning asks for."""

    def __init__(self, language: str, blocks: int) -> None:
        self.manifest = SimpleNamespace(shards=[SimpleNamespace(language=language, rows=blocks)])
        self._blocks = blocks

    def order(self, *, seed: int, languages: list[str]) -> NDArray[np.int64]:
        return np.random.Generator(np.random.Philox(seed)).permutation(self._blocks)


def _recordings(sizes: list[int]) -> dict[str, Any]:
    return {f"l{number}": _Recording(f"l{number}", size) for number, size in enumerate(sizes)}


def _all_at_once(
    sizes: list[int], *, batches: int, size: int, exponent: float, seed: int
) -> list[tuple[str, list[int]]]:
    """The whole plan, by dealing each language's rounds one after another."""

    def dealt(number: int) -> Iterator[list[int]]:
        left: list[int] = []
        for turn in range(2**31):
            order = signals[f"l{number}"].order(
                seed=seed * len(sizes) + number + (turn << 20), languages=[]
            )
            left += order.tolist()
            while len(left) >= size:
                yield left[:size]
                left = left[size:]

    signals = _recordings(sizes)
    weights = np.array(sizes, dtype=float) ** exponent
    random = np.random.Generator(np.random.Philox(key=[seed, 0x5C4ED]))
    drawn = random.choice(len(sizes), size=batches, p=weights / weights.sum())
    dealers = [dealt(number) for number in range(len(sizes))]
    return [(f"l{number}", next(dealers[number])) for number in drawn]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.integers(1, 12),
    st.sampled_from([0.0, 0.7, 1.0]),
    st.integers(0, 2**31 - 1),
    st.randoms(use_true_random=False),
)
def test_each_batch_is_that_of_the_whole_plan_in_whatever_order_they_are_asked_for(
    sizes: list[int], size: int, exponent: float, seed: int, random: Any
) -> None:
    batches = 60
    expected = _all_at_once(sizes, batches=batches, size=size, exponent=exponent, seed=seed)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(scheduling, "_DRAWN_AT_ONCE", 7)
        patched.setattr(scheduling, "_COUNTED_AT_ONCE", 5)
        slots = schedule(
            _recordings(sizes),
            batches=batches,
            tokens=size * 16,
            block_length=16,
            exponent=exponent,
            seed=seed,
        )
        asked = list(range(batches))
        random.shuffle(asked)
        got = {index: slots[index] for index in asked}
        sent = pickle.loads(pickle.dumps(slots))  # as to a worker

        assert [
            (got[index].language, got[index].rows.tolist()) for index in range(batches)
        ] == expected
        assert [(slot.language, slot.rows.tolist()) for slot in sent] == expected
        assert [slot.language for slot in slots[3:9]] == [name for name, _ in expected[3:9]]


def test_a_long_plan_of_many_processes_is_small() -> None:
    batches = 400_000
    slots = schedule(
        _recordings([50, 20, 10]), batches=batches, tokens=64, block_length=16, exponent=0.7, seed=0
    )

    for index in (0, batches // 2, batches - 1):
        assert len(slots[index].rows) == 4
    assert len(pickle.dumps(slots)) < 2.1 * batches


def test_a_language_without_a_masked_piece_is_refused_by_name() -> None:
    with pytest.raises(StageError, match="l1: nothing of its text was masked"):
        schedule(_recordings([3, 0]), batches=4, tokens=64, block_length=16, exponent=0.0, seed=0)


def test_targets_move_to_a_device_with_all_that_they_hold() -> None:
    ids, numbers = torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3)
    recorded = RecordedTargets(topk_ids=ids, topk_logprobs=numbers, tail=numbers)
    query = {"starts": ids, "teachers": [{"cells": ids}, {"cells": ids}]}
    online = OnlineTargets(teacher=1, query=query)

    moved, asked = recorded.to("meta"), online.to("meta", non_blocking=True)

    assert (moved.topk_ids.device.type, moved.tail.device.type) == ("meta", "meta")
    assert moved.log_partition is None
    assert asked.teacher == 1
    assert asked.query["starts"].device.type == "meta"
    assert [part["cells"].device.type for part in asked.query["teachers"]] == ["meta", "meta"]
