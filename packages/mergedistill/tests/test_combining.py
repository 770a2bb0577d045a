from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from mergedistill.targets.align import align_positions
from mergedistill.targets.combine import AlignedTeacher, mince, mixture
from teacherzoo.signals.shard import ShardArrays

V = 20


def _shard(
    words: list[list[int]],
    labels: list[list[int]],
    *,
    documents: list[int] | None = None,
    draws: list[int] | None = None,
    k: int = 3,
    temperature: float = 1.0,
    seed: int = 0,
) -> ShardArrays:
    """Rows of masked positions with full distributions over V ids cut to k, of which `dense` knows all."""
    rows = len(words)
    flat_labels = np.array([one for row in labels for one in row])
    logits = np.random.default_rng(seed).normal(size=(len(flat_labels), V)) * 2
    logp = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    ids = np.sort(np.argsort(-logp, axis=1)[:, :k], axis=1)
    kept = np.take_along_axis(logp, ids, axis=1)
    counts = [len(row) for row in words]
    names = np.array(documents or range(rows), dtype="<u8")
    return ShardArrays(
        language="xx",
        documents=np.concatenate(
            [names[:, None].view(np.uint8), np.zeros((rows, 8), np.uint8)], axis=1
        ),
        parts=np.zeros(rows, np.int64),
        draws=np.array(draws or [0] * rows),
        loss=np.random.default_rng(seed + 100).random(rows).astype(np.float32),
        token_starts=np.arange(rows + 1) * 8,
        position_starts=np.concatenate([[0], np.cumsum(counts)]),
        token_ids=np.zeros(rows * 8, np.int64),
        input_ids=np.zeros(rows * 8, np.int64),
        positions=np.concatenate([np.arange(n) for n in counts]),
        words=np.array([one for row in words for one in row]),
        labels=flat_labels,
        topk_ids=ids,
        topk_logprobs=kept.astype(np.float32),
        tail=(1 - np.exp(kept).sum(axis=1)).astype(np.float32),
        lost=np.zeros(len(flat_labels), np.float32),
        log_partition=np.log(np.exp(logp / temperature).sum(axis=1, keepdims=True)).astype(
            np.float32
        ),
    )


def _voice(
    arrays: ShardArrays, places: NDArray[np.int64] | None = None, weight: float = 1.0
) -> AlignedTeacher:
    here = np.arange(len(arrays.labels)) if places is None else places
    return AlignedTeacher(
        arrays=arrays, positions=here, weight=weight, unlisted=V - arrays.topk_ids.shape[1]
    )


def _dense(arrays: ShardArrays, row: int, temperature: float = 1.0) -> NDArray[np.float64]:
    """What the loss will make of a position: probability by id, an id that stands twice summed."""
    found = np.zeros(V)
    partition = arrays.log_partition[row, 0] if temperature != 1.0 else 0.0
    for index, logprob in zip(arrays.topk_ids[row], arrays.topk_logprobs[row], strict=True):
        if index >= 0:
            found[index] += np.exp(logprob / temperature - partition)
    return found


def test_teachers_meet_at_words_that_they_spell_alike() -> None:
    primary = _shard([[0, 2, 2], [5, 7]], [[3, 4, 5], [6, 7]], documents=[1, 2])
    # Word 2 in other pieces, word 5 of document 2 not masked, word 7 with another piece; document 1 comes last.
    other = _shard([[7], [0, 2]], [[8], [3, 4]], documents=[2, 1])

    places = align_positions(primary, other)

    assert places.tolist() == [1, -1, -1, -1, -1]


def test_words_in_several_pieces_meet_piece_by_piece() -> None:
    primary = _shard([[1, 1, 4]], [[3, 9, 5]])
    other = _shard(
        [[1], [1], [4]], [[3], [9], [5]], documents=[0, 0, 0]
    )  # cut in two by a block's end

    assert align_positions(primary, other).tolist() == [0, 1, 2]


def test_a_piece_that_the_student_lacks_is_no_meeting() -> None:
    primary = _shard([[1, 2]], [[-100, 5]])

    assert align_positions(primary, _shard([[1, 2]], [[-100, 5]])).tolist() == [-1, 1]


