"""What teachers give to whole words: value and gradients against oracles, and where it is the loss of single pieces."""

from itertools import product
from typing import Any

import pytest
import torch

from kdkernels import linear_distil_loss
from mergedistill.recipe.recipe import Distil
from mergedistill.targets.batch import RecordedTargets, WordTargets
from mergedistill.targets.word_divergence import compare_words, word_divergence
from teacherzoo import SplitHead

V, H = 6, 4
DIVERGENCES = ("forward_kl", "reverse_kl", "jsd")


def _decoder(rows: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(  # type: ignore[return-value]  # three of them
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in ((rows, H), (V, H), (V,))
    )


def _words(
    cells: list[list[int]],
    ids: list[list[list[int]]],
    probabilities: list[list[float]],
    weights: list[float],
    piece_weights: list[float] | None = None,
) -> WordTargets:
    shares = [0.0] * 8 if piece_weights is None else piece_weights
    return WordTargets(
        cells=torch.tensor(cells),
        ids=torch.tensor(ids),
        logprobs=torch.tensor(probabilities, dtype=torch.float64).log(),
        weights=torch.tensor(weights),
        piece_weights=torch.tensor(shares, dtype=torch.float64),
    )


TWO_WORDS = _words(
    [[0, 1], [3, -1]],
    [[[1, 2], [4, 4], [-1, -1]], [[5, -1], [0, -1], [2, -1]]],
    [[0.5, 0.2, 0.0], [0.1, 0.3, 0.25]],
    [0.5, 2.0],
)


def _kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum()


def _by_enumeration(
    states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, distil: Distil
) -> torch.Tensor:
    """The student's probability of every filling of the masks, added up by outcome."""
    q = ((states @ weight.T + bias) / distil.temperature).softmax(-1)
    total = torch.zeros((), dtype=torch.float64)
    for word in range(2):
        places = [cell for cell in TWO_WORDS.cells[word].tolist() if cell >= 0]
        events = [
            tuple(ids[: len(places)])
            for ids, logprob in zip(
                TWO_WORDS.ids[word].tolist(), TWO_WORDS.logprobs[word], strict=True
            )
            if logprob > -torch.inf
        ]
        outcome = [torch.zeros((), dtype=torch.float64) for _ in range(len(events) + 1)]
        for filling in product(range(V), repeat=len(places)):
            number = events.index(filling) if filling in events else len(events)
            outcome[number] = (
                outcome[number]
                + torch.stack(
                    [q[place, piece] for place, piece in zip(places, filling, strict=True)]
                ).prod()
            )
        student = torch.stack(outcome)
        teacher = TWO_WORDS.logprobs[word][: len(events)].exp()
        teacher = torch.cat([teacher, 1 - teacher.sum()[None]])
        mean = (teacher + student) / 2
        divergence = {
            "forward_kl": lambda p=teacher, q=student: _kl(p, q),
            "reverse_kl": lambda p=teacher, q=student: _kl(q, p),
            "jsd": lambda p=teacher, q=student, m=mean: (_kl(p, m) + _kl(q, m)) / 2,
        }[distil.divergence]()
        total = total + TWO_WORDS.weights[word] * divergence
    return distil.temperature**2 * total


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_word_against_the_rest_is_the_divergence_over_all_fillings_of_its_masks(
    divergence: Any, temperature: float
) -> None:
    operands = _decoder(5)
    distil = Distil(divergence=divergence, temperature=temperature)

    computed = word_divergence(*operands, TWO_WORDS, distil)
    expected = _by_enumeration(*operands, distil)

    torch.testing.assert_close(computed, expected)
    torch.testing.assert_close(
        torch.autograd.grad(computed, operands), torch.autograd.grad(expected, operands)
    )
    assert computed > 0.01


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_gradients_are_finite_differences(divergence: Any) -> None:
    distil = Distil(divergence=divergence, temperature=2.0)
    assert torch.autograd.gradcheck(
        lambda *operands: word_divergence(*operands, TWO_WORDS, distil), _decoder(5, seed=1)
    )


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_words_of_one_piece_are_learnt_as_pieces_are(divergence: Any, temperature: float) -> None:
    states, weight, bias = operands = _decoder(3, seed=2)
    ids = torch.tensor([[1, 3], [0, 5], [2, 4]])
    logprobs = torch.tensor([[0.6, 0.3], [0.2, 0.1], [0.5, 0.05]], dtype=torch.float64).log()
    partition = torch.tensor([0.4, 0.7, 0.5], dtype=torch.float64)
    distil = Distil(divergence=divergence, temperature=temperature)
    pieces = linear_distil_loss(
        states, weight, bias, ids[:, 0], ids, logprobs, alpha=1.0, temperature=temperature, divergence=divergence,
        log_partition=None if temperature == 1.0 else partition, divisor=1.0,
    )  # fmt: skip
    softened = logprobs / temperature - (partition[:, None] if temperature != 1.0 else 0)
    as_words = WordTargets(
        cells=torch.arange(3)[:, None],
        ids=ids[:, :, None],
        logprobs=softened,
        weights=torch.ones(3),
        piece_weights=torch.zeros(3),
    )

    words = word_divergence(*operands, as_words, distil)

    torch.testing.assert_close(words, pieces.loss)
    torch.testing.assert_close(
        torch.autograd.grad(words, operands), torch.autograd.grad(pieces.loss, operands)
    )


def test_shares_divide_the_teachers_part_and_leave_the_text_its_own() -> None:
    states, weight, bias = operands = _decoder(4, seed=3)
    labels = torch.tensor([1, 2, -100, 5])
    ids = torch.tensor([[1, 0], [2, 3], [0, 1], [5, 4]])
    logprobs = torch.tensor([[0.5, 0.2]] * 4, dtype=torch.float64).log()
    shares = torch.tensor([0.75, 0.75, 1.0, 0.0], dtype=torch.float64)
    words = _words([[0, 1]], [[[1, 2]]], [[0.4]], [0.25], shares.tolist())
    targets = RecordedTargets(
        topk_ids=ids, topk_logprobs=logprobs, tail=torch.full((4,), 0.3), words=words
    )
    distil = Distil(alpha=0.6)
    head: Any = SplitHead(encoder=None, transform=None, weight=weight, bias=bias)  # type: ignore[arg-type]  # unused

    loss, hard, soft, rows = compare_words(states, head, labels, targets, distil, None)

    q = (states @ weight.T + bias).log_softmax(-1)
    counted = [0, 1, 3]
    cross_entropy = -torch.stack([q[row, labels[row]] for row in counted]).mean()
    outcomes = torch.cat([logprobs.exp(), torch.full((4, 1), 0.3, dtype=torch.float64)], dim=1)
    student = q.exp().gather(1, ids)
    student = torch.cat([student, 1 - student.sum(1, keepdim=True)], dim=1)
    by_pieces = torch.stack([shares[row] * _kl(outcomes[row], student[row]) for row in counted])
    word = (q[0, 1] + q[1, 2]).exp()
    binary = torch.stack([word, 1 - word])
    by_word = 0.25 * _kl(torch.tensor([0.4, 0.6], dtype=torch.float64), binary)
    expected_soft = (by_pieces.sum() + by_word) / 3
    assert rows == 3
    torch.testing.assert_close(hard, cross_entropy.detach())
    torch.testing.assert_close(soft, expected_soft.detach())
    expected = 0.4 * cross_entropy + 0.6 * expected_soft
    torch.testing.assert_close(
        torch.autograd.grad(loss, operands), torch.autograd.grad(expected, operands)
    )


def test_a_student_like_its_teacher_has_nothing_to_learn_of_a_word() -> None:
    states, weight, bias = _decoder(2, seed=4)
    q = (states @ weight.T + bias).log_softmax(-1).detach()
    words = WordTargets(
        cells=torch.tensor([[0, 1]]),
        ids=torch.tensor([[[3, 1]]]),
        logprobs=(q[0, 3] + q[1, 1])[None, None],
        weights=torch.ones(1),
        piece_weights=torch.zeros(2),
    )

    value = word_divergence(states, weight, bias, words, Distil())

    torch.testing.assert_close(value.detach(), torch.zeros((), dtype=torch.float64), atol=1e-9, rtol=0)  # fmt: skip
    (gradient,) = torch.autograd.grad(value, states)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-9, rtol=0)
