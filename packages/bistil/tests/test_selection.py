"""Selection against sorting everything."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch._subclasses.fake_tensor import FakeTensorMode

import bistil.lottery.select
from bistil.errors import SparseError
from bistil.lottery.select import select


def by_sorting(before, after, count):
    """(name, place) of the chosen: all movements sorted, equals in order of names and places."""
    entries = []
    for order, name in enumerate(before):
        moved = np.abs(after[name].numpy().ravel() - before[name].numpy().ravel())
        entries += [(-float(m), order, place, name) for place, m in enumerate(moved)]
    return {(name, place) for _, _, place, name in sorted(entries)[:count]}


def chosen_of(selection):
    return {(name, place) for name in selection.coded for place in selection.places(name).tolist()}


FLOATS = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 3.0]),
    st.floats(-100, 100, width=32),
)
TENSORS = arrays.arrays(np.float32, st.integers(0, 30), elements=FLOATS)


def agrees(starts, data, chunk):
    before = {f"t{i}": torch.from_numpy(a) for i, a in enumerate(starts)}
    after = {n: torch.from_numpy(data.draw(arrays.arrays(np.float32, len(t), elements=FLOATS))) for n, t in before.items()}  # fmt: skip
    total = sum(len(t) for t in before.values())
    if not total:
        return
    count = data.draw(st.integers(1, total))
    original = bistil.lottery.select._CHUNK
    bistil.lottery.select._CHUNK = chunk
    try:
        selection = select(before, after, count=count)
    finally:
        bistil.lottery.select._CHUNK = original
    assert selection.count == count
    assert chosen_of(selection) == by_sorting(before, after, count)


@settings(max_examples=80, deadline=None)
@given(st.lists(TENSORS, min_size=1, max_size=4), st.data(), st.sampled_from([3, 7, 1 << 17]))
def test_selection_equals_sorting(starts, data, chunk):
    agrees(starts, data, chunk)


@pytest.mark.property
@settings(max_examples=5000, deadline=None)
@given(st.lists(TENSORS, min_size=1, max_size=6), st.data(), st.sampled_from([2, 5, 1 << 17]))
def test_selection_equals_sorting_at_length(starts, data, chunk):
    agrees(starts, data, chunk)


def test_selection_equals_topk_where_nothing_ties():
    torch.manual_seed(0)
    before = {"a": torch.randn(3000), "b": torch.randn(50, 40)}
    after = {name: its + torch.randn_like(its).double().float() for name, its in before.items()}
    moved = torch.cat([(after[n] - before[n]).abs().ravel() for n in before])
    expected = set(moved.topk(777).indices.tolist())
    selection = select(before, after, count=777)
    assert set(selection.places("a")) | {3000 + p for p in selection.places("b")} == expected
    assert selection.threshold == float(moved.topk(777).values[-1])


def test_half_precision_moves_are_measured_exactly():
    before = {"w": torch.tensor([256.0, 1.0], dtype=torch.bfloat16)}
    after = {"w": torch.tensor([258.0, 3.015625], dtype=torch.bfloat16)}
    assert select(before, after, count=1).places("w").tolist() == [1]


@pytest.mark.parametrize("count", [0, -1, 6])
def test_a_count_that_cannot_be_is_refused(count):
    with pytest.raises(SparseError, match=f"from 1 to 5 entries, got {count}"):
        select({"w": torch.zeros(5)}, {"w": torch.ones(5)}, count=count)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_tensor_that_moved_to_no_number_is_refused_by_name(value):
    before = {"good": torch.zeros(3), "bad": torch.zeros(3)}
    after = {"good": torch.ones(3), "bad": torch.tensor([0.0, value, 0.0])}
    with pytest.raises(SparseError, match="'bad'"):
        select(before, after, count=2)


def test_a_start_that_stayed_on_the_cpu_is_compared_with_tensors_on_another_device():
    """A Trainer moves the parameters, and the copies of their start stay behind; devices are checked without one."""
    with FakeTensorMode():
        before, after = torch.empty(5, dtype=torch.bfloat16), torch.empty(5, device="cuda")
        moved = bistil.lottery.select._moved(before, after)
    assert (moved.device.type, moved.dtype) == ("cuda", torch.float32)
