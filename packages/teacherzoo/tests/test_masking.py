import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teacherzoo import Masking, RecordError, TokenSpace
from teacherzoo.text.blocks import Block
from teacherzoo.text.masking import corrupt, mask_blocks, masked_positions

GOLDEN = 0x9E3779B97F4A7C15
SPACE = TokenSpace(mask=4, pad=0, unknown=1, special=(0, 1, 2, 3, 4), size=100)


def block(
    length: int, *, document: bytes = b"d" * 16, part: int = 0, words_every: int = 2
) -> Block:
    ids = np.concatenate([[2], np.arange(5, 5 + length) % 95 + 5, [3]]).astype(np.uint32)
    words = np.concatenate([[-1], np.arange(length) // words_every, [-1]]).astype(np.int32)
    return Block(
        document,
        part,
        ids,
        words,
        (length + words_every - 1) // words_every,
        np.zeros(length + 2, dtype=bool),
    )


def positions(some: Block, masking: Masking, draw: int = 0) -> list[int]:
    return masked_positions(some, masking, space=SPACE, draw=draw).tolist()


def shown(some: Block, masking: Masking, draw: int = 0) -> np.ndarray:
    where = masked_positions(some, masking, space=SPACE, draw=draw)
    return corrupt(
        some.token_ids[where],
        where,
        documents=some.document,
        parts=np.array([some.part]),
        draws=np.array([draw]),
        counts=np.array([len(where)]),
        masking=masking,
        space=SPACE,
    )


@given(length=st.integers(1, 200), rate=st.floats(0.01, 1), seed=st.integers(0, 2**62))
@settings(max_examples=50, deadline=None)
def test_the_rate_is_kept_to_the_token(length: int, rate: float, seed: int) -> None:
    chosen = positions(block(length), Masking(rate=rate, seed=seed))

    assert len(chosen) == max(1, round(rate * length))
    assert chosen == sorted(set(chosen))
    assert 1 <= chosen[0] <= chosen[-1] <= length


def test_masks_are_those_of_the_written_definition() -> None:
    # Recorded signals do not store what the teacher saw: the same seed must give the same masks for ever.
    digest = hashlib.blake2b(b"text", digest_size=16).digest()
    some = block(40, document=digest, part=3)

    numbers = {at: hashed(digest, 3, 2, seed=7, purpose=1, index=at) for at in range(1, 41)}
    expected = sorted(sorted(numbers, key=lambda at: numbers[at])[:6])
    inputs = []
    for at in expected:
        change = hashed(digest, 3, 2, seed=7, purpose=2, index=at) / 2**64
        drawn = int(hashed(digest, 3, 2, seed=7, purpose=3, index=at) / 2**64 * 95)
        inputs.append(4 if change < 0.8 else 5 + drawn if change < 0.9 else some.token_ids[at])
    assert positions(some, Masking(seed=7), draw=2) == expected == [7, 8, 19, 24, 32, 36]
    assert shown(some, Masking(seed=7), draw=2).tolist() == inputs


def hashed(document: bytes, part: int, draw: int, *, seed: int, purpose: int, index: int) -> int:
    """SplitMix64's finaliser in plain integers, as masking.py's first lines define it."""
    low, high = (int.from_bytes(document[at : at + 8], "little") for at in (0, 8))
    key = mix(low ^ mix(seed + GOLDEN))
    key = mix(key + high)
    key = mix(key + (part << 24 | draw))
    key = mix(key + purpose * GOLDEN)
    return mix(key + (index + 1) * GOLDEN)


def mix(x: int) -> int:
    whole = 2**64 - 1
    x &= whole
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & whole
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & whole
    return x ^ x >> 31


def test_seed_draw_document_and_part_each_change_the_mask() -> None:
    base = positions(block(100), Masking())

    assert base == positions(block(100), Masking())
    assert base != positions(block(100), Masking(seed=1))
    assert base != positions(block(100), Masking(), draw=1)
    assert base != positions(block(100, document=b"e" * 16), Masking())
    assert base != positions(block(100, part=1), Masking())


def test_special_and_unknown_tokens_are_never_masked() -> None:
    some = block(20)
    some.token_ids[5:12] = SPACE.unknown

    assert not set(positions(some, Masking(rate=1.0))) & {0, *range(5, 12), 21}


def test_a_block_of_unknown_tokens_has_no_mask() -> None:
    some = block(6)
    some.token_ids[1:7] = SPACE.unknown

    assert positions(some, Masking()) == []


def test_a_whole_word_is_masked_or_not() -> None:
    some = block(99, words_every=3)

    chosen = positions(some, Masking(policy="whole_word", rate=0.3))

    hidden = set(some.words[chosen].tolist())
    assert len(hidden) == round(0.3 * 33)
    assert chosen == np.flatnonzero(np.isin(some.words, list(hidden))).tolist()


def test_teachers_with_other_tokenizers_mask_the_same_words() -> None:
    masking = Masking(policy="whole_word", rate=0.2)
    coarse, fine = block(50, words_every=1), block(200, words_every=4)

    hidden = [set(some.words[positions(some, masking)].tolist()) for some in (coarse, fine)]

    assert hidden[0] == hidden[1]
    assert len(hidden[0]) == 10


def test_eight_of_ten_become_the_mask_one_random_one_itself() -> None:
    some = block(20_000)
    where = masked_positions(some, Masking(rate=1.0), space=SPACE, draw=0)
    after = shown(some, Masking(rate=1.0))
    gold = some.token_ids[where]

    masked, kept = (after == SPACE.mask).mean(), (after == gold).mean()

    assert abs(masked - 0.8) < 0.01
    assert abs(kept - 0.1 - 0.1 / 95) < 0.01


def test_random_tokens_are_ordinary_ones_and_all_of_them() -> None:
    space = TokenSpace(mask=90, pad=0, unknown=None, special=(0, 3, 50, 90, 99), size=100)
    masking = Masking(rate=1.0, mask_share=0.0, random_share=1.0)
    count = 20_000

    drawn = corrupt(
        np.zeros(count, dtype=np.uint32),
        np.arange(count),
        documents=b"x" * 16,
        parts=np.array([0]),
        draws=np.array([0]),
        counts=np.array([count]),
        masking=masking,
        space=space,
    )

    assert set(drawn.tolist()) == set(range(100)) - set(space.special)


def test_blocks_together_are_corrupted_as_each_alone() -> None:
    masking = Masking(rate=0.5)
    some = [block(30, part=part) for part in range(4)]
    where = [masked_positions(one, masking, space=SPACE, draw=0) for one in some]

    together = corrupt(
        np.concatenate([one.token_ids[at] for one, at in zip(some, where, strict=True)]),
        np.concatenate(where),
        documents=b"".join(one.document for one in some),
        parts=np.arange(4),
        draws=np.zeros(4, dtype=np.int64),
        counts=np.array([len(at) for at in where]),
        masking=masking,
        space=SPACE,
    )

    assert together.tolist() == np.concatenate([shown(one, masking) for one in some]).tolist()


@pytest.mark.parametrize(
    "options",
    [
        {"policy": "spans"},
        {"rate": 0.0},
        {"rate": 1.1},
        {"mask_share": 0.9, "random_share": 0.2},
        {"random_share": -0.1},
        {"seed": -1},
    ],
)
def test_senseless_masking_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(RecordError):
        Masking(**options)  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize("policy", ["bert", "whole_word"])
def test_blocks_together_are_masked_by_the_written_definition(policy: str) -> None:
    some = [
        block(length, document=bytes([number]) * 16, part=number)
        for number, length in enumerate([40, 1, 7, 3, 40])
    ]
    some[3].token_ids[1:4] = SPACE.unknown
    some[4].token_ids[5:12] = SPACE.unknown

    together = mask_blocks(some, Masking(policy=policy, rate=0.3, seed=7), space=SPACE, draw=2)

    assert [chosen.tolist() for chosen in together] == [by_definition(one, policy) for one in some]


def by_definition(some: Block, policy: str) -> list[int]:
    """The masks of seed 7 and draw 2 at rate 0.3, number by number."""
    places = [at for at, token in enumerate(some.token_ids) if token not in SPACE.special]
    of_words = policy == "whole_word"
    part, units = (0, range(some.document_words)) if of_words else (some.part, places)
    numbers = {at: hashed(some.document, part, 2, seed=7, purpose=1, index=at) for at in units}
    hidden = sorted(numbers, key=lambda at: numbers[at])[: max(1, round(0.3 * len(numbers)))]
    return [at for at in places if (some.words[at] if of_words else at) in hidden]
