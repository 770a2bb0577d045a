"""A teacher tuned on several tasks together: whose turn it is, what is learnt, what is kept, and what an extraction says of it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from bistil import ExtractError, Extraction, TeacherTasks, extract
from bistil.cli.app import app
from bistil.multitask import tune
from bistil.multitask.data import MixedBatches, read_mixture, turns
from bistil.multitask.tune import MultiTaskModel, tuned_teacher
from teacherzoo.progress import no_progress
from xeval import Protocol, XevalError, task_of
from xeval.task_templates.treebank import UPOS

SHORT = Extraction(steps=2, batch=4, length=24, held_out_share=0.1, precision="float32")
BRIEF = Protocol(steps=40, batch_size=8, learning_rate=1e-3, weight_decay=0.0, evaluate_every=20, precision="float32")  # fmt: skip


class StopError(Exception):
    pass


@pytest.fixture(scope="module")
def asked(tasks: Path) -> TeacherTasks:
    return TeacherTasks(tasks=("pos", "topic"), data=tasks, protocol=BRIEF)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """What the tuning of the student's teacher said, and the model whose heads are dropped."""
    return {"words": []}


@pytest.fixture(scope="module")
def student(sentence_teacher: Path, texts: dict[str, Path], asked: TeacherTasks, cache: Path, told: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:  # fmt: skip
    def noted(encoder: Any, heads: Any) -> MultiTaskModel:
        told["model"] = MultiTaskModel(encoder, heads)
        return told["model"]

    corpora = {language: texts[language] for language in ("en", "sw")}
    out = tmp_path_factory.mktemp("out") / "student"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tune, "MultiTaskModel", noted)
        return extract(
            sentence_teacher, corpora, out, source="en", targets=["sw"], extraction=SHORT, teacher_tasks=asked, cache_dir=cache,
            watch=lambda _done, _total, what: told["words"].append(what),
        )  # fmt: skip


def test_steps_by_size_are_of_a_task_as_often_as_it_has_examples() -> None:
    order = turns([900, 100], 4000, "size", 0)

    assert order.count(1) == pytest.approx(400, abs=60)  # three standard deviations
    assert order != turns([900, 100], 4000, "size", 1)


def test_a_step_is_of_one_task_and_every_example_has_its_turn_before_any_has_a_second(
    asked: TeacherTasks, sentence_teacher: Path
) -> None:
    from xeval.encoder import open_tokenizer
    from xeval.task_templates.word_tokenization import Pieces

    mixture = read_mixture(replace(asked, protocol=replace(BRIEF, steps=20)))
    pieces = Pieces(open_tokenizer(str(sentence_teacher)), 40)
    encoded = [task.task.encode(pieces, task.train, task.labels)[0] for task in mixture.tasks]
    batches = MixedBatches(encoded, [task.task for task in mixture.tasks], pieces.pad_id, asked=mixture.asked, passes=2)  # fmt: skip

    items = [batches[number] for number in range(len(batches))]
    assert len(items) == 2 * 20
    assert all(int(items[i]["task"]) == int(items[i + 1]["task"]) for i in range(0, 40, 2))
    topic = [item for item in items if item["task"] == 1]
    assert all(len(item["labels"]) == 4 and item["labels"].dim() == 1 for item in topic)
    rows = [tuple(row[: int(mask.sum())].tolist()) for item in topic for row, mask in zip(item["input_ids"], item["attention_mask"], strict=True)]  # fmt: skip
    assert sorted(rows) == sorted(tuple(example.rows[0]) for example in encoded[1])


