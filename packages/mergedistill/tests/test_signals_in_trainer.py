"""What teacherzoo recorded teaches a student in a plain Trainer, by `kdkernels.hf`."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForMaskedLM, Trainer, TrainingArguments

from kdkernels import KernelArgumentError
from kdkernels.hf import SignalCollator, TopKDistillationLoss
from teacherzoo import Corpus, Signals, record

STEPS, BATCH, RATE, ALPHA, T = 2, 3, 0.5, 0.7, 2.0


@pytest.fixture(scope="module")
def signals(town: Path, tmp_path_factory: pytest.TempPathFactory) -> Signals:
    folder = tmp_path_factory.mktemp("signals")
    text = (town / "qav.txt").read_text(encoding="utf-8").splitlines()[:20]
    (folder / "text.txt").write_text("\n".join(text), encoding="utf-8")
    record(
        town / "wp",
        [Corpus("qav", folder / "text.txt")],
        folder / "recorded",
        k=4,
        temperatures=(T,),
        block_length=32,
    )
    return Signals(folder / "recorded")


def student(town: Path) -> torch.nn.Module:
    model = AutoModelForMaskedLM.from_pretrained(town / "wp-other")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def eager_loss(model: torch.nn.Module, signals: Signals, rows: list[int]) -> torch.Tensor:
    """Cross-entropy and KL over the k ids and the rest, from all logits at the recorded positions."""
    batch = signals.batch(rows)
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    logits = logits[batch.rows, batch.positions]
    hard = F.cross_entropy(logits, batch.labels)
    student = (logits.double() / T).softmax(-1).gather(1, batch.topk_ids)
    teacher = (batch.topk_logprobs.double() / T - batch.log_partition[T][:, None]).exp()
    rest, rest_of_student = 1 - teacher.sum(1), 1 - student.sum(1)
    soft = (teacher * (teacher / student).log()).sum(1) + rest * (rest / rest_of_student).log()
    return (1 - ALPHA) * hard + ALPHA * T**2 * soft.mean()


def test_recorded_signals_in_a_trainer_equal_the_eager_formula(
    town: Path, signals: Signals, tmp_path: Path
) -> None:
    plain = student(town).train()
    descent = torch.optim.SGD(plain.parameters(), lr=RATE)
    losses = []
    for step in range(STEPS):
        loss = eager_loss(plain, signals, list(range(step * BATCH, (step + 1) * BATCH)))
        descent.zero_grad()
        loss.backward()
        descent.step()
        losses.append(loss.item())

    model = student(town)
    args = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=STEPS,
        per_device_train_batch_size=BATCH,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=0.0,
        logging_steps=1,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    loss = TopKDistillationLoss(model, alpha=ALPHA, temperature=T, args=args)
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=signals,
        data_collator=loss.signal_collator(),
        compute_loss_func=loss,
    )
    trainer.train()

    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged == pytest.approx(losses, rel=1e-4)
    torch.testing.assert_close(model.state_dict(), plain.state_dict(), rtol=1e-4, atol=1e-6)


def test_a_temperature_that_was_not_recorded_is_refused(signals: Signals) -> None:
    with pytest.raises(KernelArgumentError, match=r"recorded for \(2\); got 3\.0"):
        SignalCollator(temperature=3.0)(signals.batch([0]))


def test_ids_drawn_at_random_teach_without_a_tail(town: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text((town / "qav.txt").read_text(encoding="utf-8")[:200])
    record(
        town / "wp",
        [Corpus("qav", tmp_path / "text.txt")],
        tmp_path / "recorded",
        sampler="random",
        block_length=32,
    )
    model = student(town).train()
    loss = TopKDistillationLoss(model, tail="drop")
    drawn = Signals(tmp_path / "recorded").batch([0])
    batch = loss.signal_collator()(drawn)
    labels = batch.pop("labels")
    loss(model(**batch), labels)

    weights = drawn.topk_logprobs.exp()
    torch.testing.assert_close(weights.sum(1), torch.ones(len(weights)))
    logits = model(input_ids=drawn.input_ids, attention_mask=drawn.attention_mask).logits
    student_logprobs = logits[drawn.rows, drawn.positions].log_softmax(-1)
    listed = student_logprobs.gather(1, drawn.topk_ids.clamp(min=0))
    soft = (weights * (weights.clamp(min=1e-30).log() - listed)).sum(1).mean()
    assert loss.last is not None
    torch.testing.assert_close(loss.last.soft, soft.detach())
