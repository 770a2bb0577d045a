import json
from pathlib import Path

import pytest
import yaml
from toyworld import World

from mergedistill.recipe.read import read_recipe
from mergedistill.recipe.recipe import Recipe
from mergedistill.run.run import run
from mergedistill.run.status import status
from teacherzoo import Corpus
from teacherzoo.pretrain.config import PretrainingConfig
from teacherzoo.pretrain.pretrain import pretrain_teacher


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two languages, a teacher of each in another tokenizer family, and a recipe."""
    folder = tmp_path_factory.mktemp("world")
    toy = World(seed=0)
    languages = toy.languages[:2]
    for language, family in zip(languages, ("wordpiece", "unigram"), strict=True):
        file = folder / f"{language}.txt"
        file.write_text("\n".join(toy.sentences(language, 600)) + "\n", encoding="utf-8")
        pretrain_teacher(
            [Corpus(language, file, held_out_share=0.05)],
            folder / f"teacher-{language}",
            config=PretrainingConfig(
                family=family, vocabulary=300, layers=1, width=32, steps=30, batch=16, length=32
            ),
        )
    recipe = {
        "out": "run",
        "languages": {language: f"{language}.txt" for language in languages},
        "teachers": [
            {"teacher": f"teacher-{language}", "languages": [language]} for language in languages
        ],
        "held_out_share": 0.05,
        "vocabulary": {"normalizer": "keep"},
        "student": {"layers": 1, "width": 32},
        "distil": {"block_length": 32, "temperature": 2.0},
        "train": {"steps": 12, "tokens": 512, "checkpoint_every": 4},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def _altered(world: Path, name: str, **changes: object) -> Path:
    stated = yaml.safe_load((world / "recipe.yaml").read_text())
    for key, value in changes.items():
        stated[key] = {**stated[key], **value} if isinstance(value, dict) else value
    stated["out"] = name
    file = world / f"{name}.yaml"
    file.write_text(yaml.safe_dump(stated))
    return file


def test_a_recipe_becomes_a_stock_student_folder(world: Path) -> None:
    from huggingface_hub import ModelCard
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    recipe = read_recipe(world / "recipe.yaml")

    student = run(recipe)

    model = AutoModelForMaskedLM.from_pretrained(student)
    tokenizer = AutoTokenizer.from_pretrained(student)
    assert type(model).__name__ == "ModernBertForMaskedLM"
    assert model.config.vocab_size == len(tokenizer)
    for language in recipe.languages:
        own = AutoTokenizer.from_pretrained(student / "languages" / language)
        teacher = AutoTokenizer.from_pretrained(world / f"teacher-{language}")
        text = next(iter(Corpus(language, world / f"{language}.txt").documents())).text
        assert len(own(text).input_ids) == len(teacher(text).input_ids)
    card = (student / "README.md").read_text()
    assert "## Limits" in card
    assert "that cuts text exactly as its teacher did, into this model's ids" in card
    assert (student / "curves.png").stat().st_size > 1000
    scores = json.loads((student / "run.json").read_text())["held_out"]
    assert set(scores) == set(recipe.languages)
    assert all(0 < its["student"] < 12 for its in scores.values())
    data = ModelCard(card).data
    assert data.language == list(recipe.languages)
    assert "\nbase_model" not in card  # its teachers lie on this machine
    assert {
        (result.dataset_config, result.metric_type): result.metric_value
        for result in data.eval_results
    } == {
        (language, metric): figures[name]
        for language, figures in scores.items()
        for metric, name in (("bits_per_byte", "student"), ("accuracy", "student_accuracy"))
    }


def test_a_card_says_how_many_pieces_of_a_teacher_the_limit_left_out(world: Path) -> None:
    from tokenizers import Tokenizer

    limit = {"max_size": 360}
    recipe = read_recipe(_altered(world, "limited", vocabulary=limit, distil={"max_lost": 1.0}, train={"steps": 1}))  # fmt: skip

    student = run(recipe)

    left_out = []
    for language in recipe.languages:
        own = Tokenizer.from_file(str(student / "languages" / language / "tokenizer.json"))
        teacher = Tokenizer.from_file(str(world / f"teacher-{language}" / "tokenizer.json"))
        special = {token.content for token in teacher.get_added_tokens_decoder().values()}
        missing = teacher.get_vocab().keys() - special - own.get_vocab().keys()
        left_out.append(f"{len(missing)} of teacher-{language}")
    card = (student / "README.md").read_text()
    assert (
        f"but for pieces that `vocabulary.max_size` left out ({', '.join(left_out)}), into" in card
    )


def test_a_second_run_does_nothing_and_a_changed_recipe_only_what_depends_on_it(
    world: Path,
) -> None:
    recipe = read_recipe(_altered(world, "again"))
    run(recipe)
    before = _written(recipe)

    run(recipe)

    assert _written(recipe) == before
    changed = read_recipe(_altered(world, "again", distil={"alpha": 0.2}))
    assert [name for name, done in status(changed).items() if not done] == ["train", "card"]
    deeper = read_recipe(_altered(world, "again", distil={"k": 4}))
    assert [name for name, done in status(deeper).items() if not done] == [
        "record",
        "train",
        "card",
    ]


def _written(recipe: Recipe) -> dict[Path, int]:
    """All files of a run but the digests of its inputs, which are remembered when those have lain still for a while."""
    return {
        path: path.stat().st_mtime_ns
        for path in Path(recipe.out).rglob("*")
        if path.is_file() and path.name != "digests.json"
    }


def test_a_long_text_is_cut_to_what_the_student_reads(world: Path) -> None:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    shape = {"architecture": "bert", "positions": 40}  # its teachers read 512
    recipe = read_recipe(_altered(world, "short", student=shape, train={"steps": 1}))

    student = run(recipe)

    model = AutoModelForMaskedLM.from_pretrained(student)
    language = next(iter(recipe.languages))
    text = " ".join((world / f"{language}.txt").read_text(encoding="utf-8").split()[:100])
    for folder in (student, student / "languages" / language):
        inputs = AutoTokenizer.from_pretrained(folder)(text, truncation=True, return_tensors="pt")
        assert model(**inputs).logits.shape[1] == 40


class StopError(Exception):
    pass


@pytest.mark.slow
def test_a_run_cut_off_in_training_ends_in_the_same_student(world: Path) -> None:
    def stop(done: int, total: int, what: str) -> None:
        if what.startswith("training") and done == 10:
            raise StopError

    whole = run(read_recipe(_altered(world, "whole")))
    cut = read_recipe(_altered(world, "cut"))
    with pytest.raises(StopError):
        run(cut, watch=stop)
    assert not (Path(cut.out) / "student").exists()
    steps: list[int] = []

    def count(done: int, total: int, what: str) -> None:
        if what.startswith("training"):
            steps.append(done)

    # How it logs and loads may change on the way.
    arguments = {"arguments": {"logging_steps": 3, "dataloader_num_workers": 1}}
    resumed = run(read_recipe(_altered(world, "cut", train=arguments)), watch=count)

    assert steps[0] == 9  # behind the checkpoint of step 8
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()
