from pathlib import Path

import numpy as np
import pytest
import torch

from teacherzoo import Corpus, Signals, SignalsError, load_teacher, record
from vocabmerge import VocabularyMap, identity_map, map_of_lists


def lists(signals: Signals) -> list[list[int]]:
    """The identity, as lists to be changed."""
    return [[index] for index in range(signals.settings.space.size)]


def mapped(
    recording: Path, ids: list[list[int]], *, size: int = 1000, max_lost: float = 1.0
) -> Signals:
    vocabulary = map_of_lists(ids, student_size=size)
    return Signals(recording, vocabulary=vocabulary, max_lost=max_lost)


def frequent(signals: Signals) -> int:
    """An ordinary id that occurs in the text, masked and not, and among the likeliest."""
    batch = signals.batch(range(100))
    shared = set(batch.topk_ids.flatten().tolist()) & set(batch.labels.tolist())
    counts = np.bincount(batch.token_ids.flatten().numpy())
    return max(shared - set(signals.settings.space.special), key=lambda index: counts[index])


def test_the_identity_map_changes_nothing(recording: Path) -> None:
    plain = Signals(recording)
    size = plain.settings.space.size
    same = Signals(recording, vocabulary=map_of_lists(lists(plain), student_size=size))

    one, other = plain.batch(range(30)), same.batch(range(30))

    for name in (
        "token_ids",
        "input_ids",
        "positions",
        "labels",
        "topk_ids",
        "topk_logprobs",
        "tail",
    ):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_a_renumbering_renumbers_everything(recording: Path) -> None:
    plain = Signals(recording)
    moved = mapped(recording, [[ids[0] + 100] for ids in lists(plain)])

    one, other = plain.batch(range(30)), moved.batch(range(30))

    assert torch.equal(one.token_ids + 100, other.token_ids)
    assert torch.equal(one.input_ids + 100, other.input_ids)
    assert torch.equal(one.labels + 100, other.labels)
    assert torch.equal(one.topk_ids + 100, other.topk_ids)
    assert torch.equal(one.tail, other.tail)


def test_the_mass_of_a_missing_id_goes_to_the_tail_and_is_counted(recording: Path) -> None:
    plain = Signals(recording)
    gone = frequent(plain)
    ids = lists(plain)
    ids[gone] = []
    one, other = plain.batch(range(100)), mapped(recording, ids).batch(range(100))

    hit = one.topk_ids == gone
    assert hit.any()
    assert torch.equal(other.topk_ids == -1, hit)
    assert torch.isneginf(other.topk_logprobs[hit]).all()
    lost = torch.where(hit, one.topk_logprobs.exp(), 0).sum(dim=1)
    torch.testing.assert_close(other.lost, lost)
    torch.testing.assert_close(other.tail, one.tail + lost)
    total = other.topk_logprobs.exp().sum(dim=1) + other.tail
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-5, rtol=0)


def test_a_missing_gold_id_has_no_label_and_shows_as_unknown(recording: Path) -> None:
    plain = Signals(recording)
    gone = frequent(plain)
    ids = lists(plain)
    ids[gone] = []
    one, other = plain.batch(range(100)), mapped(recording, ids).batch(range(100))

    assert torch.equal(other.labels == -100, one.labels == gone)
    unknown = plain.settings.space.unknown
    assert torch.equal(
        other.token_ids == unknown, (one.token_ids == gone) | (one.token_ids == unknown)
    )


def test_where_a_masked_token_needs_several_ids_the_text_shows_the_mask(recording: Path) -> None:
    plain = Signals(recording)
    long = frequent(plain)
    ids = lists(plain)
    ids[long] = [901, 902, 903]
    one, other = plain.batch(range(60)), mapped(recording, ids).batch(range(60))

    shown = other.token_ids[other.rows, other.positions]

    expected = torch.where(one.labels == long, plain.settings.space.mask, one.labels)
    assert (one.labels == long).any()
    assert torch.equal(shown, expected)


