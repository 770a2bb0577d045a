"""Modules give what their functions give, with every option passed on."""

import copy
import pickle

import pytest
import torch

from kdkernels import (
    AttentionMse,
    Kl,
    LinearDistilLoss,
    LinearKl,
    RelationKl,
    attention_mse,
    linear_kl,
    relation_kl,
)


def test_linear_kl_module_equals_the_function() -> None:
    torch.manual_seed(0)
    operands = [torch.randn(*shape) for shape in ((4, 3), (9, 3), (9,), (4, 5), (8, 5), (8,))]
    options = {
        "temperature": 2.0,
        "divergence": "jsd",
        "beta": 0.2,
        "column_map": torch.tensor([2, -1, 0, 5]),
        "vocab_size": 4,
        "teacher_vocab_size": 6,
        "chunk_bytes": 100,
        "impl": "torch",
    }
    call = {
        "mask": torch.tensor([True, True, False, True]),
        "row_weight": torch.rand(4),
        "divisor": 7.0,
    }
    module = LinearKl(**options)

    assert module(*operands, **call).loss == linear_kl(*operands, **options, **call).loss
    assert not list(module.parameters())
    assert not module.state_dict()


def test_attention_mse_module_equals_the_function() -> None:
    torch.manual_seed(0)
    sides = [torch.randn(2, 3, 6, 4) for _ in range(4)]
    mask = torch.rand(2, 6) > 0.3
    options = {"window": 4, "scale_s": 0.3, "scale_t": 0.8, "chunk_bytes": 100, "impl": "torch"}
    expected = attention_mse(*sides, mask, divisor=7.0, **options).loss

    assert AttentionMse(**options)(*sides, mask, divisor=7.0).loss == expected


def test_relation_kl_module_equals_the_function() -> None:
    torch.manual_seed(0)
    x_s, x_t, mask = torch.randn(2, 6, 4), torch.randn(2, 6, 8), torch.rand(2, 6) > 0.3
    expected = relation_kl(x_s, x_t, 2, mask, divisor=7.0, chunk_bytes=100, impl="torch").loss

    assert (
        RelationKl(2, chunk_bytes=100, impl="torch")(x_s, x_t, mask, divisor=7.0).loss == expected
    )


def test_a_missing_an_unknown_and_a_misplaced_option_are_refused_when_the_module_is_made() -> None:
    with pytest.raises(TypeError, match="missing a required argument: 'alpha'"):
        LinearDistilLoss()
    with pytest.raises(TypeError, match="unexpected keyword argument 'temperatur'"):
        Kl(temperatur=2.0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'divisor'"):  # of each batch
        Kl(divisor=2.0)
    with pytest.raises(TypeError, match="too many positional"):
        Kl(2.0)
    with pytest.raises(TypeError, match="Kl takes student, teacher by position; got 3 arguments"):
        Kl()(torch.zeros(2, 3), torch.zeros(2, 3), None)


def test_a_copied_and_a_pickled_module_computes_the_same_and_the_map_moves_with_it() -> None:
    torch.manual_seed(0)
    operands = [torch.randn(*shape) for shape in ((4, 3), (3, 3), (3,), (4, 5), (8, 5), (8,))]
    module = LinearKl(column_map=torch.tensor([2, -1, 0]), temperature=2.0)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert twin(*operands).loss == module(*operands).loss
        assert repr(twin) == "LinearKl(temperature=2.0, column_map=[3])"
    assert module.to("meta").column_map.is_meta


# After any graph break the compiler looks at the .grad of intermediate tensors, and warns itself about it.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_a_compiled_module_gives_the_same_gradients() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 7, requires_grad=True), torch.randn(4, 7)
    module = Kl(divergence="jsd", beta=0.2)

    def loss(z: torch.Tensor) -> torch.Tensor:
        return module(z * 2, teacher, divisor=3.0).loss

    (actual,) = torch.autograd.grad(torch.compile(loss, backend="eager")(student), student)
    (expected,) = torch.autograd.grad(loss(student), student)
    assert torch.equal(actual, expected)