def test_the_heads_stand_on_one_body_and_a_step_moves_the_head_of_its_task_alone() -> None:
    encoder = torch.nn.Embedding(9, 4)
    encoder.forward = lambda input_ids, **_: type("Output", (), {"last_hidden_state": torch.nn.functional.embedding(input_ids, encoder.weight)})  # type: ignore[method-assign]  # fmt: skip
    topic = task_of("topic")
    heads = [topic.head(4, classes, BRIEF) for classes in (2, 3)]  # type: ignore[attr-defined]
    model = MultiTaskModel(encoder, heads).train()
    batch = {"input_ids": torch.ones(2, 3, dtype=torch.long), "attention_mask": torch.ones(2, 3), "labels": torch.tensor([0, 2])}  # fmt: skip

    model(task=torch.tensor(1), **batch)["loss"].backward()

    names = [name for name, _ in model.named_parameters()]
    assert sum(name.endswith("encoder.weight") for name in names) == 1
    assert encoder.weight.grad is not None
    assert all(weights.grad is None for weights in heads[0].parameters())
    assert all(weights.grad is not None for weights in heads[1].parameters())


def test_the_student_comes_of_the_tuned_body_in_the_layout_of_the_untuned_one(
    student: Path, sentence_teacher: Path, cache: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    [place] = cache.glob("multitask-*")
    tuned, untuned, copy = (SentenceTransformer(str(folder), device="cpu") for folder in (place, sentence_teacher, student))  # fmt: skip
    for model in (tuned, copy):
        assert [type(module).__name__ for module in model] == [type(module).__name__ for module in untuned]  # fmt: skip
    assert copy.prompts == untuned.prompts
    before, after = (load_file(folder / "model.safetensors") for folder in (sentence_teacher, place))  # fmt: skip
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert len(moved) > len(before) / 2
    assert not any("pooler" in name for name in moved)
    unseen = [row for row, piece in enumerate(untuned.tokenizer.convert_ids_to_tokens(range(len(untuned.tokenizer)))) if set(piece) <= set("uvwxyzij")]  # fmt: skip
    rows = "embeddings.word_embeddings.weight"
    assert unseen
    assert torch.equal(before[rows][unseen], after[rows][unseen])  # English never shows them
    # With all of its layers and no step of distillation the student would be the tuned teacher itself.
    plan = json.loads((student / "run.json").read_text())["plan"]
    weights = load_file(student / "model.safetensors")
    names = [f"encoder.layer.{{}}.{part}.weight" for part in ("attention.self.query", "output.dense")]  # fmt: skip
    for number, layer in enumerate(plan["layers"]):
        for name in names:
            near, far = ((weights[name.format(number)] - source[name.format(layer)]).abs().max() for source in (after, before))  # fmt: skip
            assert near < far / 2


def test_plan_card_and_record_say_what_was_learnt_and_how_far_the_vectors_moved(
    student: Path, sentence_teacher: Path, texts: dict[str, Path], cache: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    plan = json.loads((student / "run.json").read_text())["plan"]
    scores = {score["task"]: score for score in plan["tuned"]["scores"]}
    assert {name: (score["data_set"], score["metric"], score["examples"]) for name, score in scores.items()} == {
        "pos": ("ud/en_made", "accuracy", 30), "topic": ("sib200/en", "accuracy", 30)
    }  # fmt: skip
    card = (student / "README.md").read_text()
    assert f"pos of ud/en_made accuracy {scores['pos']['score']:.2f}" in card
    [place] = cache.glob("multitask-*")
    lines = list(dict.fromkeys(texts["sw"].read_text().splitlines()))
    kept = plan["tuned"]["kept"]["sw"]
    assert kept["lines"] == 200
    chosen = [line for number, line in enumerate(lines) if number % 2 == 0]
    a, b = (SentenceTransformer(str(folder), device="cpu").encode(chosen) for folder in (sentence_teacher, place))  # fmt: skip
    assert kept["measures"]["cosine"][0] == pytest.approx(100 * float((a * b).sum(1).mean()), abs=1e-2)  # fmt: skip
    assert f"on 200 lines in sw: cosine {kept['measures']['cosine'][0]:.1f}" in card


def test_a_score_is_that_of_the_kept_body_under_the_head_and_the_loss_fell(
    student: Path, cache: Path, tasks: Path, told: dict[str, Any]
) -> None:
    from transformers import AutoModel, AutoTokenizer

    [place] = cache.glob("multitask-*")
    encoder, tokenizer = AutoModel.from_pretrained(place).eval(), AutoTokenizer.from_pretrained(place)  # fmt: skip
    head, right, total = told["model"].tasks[0].head, 0, 0
    for block in (tasks / "ud" / "en_made" / "dev.conllu").read_text().strip().split("\n\n"):
        words, tags = zip(*(row.split("\t")[1:4:2] for row in block.strip().split("\n")), strict=True)  # fmt: skip
        encoded = tokenizer([*words], is_split_into_words=True, return_tensors="pt")
        first = [encoded.word_ids().index(word) for word in range(len(words))]
        with torch.no_grad():
            guesses = head.out(encoder(**encoded).last_hidden_state[0, first]).argmax(-1)
        right += sum(UPOS[int(guess)] == tag for guess, tag in zip(guesses, tags, strict=True))
        total += len(words)

    recorded = json.loads((student / "run.json").read_text())["plan"]["tuned"]["scores"][0]
    assert recorded["score"] == pytest.approx(100 * right / total)
    assert f"pos of ud/en_made accuracy {recorded['score']:.2f}" in " ".join(told["words"])
    losses = [float(what.partition("loss ")[2].partition(",")[0]) for what in told["words"] if what.startswith("tuning the teacher on tasks, loss")]  # fmt: skip
    assert losses[-1] < 0.8 * losses[0]


def test_the_same_tuning_is_taken_from_the_cache_wherever_model_and_data_lie_and_another_is_made_anew(
    sentence_teacher: Path, asked: TeacherTasks, cache: Path, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    import shutil

    made: list[Any] = []
    monkeypatch.setattr(tune, "_tune", lambda *arguments, **_: made.append(arguments) or (_ for _ in ()).throw(StopError))  # fmt: skip
    elsewhere = Path(shutil.copytree(sentence_teacher, tmp_path / "model")), Path(shutil.copytree(asked.data, tmp_path / "data"))  # fmt: skip
    place, _ = tuned_teacher(elsewhere[0], read_mixture(replace(asked, data=elsewhere[1])), cache, watch=no_progress)  # fmt: skip
    assert place.parent == cache
    assert not made
    for other in (replace(asked, tasks=("topic", "pos")), replace(asked, sampling="size"), replace(asked, seed=1)):  # fmt: skip
        with pytest.raises(StopError):
            tuned_teacher(sentence_teacher, read_mixture(other), cache, watch=no_progress)


def test_a_killed_tuning_goes_on_to_the_same_bytes(
    teacher: Path, asked: TeacherTasks, tmp_path: Path
) -> None:
    mixture = read_mixture(replace(asked, protocol=replace(BRIEF, steps=12, evaluate_every=5)))
    whole = tuned_teacher(teacher, mixture, tmp_path / "whole", watch=no_progress)

    def stop(done: int, _total: int, what: str) -> None:
        if done >= 8 and what.startswith("tuning the teacher"):
            raise StopError

    with pytest.raises(StopError):
        tuned_teacher(teacher, mixture, tmp_path / "again", watch=stop)
    assert list((tmp_path / "again").glob(".multitask-*.making/checkpoints/checkpoint-5"))
    again = tuned_teacher(teacher, mixture, tmp_path / "again", watch=no_progress)

    first, second = (folder / "model.safetensors" for folder, _ in (whole, again))
    assert first.read_bytes() == second.read_bytes()
    assert whole[1] == again[1]
    assert "cls.predictions.bias" in load_file(first)  # a masked LM keeps its head


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ("poss",)}, "task 'poss' is not known"),
        ({"tasks": ("pos", "bitext")}, "'bitext' asks a model as it is and tunes nothing"),
        ({"tasks": ()}, "tasks of a teacher must name one or more, each once, got none"),
        ({"tasks": ("pos", "pos")}, "each once, got pos, pos"),
        ({"sampling": "often"}, "sampling must be one of even, size, got 'often'"),
        ({"languages": ("sw",)}, "no training and development data of pos for sw, only the sets en_made, sw_made"),
        ({"languages": ("en", "sw")}, "for sw there is no training and development data of pos or topic"),
        ({"data": "nowhere"}, "nowhere/ud: no such folder"),
    ],
)  # fmt: skip
def test_what_tunes_nothing_or_has_no_data_is_refused(asked: TeacherTasks, options: Any, message: str) -> None:  # fmt: skip
    with pytest.raises((ExtractError, XevalError), match=message):
        read_mixture(replace(asked, **options))


