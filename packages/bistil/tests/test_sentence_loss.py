import math
from typing import Any

import numpy as np
import pytest
import torch

from bistil.encoders.capture import Activations
from bistil.errors import ExtractError, ModelError
from bistil.losses.outputs import LossContext, ModelOutputs
from bistil.losses.terms.embedding import embedding_loss
from bistil.losses.terms.parallel import parallel_loss
from bistil.losses.terms.similarity import similarity_loss
from bistil.losses.weights import PRESETS, LossWeights


def _outputs(vectors: Any) -> ModelOutputs:
    return ModelOutputs(activations=Activations(), vectors=torch.as_tensor(vectors))


def _vectors(rows: int, width: int, seed: int) -> Any:
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32) * 3


def _distance(student: Any, teacher: Any) -> float:
    """Pair by pair, in the words of the formula."""
    losses = []
    for s, t in zip(student.astype(float), teacher.astype(float), strict=True):
        cosine = sum(a * b for a, b in zip(s, t, strict=True)) / math.sqrt((s**2).sum() * (t**2).sum())  # fmt: skip
        losses.append(1 - cosine + ((s - t) ** 2).sum() / (t**2).sum())
    return sum(losses) / len(losses)


@pytest.mark.parametrize("shape", [(1, 3), (5, 7), (8, 32)])
def test_embedding_is_cosine_and_relative_mean_square(shape: tuple[int, int]) -> None:
    student, teacher = _vectors(*shape, 0), _vectors(*shape, 1)

    loss = embedding_loss(_outputs(student), _outputs(teacher), LossContext())

    assert float(loss) == pytest.approx(_distance(student, teacher), rel=1e-5)
    assert float(embedding_loss(_outputs(teacher), _outputs(teacher), LossContext())) < 1e-6
    doubled = embedding_loss(_outputs(2 * student), _outputs(2 * teacher), LossContext())
    assert float(doubled) == pytest.approx(float(loss), rel=1e-5)


def test_vectors_of_other_dimension_are_refused() -> None:
    with pytest.raises(ModelError, match="3 dimensions and the teacher's 4"):
        embedding_loss(_outputs(_vectors(2, 3, 0)), _outputs(_vectors(2, 4, 0)), LossContext())


@pytest.mark.parametrize(("rows", "width", "temperature"), [(2, 3, 0.05), (7, 5, 0.05), (9, 16, 1.0)])  # fmt: skip
def test_similarity_is_the_divergence_of_neighbours(
    rows: int, width: int, temperature: float
) -> None:
    student, teacher = _vectors(rows, width, 2), _vectors(rows, width, 3)
    context = LossContext(settings={"similarity_temperature": temperature})

    loss = similarity_loss(_outputs(student), _outputs(teacher), context)

    def neighbours(vectors: Any, row: int) -> list[float]:
        unit = vectors.astype(float) / np.linalg.norm(vectors.astype(float), axis=1)[:, None]
        powers = [math.exp(unit[row] @ unit[other] / temperature) for other in range(rows) if other != row]  # fmt: skip
        return [power / sum(powers) for power in powers]

    expected = 0.0
    for row in range(rows):
        for p, q in zip(neighbours(teacher, row), neighbours(student, row), strict=True):
            expected += p * math.log(p / q) / rows
    assert float(loss) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_similarity_does_not_see_a_turn_of_the_whole_space() -> None:
    vectors = torch.as_tensor(_vectors(6, 8, 4), dtype=torch.float64)
    turn = torch.linalg.qr(torch.as_tensor(_vectors(8, 8, 5), dtype=torch.float64))[0]
    context = LossContext(settings={"similarity_temperature": 0.05})

    assert float(similarity_loss(_outputs(vectors @ turn), _outputs(vectors), context)) < 1e-12
    assert float(embedding_loss(_outputs(vectors @ turn), _outputs(vectors), context)) > 0.1


def test_a_batch_of_one_sentence_has_no_neighbours_and_no_gradient() -> None:
    vectors = torch.ones(1, 4, requires_grad=True)
    context = LossContext(settings={"similarity_temperature": 0.05})

    loss = similarity_loss(_outputs(vectors), _outputs(torch.ones(1, 4)), context)
    loss.backward()

    assert float(loss.detach()) == 0
    assert vectors.grad is not None
    assert not vectors.grad.any()


def test_parallel_draws_both_sides_to_the_teachers_vector_of_the_source() -> None:
    sources, targets, teacher = (_vectors(5, 7, seed) for seed in (6, 7, 8))

    loss = parallel_loss(
        _outputs(np.concatenate([sources, targets])), _outputs(teacher), LossContext()
    )

    expected = _distance(sources, teacher) + _distance(targets, teacher)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_terms_are_parted_into_those_on_text_and_those_on_pairs() -> None:
    mixed = PRESETS["sentences"].replace(parallel=2)

    assert dict(mixed.on_text() or {}) == dict(PRESETS["sentences"])
    assert dict(mixed.on_pairs() or {}) == {"parallel": 2}
    assert PRESETS["bistil"].on_pairs() is None
    assert LossWeights.only(parallel=1).on_text() is None
    with pytest.raises(ExtractError, match="similarity_temperature must be greater than 0"):
        LossWeights(similarity_temperature=0)
