"""What training computes, against slow and plain formulas."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from mergedistill.errors import RecipeError
from mergedistill.recipe.recipe import Recipe
from mergedistill.recipe.stages import ensembles_or_refuse, stages
from mergedistill.run.run import run
from mergedistill.run.status import status
from mergedistill.targets.recorded import open_signals
from mergedistill.training.schedule import ScheduledBatches, schedule
from teacherzoo.pretrain.shapes import build_masked_lm

SGD = {"optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 1e9, "weight_decay": 0.0}


def trained(recipe: Recipe) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    """Weights after training, and its log."""
    run(recipe, until="train")
    place = stages(recipe)["train"].place
    return load_file(place / "model" / "model.safetensors"), json.loads(
        (place / "log.json").read_text()
    )


def losses(log: list[dict[str, float]]) -> list[float]:
    return [entry["loss"] for entry in log if "loss" in entry]


@pytest.fixture
def one_language(recipe_of: Callable[..., Recipe], town: Path) -> Callable[..., Recipe]:
    """Recipes of one language, whose batches follow one another in one order however they are cut."""

    def made(**train: Any) -> Recipe:
        return recipe_of(
            languages={"qav": str(town / "qav.txt")},
            teachers=[{"teacher": str(town / "wp"), "languages": ["qav"]}],
            train={"steps": 3, "learning_rate": 0.5, "warmup": 0, "checkpoint_every": 100, **train},
        )

    return made


def test_accumulated_batches_are_one_large_batch(one_language: Callable[..., Recipe]) -> None:
    log_all = {"logging_steps": 1}
    large, large_log = trained(one_language(tokens=512, arguments={**SGD, **log_all}))
    parts, parts_log = trained(
        one_language(tokens=128, arguments={**SGD, **log_all, "gradient_accumulation_steps": 4})
    )

    assert losses(parts_log) == pytest.approx(losses(large_log), rel=1e-4)
    for name, weight in large.items():
        torch.testing.assert_close(parts[name], weight, rtol=1e-4, atol=1e-5)


def test_what_is_logged_is_what_the_formulas_say(one_language: Callable[..., Recipe]) -> None:
    recipe = one_language(steps=1, tokens=256, arguments={**SGD, "logging_steps": 1})

    _, log = trained(recipe)

    (entry,) = [its for its in log if "loss" in its]
    model, batch = _at_the_start(recipe)
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[
            batch["rows"], batch["positions"]
        ]
    logs = F.log_softmax(logits.double(), dim=-1)
    assert entry["hard_qav"] == pytest.approx(float(F.nll_loss(logs, batch["labels"])), rel=1e-4)
    hits = (logits.argmax(-1) == batch["labels"]).double().mean()
    assert entry["accuracy_qav"] == pytest.approx(float(hits))
    p = batch["targets"].topk_logprobs.double().exp()
    rest = (1 - p.sum(1)).clamp(min=0)
    assert entry["tail_qav"] == pytest.approx(float(rest.mean()), abs=1e-6)
    taken = logs.gather(1, batch["targets"].topk_ids.clamp(min=0))
    there = batch["targets"].topk_ids >= 0
    within = torch.where(there, p * (p.clamp(min=1e-30).log() - taken), 0).sum(1)
    mine = (1 - torch.where(there, taken.exp(), 0).sum(1)).clamp(min=1e-30)
    kl = within + torch.where(rest > 0, rest * (rest.clamp(min=1e-30).log() - mine.log()), 0)
    assert entry["divergence_qav"] == pytest.approx(float(kl.mean()), rel=1e-3)
    assert entry["loss"] == pytest.approx(
        0.3 * entry["hard_qav"] + 0.7 * entry["divergence_qav"], rel=1e-3
    )


def _at_the_start(recipe: Recipe) -> tuple[Any, dict[str, Any]]:
    """The student before its first step, and the first batch."""
    from transformers import AutoTokenizer

    vocabulary = stages(recipe)["vocabulary"].folder
    signals = open_signals(recipe, ensembles_or_refuse(recipe), vocabulary)
    slots = schedule(
        signals,
        batches=1,
        tokens=recipe.train.tokens,
        block_length=recipe.distil.block_length,
        exponent=recipe.train.sampling_exponent,
        seed=recipe.seed,
    )
    tokenizer = AutoTokenizer.from_pretrained(vocabulary)
    model = build_masked_lm(recipe.student.shape, tokenizer, seed=recipe.seed)
    return model.eval(), ScheduledBatches(slots, signals, recipe.distil)[0]


def test_evaluating_leaves_the_training_as_it_is(recipe_of: Callable[..., Recipe]) -> None:
    def with_evaluation_every(steps: int) -> tuple[dict[str, torch.Tensor], list[Any]]:
        train = {"steps": 4, "tokens": 256, "evaluate_every": steps}
        recipe = recipe_of(out=f"every-{steps}", signals="signals", train=train)
        return trained(recipe)

    often, log = with_evaluation_every(1)
    never, silent = with_evaluation_every(100)

    assert all(torch.equal(weight, never[name]) for name, weight in often.items())
    evaluations = [entry for entry in log if "eval_bits_per_byte" in entry]
    assert [entry["step"] for entry in evaluations] == [1, 2, 3, 4]
    for entry in evaluations:
        bits = [entry[f"eval_bits_per_byte_{language}"] for language in ("qav", "qag")]
        assert entry["eval_bits_per_byte"] == pytest.approx(sum(bits) / 2)
        assert all(0 <= entry[f"eval_accuracy_{language}"] <= 1 for language in ("qav", "qag"))
    assert [its["step"] for its in silent if "eval_bits_per_byte" in its] == [4]  # the end, always


def test_the_last_evaluation_is_that_of_the_saved_student(
    recipe_of: Callable[..., Recipe],
) -> None:
    student = run(recipe_of(train={"steps": 2, "tokens": 256, "evaluate_every": 2}))

    log = json.loads((student.parent / "training").rglob("log.json").__next__().read_text())
    (evaluation,) = [entry for entry in log if "eval_bits_per_byte" in entry]
    scores = json.loads((student / "run.json").read_text())["held_out"]
    for language, its in scores.items():  # no more documents are held out than either reads
        assert its["student"] == pytest.approx(
            evaluation[f"eval_bits_per_byte_{language}"], rel=1e-4
        )
        assert its["student_accuracy"] == evaluation[f"eval_accuracy_{language}"]


def test_mixed_precision_learns_nearly_the_same(one_language: Callable[..., Recipe]) -> None:
    exact, log = trained(one_language(tokens=256, arguments={**SGD, "logging_steps": 1}))
    mixed, mixed_log = trained(
        one_language(tokens=256, arguments={**SGD, "logging_steps": 1, "bf16": True})
    )

    assert losses(mixed_log) == pytest.approx(losses(log), rel=2e-2)
    for name, weight in exact.items():
        assert mixed[name].dtype == torch.float32
        torch.testing.assert_close(mixed[name], weight, rtol=0.1, atol=0.02)


@pytest.mark.parametrize(
    ("logging_steps", "evaluate_every", "told"),
    [(1, 100, r"The loss is \S+ at step \d+"), (1000, 4, "no longer finite at step 4")],
)
def test_a_loss_that_is_no_number_names_the_key_to_change(
    one_language: Callable[..., Recipe], logging_steps: int, evaluate_every: int, told: str
) -> None:
    from teacherzoo import TeacherzooError

    recipe = one_language(
        steps=30,
        tokens=128,
        learning_rate=1e30,
        evaluate_every=evaluate_every,
        arguments={**SGD, "logging_steps": logging_steps},
    )

    with pytest.raises(
        TeacherzooError, match=rf"{told}.*; lower train\.learning_rate \(now 1e\+30"
    ):
        run(recipe)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_steps": 3}, "train.arguments: max_steps is decided elsewhere"),
        ({"eval_steps": 3}, "train.arguments: eval_steps is decided elsewhere"),
        (
            {"lerning_rate": 3},
            "`transformers.TrainingArguments` has no field 'lerning_rate' (did you mean",
        ),
        ({"report_to": ["nowhere"]}, "train.arguments: report_to: nowhere is not supported"),
        # its loss would be the number of processes too large
        (
            {"average_tokens_across_devices": False},
            "average_tokens_across_devices is not supported by this training: a step's loss is divided by",
        ),
        ({"fsdp": "full_shard"}, "fsdp is not supported by this training"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor is not supported"),
        ({"optim": "none_such"}, "train.arguments: "),
    ],
)
def test_arguments_that_are_not_theirs_are_refused_before_anything_is_recorded(
    one_language: Callable[..., Recipe], arguments: dict[str, Any], message: str
) -> None:
    recipe = one_language(tokens=128, arguments=arguments)

    with pytest.raises(RecipeError, match=r"train\.arguments") as caught:
        run(recipe)

    assert message in str(caught.value)
    assert not status(recipe)["rank"]


def test_several_visible_gpus_without_a_launcher_are_one_device(
    one_language: Callable[..., Recipe],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from transformers import TrainingArguments

    def device(arguments: Any) -> torch.device:
        """As on a machine with three GPUs, which `Trainer` counts when it first asks for the device."""
        if not hasattr(arguments, "_n_gpu"):
            _ = arguments._setup_devices
            arguments._n_gpu = 3
        return torch.device("cpu")

    monkeypatch.setattr(TrainingArguments, "device", property(device))
    recipe = one_language(tokens=256, arguments={**SGD, "logging_steps": 1})

    _, log = trained(recipe)

    assert len(losses(log)) == 3
    assert "3 GPUs are visible and one of them is used" in caplog.text


def test_a_student_shared_out_with_its_vocabulary_is_refused(
    one_language: Callable[..., Recipe], tmp_path: Path
) -> None:
    deepspeed = {"zero_optimization": {"stage": 3}, "train_micro_batch_size_per_gpu": 1}
    file = tmp_path / "zero3.json"
    file.write_text(json.dumps(deepspeed))

    for asked in (deepspeed, str(file)):
        with pytest.raises(RecipeError, match="stages 1 and 2, got stage 3"):
            run(one_language(tokens=128, arguments={"deepspeed": asked}), until="rank")
    with pytest.raises(
        RecipeError, match=r"deepspeed: expected a mapping or a file of JSON: .*nowhere"
    ):
        run(one_language(tokens=128, arguments={"deepspeed": "nowhere.json"}), until="rank")


def test_untrained_bits_are_about_those_of_a_uniform_guess(
    recipe_of: Callable[..., Recipe],
) -> None:
    student = run(recipe_of(train={"steps": 1, "tokens": 64, "learning_rate": 1e-9}))

    scores = json.loads((student / "run.json").read_text())["held_out"]
    size = json.loads((student / "config.json").read_text())["vocab_size"]
    for its in scores.values():
        # every piece costs log2 V bits; a piece of these languages has between 1 and 5 bytes
        assert math.log2(size) / 5 < its["student"] < 1.1 * math.log2(size)
        assert its["student_accuracy"] < 0.2
