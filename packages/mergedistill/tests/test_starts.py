from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from mergedistill.errors import StageError
from mergedistill.recipe.recipe import Recipe
from mergedistill.recipe.stages import ensembles_or_refuse, stages
from mergedistill.run.run import run
from mergedistill.run.status import status
from mergedistill.student.initialise import new_student
from teacherzoo.encoders.families import Architecture
from teacherzoo.pretrain.shapes import Shape, build_masked_lm
from vocabmerge import VocabularyError, load_map

Recipes = Callable[..., Recipe]
SHAPE = {"width": 32, "heads": 2, "feed_forward": 48}


@pytest.fixture(scope="module")
def models(town: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained teachers of three layers, with the tokenizer of `wp`."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("models")
    tokenizer = AutoTokenizer.from_pretrained(town / "wp")
    for seed, architecture in enumerate(get_args(Architecture)):
        shape = Shape(architecture=architecture, layers=3, positions=64, **SHAPE)
        model = build_masked_lm(shape, tokenizer, seed=seed)
        with torch.no_grad():
            for parameter in model.parameters():  # norms and biases too
                parameter += 0.1 * torch.randn_like(parameter)
        model.save_pretrained(folder / architecture)
        tokenizer.save_pretrained(folder / architecture)
    return folder


def _recipe(
    recipe_of: Recipes, teachers: list[Path], student: dict[str, Any], **more: object
) -> Recipe:
    """The first teacher teaches the first language, another the second, or the first both."""
    last = len(teachers) - 1
    taught = [
        {
            "teacher": str(teacher),
            "languages": ["qav", "qag"][number : None if number == last else 1],
        }
        for number, teacher in enumerate(teachers)
    ]
    return recipe_of(teachers=taught, student=student, **more)


def _start(recipe: Recipe) -> tuple[Any, Path]:
    run(recipe, until="vocabulary")
    vocabulary = stages(recipe)["vocabulary"].folder
    return new_student(recipe, ensembles_or_refuse(recipe), vocabulary).eval(), vocabulary


@pytest.mark.parametrize(
    ("architecture", "take"),
    [*((name, "even") for name in get_args(Architecture)), ("modernbert", "bottom")],
)
def test_a_student_from_a_teachers_layers_is_the_teacher_without_the_others(
    models: Path, recipe_of: Recipes, architecture: str, take: str
) -> None:
    from transformers import AutoModelForMaskedLM

    recipe = _recipe(
        recipe_of,
        [models / architecture],
        {"start": "teacher", "architecture": architecture, "layers": 2, "take": take, **SHAPE},
        vocabulary={
            "convention": "roberta"
        },  # its padding has another id, from which RoBERTa counts positions
    )
    student, vocabulary = _start(recipe)
    teacher = AutoModelForMaskedLM.from_pretrained(models / architecture).eval()
    if architecture == "albert":  # all of its layers are one
        teacher.config.num_hidden_layers = 2
    for module in teacher.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == 3:
            del module[1 if take == "even" else 2]
    rows = torch.from_numpy(
        load_map(vocabulary / "maps" / f"{architecture}.safetensors").one_to_one()
    )
    ids = torch.arange(5, 25).reshape(2, 10)

    with torch.no_grad():
        expected = teacher(ids).logits
        got = student(rows[ids]).logits[:, :, rows]

    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert student.config.num_hidden_layers == 2


@pytest.mark.parametrize("method", ["copy", "mean", "subword", "focus", "omp", "procrustes"])
def test_carried_rows_are_the_teachers_where_only_one_has_the_piece(
    models: Path, town: Path, recipe_of: Recipes, method: str
) -> None:
    from transformers import AutoModelForMaskedLM

    recipe = _recipe(
        recipe_of,
        [models / "bert", town / "foreign"],
        {"start": "carried", "carry": method, "layers": 1, "width": 32},
    )
    student, vocabulary = _start(recipe)
    first = load_map(vocabulary / "maps" / "bert.safetensors").one_to_one()
    second = load_map(vocabulary / "maps" / "foreign.safetensors").one_to_one()
    alone = [row for row in range(len(first)) if first[row] >= 0 and first[row] not in second]
    teacher = AutoModelForMaskedLM.from_pretrained(models / "bert")

    mine = student.get_input_embeddings().weight[first[alone]]

    assert len(alone) > 20
    torch.testing.assert_close(mine, teacher.get_input_embeddings().weight[alone])


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (
            {"start": "carried", "layers": 1, "width": 64},
            "student.width is 64, but the embeddings of bert are 32 wide; set student.width: 32",
        ),
        (
            {"start": "teacher", "layers": 1, **SHAPE},
            "student.architecture is 'modernbert', but bert is a 'bert'",
        ),
        (
            {"start": "teacher", "architecture": "bert", "layers": 1, "width": 64},
            "set student.width: 32, student.heads: 2, student.feed_forward: 48.",
        ),
        (
            {"start": "teacher", "teacher": "distilbert", "architecture": "distilbert", "layers": 1}
            | SHAPE
            | {"feed_forward": 64},
            "set student.feed_forward: 48.",
        ),
        (
            {"start": "teacher", "architecture": "bert", "layers": 4, **SHAPE},
            "student.layers is 4, but bert has only 3",
        ),
        (
            {"start": "teacher", "teacher": "modernbert", "layers": 1, "take": "last", **SHAPE},
            "set student.take: even or bottom",
        ),
    ],
)
def test_a_misfit_is_refused_in_a_sentence_before_any_text_is_merged(
    models: Path, recipe_of: Recipes, student: dict[str, Any], message: str
) -> None:
    other = student.get("teacher", "modernbert")
    recipe = _recipe(recipe_of, [models / "bert", models / other], student)

    with pytest.raises(StageError) as caught:
        run(recipe)

    assert message in str(caught.value)
    assert not status(recipe)["vocabulary"]


@pytest.mark.parametrize(("architecture", "longest"), [("bert", 65), ("roberta", 64)])
@pytest.mark.parametrize("online", [False, True])
def test_what_a_teacher_cannot_be_asked_is_refused_before_anything_runs(
    models: Path, recipe_of: Recipes, architecture: str, longest: int, online: bool
) -> None:
    def refused(**distil: Any) -> str:
        recipe = _recipe(
            recipe_of,
            [models / architecture],
            {"layers": 1, "width": 32},
            distil={"block_length": 32, "online": online, **distil},
        )
        with pytest.raises(StageError) as caught:
            run(recipe, until="rank")
        assert not status(recipe)["rank"]
        return str(caught.value)

    assert refused(block_length=80) == (
        f"distil.block_length is 80, but {architecture} reads at most {longest} tokens; set no more than that."
    )
    assert refused(k=1000).startswith(f"distil.k is 1,000, but {architecture} has only ")


def test_one_teacher_alone_cannot_lend_rows_to_itself(models: Path, recipe_of: Recipes) -> None:
    recipe = _recipe(
        recipe_of, [models / "bert"], {"start": "carried", "carry": "omp", "layers": 1, "width": 32}
    )

    with pytest.raises(VocabularyError, match="omp"):
        _start(recipe)
