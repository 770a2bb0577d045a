"""Blocks of many lengths are asked in batches of like length; what is answered stands in the blocks' own order."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from teacherzoo import TeacherError
from teacherzoo.encoders.inference import MaskedBlock, predict_blocks

SIZE = 11
WEIGHT = torch.eye(SIZE)


class TableEngine:
    """Hidden states are a row of a table for each input id, so that a position's logits follow from its id alone."""

    def __init__(self) -> None:
        self.table = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(0))

    def hidden_rows(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, cells: torch.Tensor
    ) -> torch.Tensor:
        return self.table[input_ids.flatten()[cells]]

    def decoder(self) -> nullcontext[tuple[torch.Tensor, None]]:
        return nullcontext((WEIGHT, None))

    def finish(self) -> None:
        pass


def blocks(lengths: list[int]) -> list[MaskedBlock]:
    generator = np.random.default_rng(0)
    made = []
    for number, length in enumerate(lengths):
        ids = generator.integers(1, SIZE, length).astype(np.uint32)
        positions = np.flatnonzero(generator.random(length) < 0.5)
        positions = positions if len(positions) else np.array([0])
        wanted = ids[positions, None].astype(np.int64)
        made.append(MaskedBlock(ids, positions, wanted, f"block {number}"))
    return made


def test_answers_stand_in_the_order_of_the_blocks() -> None:
    engine, asked = TableEngine(), blocks([3, 9, 1, 9, 4, 2, 7])

    answers = predict_blocks(engine, asked, pad=0, token_budget=10, k=2, temperatures=(2.0,))

    shown = np.concatenate([block.input_ids[block.positions] for block in asked]).astype(np.int64)
    logprobs = engine.table[shown].log_softmax(dim=1)
    best = logprobs.topk(2, dim=1).indices.sort(dim=1).values
    assert torch.equal(answers.ids, best)
    torch.testing.assert_close(answers.logprobs, logprobs.gather(1, best))
    torch.testing.assert_close(answers.wanted_logprobs[:, 0], logprobs[range(len(shown)), shown])
    torch.testing.assert_close(answers.log_partition[:, 0], (logprobs / 2).logsumexp(dim=1))


@pytest.mark.parametrize("place", [0, -1])
def test_the_block_whose_logits_are_not_finite_is_named(place: int) -> None:
    engine, asked = TableEngine(), blocks([3, 9, 1, 9, 4])
    engine.table[0] = torch.nan
    asked[3].input_ids[asked[3].positions[place]] = 0

    with pytest.raises(TeacherError, match=r"not finite .* at block 3;"):
        predict_blocks(engine, asked, pad=0, token_budget=100, k=2, temperatures=())