def test_draws_of_masks_do_not_mix() -> None:
    primary = _shard([[1], [1]], [[3], [3]], documents=[7, 7], draws=[0, 1])
    other = _shard([[1], [1]], [[3], [3]], documents=[7, 7], draws=[1, 0])

    assert align_positions(primary, other).tolist() == [1, 0]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_mixture_is_the_weighted_mean_of_the_distributions(temperature: float) -> None:
    first = _shard([[0, 1]], [[3, 4]], temperature=temperature, k=V)
    second = _shard([[0, 1]], [[3, 4]], temperature=temperature, k=V, seed=1)

    met = mixture([_voice(first, weight=3.0), _voice(second, weight=1.0)], temperature=temperature)

    for row in range(2):
        expected = 0.75 * _dense(first, row, temperature) + 0.25 * _dense(second, row, temperature)
        np.testing.assert_allclose(_dense(met, row, temperature), expected, rtol=1e-5)


def test_what_one_teacher_does_not_list_stays_in_the_tail() -> None:
    first, second = _shard([[0]], [[3]]), _shard([[0]], [[3]], seed=1)

    met = mixture([_voice(first), _voice(second)], temperature=1.0)

    np.testing.assert_allclose(_dense(met, 0).sum() + met.tail[0], 1.0, rtol=1e-5)
    np.testing.assert_allclose(met.tail, (first.tail + second.tail) / 2, rtol=1e-5)


def test_where_a_prediction_is_missing_the_others_have_its_weight() -> None:
    first, second = _shard([[0, 1]], [[3, 4]]), _shard([[0]], [[3]], seed=1)

    met = mixture([_voice(first), _voice(second, np.array([0, -1]))], temperature=1.0)

    np.testing.assert_allclose(_dense(met, 1), _dense(first, 1), rtol=1e-5)
    assert (_dense(met, 0) != _dense(first, 0)).any()
    assert met.topk_ids[1, 3:].tolist() == [-1, -1, -1]


def test_one_tokenizer_each_block_is_told_by_the_teacher_with_the_lowest_recorded_loss() -> None:
    words, labels = [[0, 1], [0]], [[3, 4], [5]]
    first = replace(_shard(words, labels), loss=np.array([1.0, 2.0], np.float32))
    second = replace(_shard(words, labels, seed=1), loss=np.array([0.5, 2.5], np.float32))

    met, chosen, heard = mince([_voice(first), _voice(second)], same_text=True)

    assert chosen.tolist() == [1, 0]
    assert heard.tolist() == [1, 1, 0]
    np.testing.assert_array_equal(met.topk_ids[:2], second.topk_ids[:2])
    np.testing.assert_array_equal(met.topk_logprobs[2], first.topk_logprobs[2])


def test_other_tokenizers_compare_where_all_speak_and_the_lead_fills_in() -> None:
    first, second = _shard([[0, 1], [2]], [[3, 4], [5]], k=V), _shard([[0]], [[3]], k=V, seed=1)
    # At its one word the second is sure of the gold piece, the first is not.
    second.topk_logprobs[0] = np.where(np.arange(V) == 3, -1e-3, -10.0)

    met, chosen, heard = mince(
        [_voice(first), _voice(second, np.array([0, -1, -1]))], same_text=False
    )

    assert chosen.tolist() == [1, 0]  # in the second block they do not meet
    assert heard.tolist() == [1, 0, 0]
    np.testing.assert_array_equal(met.topk_logprobs[0], second.topk_logprobs[0])
    np.testing.assert_array_equal(met.topk_logprobs[1], first.topk_logprobs[1])


def test_an_unlisted_gold_piece_costs_its_share_of_the_tail() -> None:
    sure = _shard([[0]], [[3]], k=2)
    sure.topk_ids[0], sure.topk_logprobs[0], sure.tail[0] = [4, 5], np.log([0.5, 0.4]), 0.1
    unsure = _shard([[0]], [[3]], k=2)
    unsure.topk_ids[0], unsure.topk_logprobs[0], unsure.tail[0] = [4, 5], np.log([0.1, 0.1]), 0.8

    _, chosen, _ = mince([_voice(sure), _voice(unsure)], same_text=False)

    assert chosen.tolist() == [1]
