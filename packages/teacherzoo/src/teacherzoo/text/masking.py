"""Masks that anyone can draw again: from the seed, the content and the draw, never from a worker's random state.

Every random number is a hash: `mix(key + (i + 1) * golden)` with the finaliser of SplitMix64, where the key folds in seed,
document digest, block, draw and purpose. So the student that reads recorded signals needs no stored mask, the same words are
drawn for two teachers with different tokenizers (see `words_of_tokens` for tokens of several words), and neither order nor
process matters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from teacherzoo.errors import RecordError
from teacherzoo.text.blocks import Block

Policy = Literal["bert", "whole_word"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
# Purposes: streams that never share a number.
_CHOOSE, _CHANGE, _REPLACE, _SAMPLE = (np.array([tag], dtype=np.uint64) for tag in (1, 2, 3, 4))


@dataclass(frozen=True, kw_only=True)
class Masking:
    """How tokens are hidden from the teacher and from the student alike.

    Args:
        policy: `bert` chooses tokens one by one in each block; `whole_word` chooses words of the document, alike for
            every tokenizer, with all tokens that end in them. In scripts without spaces a word is a character, in Tibetan a syllable.
        rate: share of tokens (or words) chosen, at least one where there is any.
        mask_share: share of the chosen that become the mask token.
        random_share: share of the chosen that become a random ordinary token; the rest stay as they are.
        seed: of all draws.

    Raises:
        RecordError: for shares that are none.
    """

    policy: Policy = "bert"
    rate: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.policy not in ("bert", "whole_word"):
            raise RecordError(f"policy must be 'bert' or 'whole_word', got {self.policy!r}.")
        if not 0 < self.rate <= 1:
            raise RecordError(f"The masking rate must be in (0, 1], got {self.rate!r}.")
        if min(self.mask_share, self.random_share) < 0 or self.mask_share + self.random_share > 1:
            raise RecordError(
                "mask_share and random_share must be at least 0 and together at most 1, "
                f"got {self.mask_share!r} and {self.random_share!r}."
            )
        if not 0 <= self.seed < 2**63:
            raise RecordError(f"seed must be in [0, 2^63), got {self.seed!r}.")

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class TokenSpace:
    """The ids that masking must know.

    Attributes:
        mask: id of the mask token; -1 where there is none.
        pad: id that fills up batches.
        unknown: id of unknown pieces, or None; such positions are never masked, for they have nothing to teach.
        special: ids that are never masked and never drawn at random, ascending.
        size: ids in use, 0 to size - 1.
    """

    mask: int
    pad: int
    unknown: int | None
    special: tuple[int, ...]
    size: int

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self) | {"special": list(self.special)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TokenSpace:
        """The inverse of `to_json`."""
        return cls(**{**values, "special": tuple(values["special"])})


def masked_positions(
    block: Block, masking: Masking, *, space: TokenSpace, draw: int
) -> NDArray[np.int64]:
    """The positions of `block` that are hidden in draw number `draw`, ascending; see `mask_blocks`."""
    return mask_blocks([block], masking, space=space, draw=draw)[0]


def mask_blocks(
    blocks: Sequence[Block], masking: Masking, *, space: TokenSpace, draw: int
) -> list[NDArray[np.int64]]:
    """For each block the positions that are hidden in draw number `draw`, ascending; empty where nothing can be.

    `bert`: the round(rate · n) tokens of the block with the smallest numbers. `whole_word`: the tokens of the round(rate · W)
    words of the document with the smallest numbers; a block may have none of them.
    """
    whole_word = masking.policy == "whole_word"
    keys = mask_keys(
        b"".join(block.document for block in blocks),
        np.array([0 if whole_word else block.part for block in blocks]),
        np.full(len(blocks), draw),
        seed=masking.seed,
        purpose=_CHOOSE,
    )
    words = np.concatenate([block.words for block in blocks])
    # Special tokens include the unknown piece.
    special = np.isin(np.concatenate([block.token_ids for block in blocks]), space.special)
    hidden = (words >= 0) & ~special
    ends = np.cumsum([len(block.words) for block in blocks])
    if whole_word:
        previous, chosen = None, np.zeros(0, dtype=bool)
        for block, key, here in zip(blocks, keys, np.split(hidden, ends[:-1]), strict=True):
            if key != previous:  # once for all blocks of a document: it may be a book
                numbers = hashed(key, np.arange(block.document_words))
                chosen = np.zeros(block.document_words, dtype=bool)
                chosen[_smallest(numbers, masking.rate)] = True
                previous = key
            here &= chosen[block.words]
    else:
        candidates = np.flatnonzero(hidden)
        owners = np.searchsorted(ends, candidates, side="right")
        starts = np.concatenate([[0], ends[:-1]])
        numbers = hashed(keys[owners], candidates - starts[owners])
        counts = np.bincount(owners, minlength=len(blocks))
        turns = np.arange(len(candidates)) - np.repeat(np.cumsum(counts) - counts, counts)
        first = turns < np.repeat(_chosen(counts, masking.rate), counts)
        hidden[candidates[np.lexsort((numbers, owners))[~first]]] = False
    return [np.flatnonzero(here) for here in np.split(hidden, ends[:-1])]


def corrupt(
    gold: NDArray[np.uint32],
    positions: NDArray[np.int64],
    *,
    documents: bytes,
    parts: NDArray[np.int64],
    draws: NDArray[np.int64],
    counts: NDArray[np.int64],
    masking: Masking,
    space: TokenSpace,
) -> NDArray[np.uint32]:
    """What stands in the input at masked positions: the mask token, a random token or the gold one.

    Args:
        gold: [N], ids that stand there in the text.
        positions: [N], in their blocks, block by block.
        documents: digests of the R blocks' documents, one behind the other.
        parts: [R], the blocks in their documents.
        draws: [R].
        counts: [R], masked positions of each block; they sum to N.
        masking: policy and seed.
        space: of the ids.

    Returns:
        [N] ids.
    """
    keys = mask_keys(documents, parts, draws, seed=masking.seed, purpose=_CHANGE)
    change = unit(hashed(np.repeat(keys, counts), positions))
    keys = mask_keys(documents, parts, draws, seed=masking.seed, purpose=_REPLACE)
    special = np.asarray(space.special, dtype=np.int64)
    number = unit(hashed(np.repeat(keys, counts), positions))
    drawn = (number * (space.size - len(special))).astype(np.int64)
    # The n-th ordinary id lies behind all special ids with at most n ordinary ones before them.
    replacement = drawn + np.searchsorted(special - np.arange(len(special)), drawn, side="right")
    return np.select(
        [change < masking.mask_share, change < masking.mask_share + masking.random_share],
        [np.uint32(space.mask), replacement.astype(np.uint32)],
        gold,
    ).astype(np.uint32)


def sample_keys(
    positions: NDArray[np.int64],
    *,
    documents: bytes,
    parts: NDArray[np.int64],
    draws: NDArray[np.int64],
    counts: NDArray[np.int64],
    seed: int,
) -> NDArray[np.uint64]:
    """[N] keys of masked positions, from which ids are drawn (see `teacherzoo.encoders.samples`).

    Args:
        positions: [N], in their blocks, block by block.
        documents: of the R blocks, as in `corrupt`.
        parts: of the R blocks, as in `corrupt`.
        draws: of the R blocks, as in `corrupt`.
        counts: of the R blocks, as in `corrupt`.
        seed: of the masks.
    """
    keys = mask_keys(documents, parts, draws, seed=seed, purpose=_SAMPLE)
    return hashed(np.repeat(keys, counts), positions)


def mask_keys(
    documents: bytes,
    parts: NDArray[np.int64],
    draws: NDArray[np.int64],
    *,
    seed: int,
    purpose: NDArray[np.uint64],
) -> NDArray[np.uint64]:
    """[N] keys from N digests of 16 bytes, blocks and draws."""
    halves = np.frombuffer(documents, dtype="<u8").reshape(-1, 2)
    key = _mix(halves[:, 0] ^ _mix(np.array([seed], dtype=np.uint64) + _GOLDEN))
    key = _mix(key + halves[:, 1])
    key = _mix(key + ((parts.astype(np.uint64) << np.uint64(24)) | draws.astype(np.uint64)))
    return _mix(key + purpose * _GOLDEN)


def hashed(keys: NDArray[np.uint64], index: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The numbers of keys and indices, whose shapes broadcast."""
    return _mix(keys + (index.astype(np.uint64) + np.uint64(1)) * _GOLDEN)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def unit(numbers: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Numbers in [0, 1)."""
    return (numbers >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _smallest(numbers: NDArray[np.uint64], rate: float) -> NDArray[np.int64]:
    """Indices of the round(rate · n) smallest numbers, at least one."""
    count = int(_chosen(np.array(len(numbers)), rate))
    return np.argsort(numbers, kind="stable")[:count]


def _chosen(counts: NDArray[np.int64], rate: float) -> NDArray[np.int64]:
    """round(rate · n), at least 1."""
    return np.maximum(1, np.rint(rate * counts)).astype(np.int64)