def test_a_token_spelled_with_several_ids_moves_what_follows(recording: Path) -> None:
    plain = Signals(recording)
    long = frequent(plain)
    ids = lists(plain)
    ids[long] = [901, 902, 903]
    other = mapped(recording, ids)
    moved = 0

    for row in range(60):
        before, after = plain[row], other[row]
        masked = set(before.positions.tolist())
        expected, places = [], []
        for place, token in enumerate(before.input_ids[0].tolist()):
            if place in masked:
                places.append(len(expected))
                expected.append(plain.settings.space.mask if token == long else token)
            else:
                expected.extend(ids[token])
        assert after.input_ids[0].tolist() == expected
        assert after.positions.tolist() == places
        moved += len(expected) > before.input_ids.shape[1]
    assert moved


def test_two_ids_that_meet_add_up(recording: Path) -> None:
    plain = Signals(recording)
    batch = plain.batch(range(50))
    first, second = batch.topk_ids[0, :2].tolist()
    ids = lists(plain)
    ids[second] = [first]
    other = mapped(recording, ids).batch(range(50))

    row = other.topk_ids[0].tolist()
    assert row.count(first) == 1
    both = batch.topk_logprobs[0, :2].exp().sum()
    torch.testing.assert_close(other.topk_logprobs[0, row.index(first)].exp(), both)
    torch.testing.assert_close(
        other.topk_logprobs.exp().sum(dim=1), batch.topk_logprobs.exp().sum(dim=1)
    )


@pytest.fixture(scope="module")
def everything(
    tmp_path_factory: pytest.TempPathFactory, teacher: Path, text: Path
) -> tuple[Path, int]:
    """A recording of all ids that the teacher has, so that nothing is in the tail, and their number."""
    folder = tmp_path_factory.mktemp("everything")
    size = load_teacher(teacher).vocabulary_size
    record(teacher, [Corpus("en", text, limit=8)], folder, k=size, temperatures=(0.5, 2.0, 4.0))
    return folder, size


def test_a_softened_distribution_sums_to_one_where_ids_meet(everything: tuple[Path, int]) -> None:
    folder, size = everything
    ids = [[index] if index < 10 else [10 + index % 7] for index in range(size)]
    batch = Signals(folder, vocabulary=map_of_lists(ids, student_size=20)).batch([0, 1, 2])

    for temperature, partition in batch.log_partition.items():
        softened = (batch.topk_logprobs / temperature - partition[:, None]).exp().sum(dim=1)
        torch.testing.assert_close(softened, torch.ones_like(softened), rtol=0, atol=5e-3)


def test_too_much_lost_fails_and_names_the_language(recording: Path) -> None:
    plain = Signals(recording)
    ids = lists(plain)
    ids[20:] = [[] for _ in ids[20:]]

    with pytest.raises(SignalsError, match=r"en: \d\d\.\d% of the teacher's probability is on ids"):
        mapped(recording, ids, max_lost=0.05).batch([0])


def test_a_map_without_the_mask_token_is_refused(recording: Path) -> None:
    ids = lists(Signals(recording))
    ids[4] = []

    with pytest.raises(SignalsError, match="no single student id for the teacher's mask token"):
        mapped(recording, ids)


def test_a_map_of_another_tokenizer_is_refused(recording: Path) -> None:
    size = Signals(recording).settings.space.size
    other = VocabularyMap(
        offsets=np.arange(size + 1), ids=np.arange(size), student_size=size, teacher_digest="0" * 64
    )

    with pytest.raises(SignalsError, match="map is of a tokenizer with digest 000000000000"):
        Signals(recording, vocabulary=other)


def test_a_map_that_is_too_short_is_refused(recording: Path) -> None:
    short = map_of_lists([[0]] * 10, student_size=10)

    with pytest.raises(SignalsError, match="covers 10 teacher ids"):
        Signals(recording, vocabulary=short)


def test_the_digest_is_the_one_that_maps_carry(recording: Path, teacher: Path) -> None:
    from vocabmerge import read_vocabulary

    vocabulary = read_vocabulary(teacher)
    carried = identity_map(len(vocabulary.pieces), digest=vocabulary.digest)

    assert carried.teacher_digest == Signals(recording).settings.tokenizer
    Signals(recording, vocabulary=carried).batch([0])


def test_an_empty_map_is_a_map(recording: Path) -> None:
    with pytest.raises(SignalsError, match="The vocabulary map covers 0 teacher ids"):
        Signals(recording, vocabulary=map_of_lists([], student_size=10))