def test_a_classifier_and_what_was_made_of_the_untuned_model_are_refused(
    run_with: Callable[..., None], save_classifier: Path, sentence_teacher: Path
) -> None:
    with pytest.raises(ExtractError, match="moves the body under the head of a sequence classifier"):  # fmt: skip
        run_with(save_classifier)
    with pytest.raises(ExtractError, match="recorded vectors are of the untuned one"):
        run_with(
            sentence_teacher,
            vectors=Path("vectors"),
        )
    with pytest.raises(ExtractError, match="fine-tunings of languages are of the untuned one"):  # fmt: skip
        run_with(sentence_teacher, language_sfts={"en": "en.safetensors"})


@pytest.fixture
def run_with(texts: dict[str, Path], asked: TeacherTasks, tmp_path: Path) -> Callable[..., None]:
    def run(model: Path, **options: Any) -> None:
        given = {"extraction": SHORT, **options}
        extract(model, {"en": texts["en"]}, tmp_path / "out", source="en", teacher_tasks=asked, **given)  # fmt: skip

    return run


@pytest.fixture
def save_classifier(teacher: Path, tmp_path: Path) -> Path:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    AutoModelForSequenceClassification.from_pretrained(teacher, num_labels=3).save_pretrained(tmp_path / "classifier")  # fmt: skip
    AutoTokenizer.from_pretrained(teacher).save_pretrained(tmp_path / "classifier")
    return tmp_path / "classifier"


