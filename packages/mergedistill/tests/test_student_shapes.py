"""Whatever shape a recipe may state is one that its architecture can have."""

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mergedistill.errors import RecipeError
from mergedistill.recipe.read import read_recipe
from mergedistill.recipe.recipe import Recipe
from teacherzoo.encoders.families import Architecture
from teacherzoo.pretrain.shapes import Shape, build_masked_lm

_PIECES = 24


class _Tokenizer:
    """As much of a tokenizer as building a model asks for."""

    pad_token_id, cls_token_id, sep_token_id = 1, 2, 3

    def __len__(self) -> int:
        return _PIECES


def _stated(student: dict[str, Any], **distil: Any) -> dict[str, Any]:
    return {
        "out": "run",
        "languages": {"de": "de.txt"},
        "teachers": [{"teacher": "a/x", "languages": ["de"]}],
        "student": student,
        "distil": distil,
    }


SHAPES = {
    "layers": st.integers(0, 2),
    "width": st.integers(1, 40),
    "heads": st.none() | st.integers(1, 5),
    "feed_forward": st.none() | st.integers(1, 5),
    "positions": st.integers(8, 12),
    "block_length": st.integers(8, 13),
}


@pytest.mark.parametrize("architecture", get_args(Architecture))
@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.fixed_dictionaries(SHAPES))
def test_a_shape_is_refused_or_learns_from_the_longest_block(
    architecture: str, shape: dict[str, Any]
) -> None:
    length = shape.pop("block_length")
    try:
        recipe = Recipe.model_validate(
            _stated({"architecture": architecture, **shape}, block_length=length)
        )
    except ValueError:
        return
    model = build_masked_lm(recipe.student.shape, _Tokenizer(), seed=0)
    ids = torch.randint(4, _PIECES, (2, length), generator=torch.Generator().manual_seed(0))
    ids[1, length // 2 :] = _Tokenizer.pad_token_id

    loss = model(
        input_ids=ids, attention_mask=(ids != _Tokenizer.pad_token_id).long(), labels=ids
    ).loss
    loss.backward()

    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    assert torch.isfinite(loss)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("architecture", get_args(Architecture))
def test_common_shapes_are_not_refused(architecture: str) -> None:
    for width, heads in ((32, None), (32, 4), (768, 12), (384, None), (192, 3)):
        student = {"architecture": architecture, "width": width, "heads": heads}
        assert Recipe.model_validate(_stated(student)).student.shape.width == width


@pytest.mark.parametrize(
    ("student", "distil", "message"),
    [
        (
            {"width": 33},
            {},
            "student: width 33 shared by 1 heads makes heads of 33, and modernbert",
        ),
        ({"width": 36, "heads": 4}, {}, "choose a width that is a multiple of 8, or other heads"),
        ({"architecture": "bert", "width": 33, "heads": 2}, {}, "cannot be shared by 2 heads"),
        ({"layers": 0}, {}, "student.layers: input should be greater than or equal to 1, got 0"),
        ({"architecture": "mpnet"}, {}, "student.architecture: input should be"),
        ({"positions": 64}, {}, "distil.block_length: the student reads at most 64 tokens"),
        ({}, {"block_length": 513}, "at most 512 tokens (student.positions), got blocks of 513"),
        ({"start": "teacher", "positions": 64}, {"block_length": 8}, "student: positions: with"),
    ],
)
def test_what_an_architecture_cannot_be_is_one_sentence_with_the_key(
    tmp_path: Path, student: dict[str, Any], distil: dict[str, Any], message: str
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(_stated(student, **distil)))

    with pytest.raises(RecipeError) as caught:
        read_recipe(file)

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("width", "cuda", "attention"), [(32, False, "eager"), (320, False, "sdpa"), (32, True, "sdpa")]
)
def test_students_attend_with_fused_kernels_where_these_pay(
    monkeypatch: pytest.MonkeyPatch, width: int, cuda: bool, attention: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: None)

    model = build_masked_lm(Shape(layers=1, width=width), _Tokenizer(), seed=0)

    assert model.config._attn_implementation == attention
