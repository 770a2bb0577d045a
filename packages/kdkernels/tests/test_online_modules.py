"""Modules give what their functions give, with every option passed on."""

import torch

from kdkernels import AttentionMse, LinearKl, RelationKl, attention_mse, linear_kl, relation_kl


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