def test_the_command_asks_for_tasks_and_refuses_their_options_without_them(
    teacher: Path, texts: dict[str, Path], tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    from bistil.extract import run

    given: list[TeacherTasks] = []
    monkeypatch.setattr(run, "extract", lambda *_, teacher_tasks, **__: given.append(teacher_tasks) or exit(0))  # fmt: skip
    common = ["extract", str(teacher), "--source=en", f"--corpus=en={texts['en']}", "-o", str(tmp_path / "out"), "--quiet"]  # fmt: skip

    options = ["--data", str(tasks), "--task-language=en", "--task-language=sw", "--task-steps=7", "--task-learning-rate=0.01", "--task-batch=4", "--task-sampling=size"]  # fmt: skip
    assert CliRunner().invoke(app, [*common, "--teacher-tasks", "pos,ner", *options]).exit_code == 0
    assert given[0].tasks == ("pos", "ner")
    assert (given[0].data, given[0].languages, given[0].sampling) == (str(tasks), ("en", "sw"), "size")  # fmt: skip
    assert (given[0].protocol.steps, given[0].protocol.learning_rate, given[0].protocol.batch_size) == (7, 0.01, 4)  # fmt: skip
    refused = CliRunner().invoke(app, [*common, "--task-steps=7"])
    assert refused.exit_code == 2
    assert "--task-steps has no effect without --teacher-tasks; leave it out." in refused.output.replace("\n", " ")  # fmt: skip
    unknown = CliRunner().invoke(app, [*common, "--teacher-tasks=pos,nerr"])
    assert unknown.exit_code == 2
    assert "task 'nerr' is not known" in unknown.output
    untrained = CliRunner().invoke(app, [*common, "--teacher-tasks=pos", "--task-steps=0"])
    assert untrained.exit_code == 2
    assert "--teacher-tasks: of the tuning, steps must be at least 1, got 0." in untrained.output
