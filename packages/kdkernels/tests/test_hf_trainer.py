"""`TopKDistillationLoss` in a Trainer is the eager formula in a plain loop, and the model stays a plain model."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DataCollatorForSeq2Seq,
    EvalPrediction,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

from kdkernels import KernelArgumentError
from kdkernels.hf import AXOLOTL, VERL, TeacherCollator, TeacherColumns, TopKDistillationLoss

V, S, K, EXAMPLES = 60, 7, 4, 8
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SMALL = {
    "vocab_size": V,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
STEPS, BATCH, ACCUMULATED, RATE = 2, 2, 2, 0.1


def encoder() -> BertForMaskedLM:
    config = BertConfig(**SMALL, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return BertForMaskedLM(config)


def decoder() -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(**SMALL, **SPECIAL, tie_word_embeddings=False))


def old_decoder() -> GPT2LMHeadModel:
    config = {"n_embd": 32, "n_layer": 1, "n_head": 2, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=V, attn_pdrop=0.0, **config, **SPECIAL))


MODELS = {"encoder": encoder, "decoder": decoder, "GPT-2": old_decoder}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    torch.manual_seed(0)
    made: PreTrainedModel = MODELS[request.param]()
    return made


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def examples(*, seed: int = 1) -> list[dict[str, Tensor]]:
    """Tokens with a teacher's top-k at each; another share of labels in each example."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for number in range(EXAMPLES):
        tokens = torch.randint(5, V, (S,), generator=generator)
        labels = tokens.clone()
        labels[0] = -100
        labels[2 : 2 + number % 4] = -100
        top = torch.randn(S, V, generator=generator).mul(2).log_softmax(-1).topk(K)
        made.append(
            {
                "input_ids": tokens,
                "attention_mask": torch.ones(S, dtype=torch.int64),
                "labels": labels,
                "teacher_topk_ids": top.indices,
                "teacher_topk_logprobs": top.values,
            }
        )
    return made


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    stated = {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "per_device_train_batch_size": BATCH,
        "per_device_eval_batch_size": EXAMPLES,
        "gradient_accumulation_steps": ACCUMULATED,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": False,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return TrainingArguments(**stated | changes)


def gradient_descent(model: PreTrainedModel) -> tuple[Any, Any]:
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    return optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)


def shifted(model: PreTrainedModel, *parts: Tensor) -> tuple[Tensor, ...]:
    """Logits, labels and a teacher's rows of a batch, so that row t of each is about one token."""
    logits, labels, *teacher = parts
    if "Causal" in type(model).__name__ or "LMHead" in type(model).__name__:
        logits, labels = logits[:, :-1], labels[:, 1:]
        teacher = [rows[:, :-1] for rows in teacher]
    return tuple(part.flatten(0, 1) for part in (logits, labels, *teacher))


def eager_sum(
    logits: Tensor,
    labels: Tensor,
    ids: Tensor,
    logprobs: Tensor,
    *,
    alpha: float,
    temperature: float,
) -> Tensor:
    """(1-alpha)·CE + alpha·T² KL from the renormalised top-k, summed over the labelled rows, with all logits in memory."""
    counted = labels != -100
    logits, labels, ids, logprobs = (part[counted] for part in (logits, labels, ids, logprobs))
    hard = F.cross_entropy(logits, labels, reduction="sum")
    student = (logits / temperature).log_softmax(-1).gather(1, ids)
    teacher = (logprobs / temperature).log_softmax(-1)
    soft = (teacher.exp() * (teacher - student)).sum()
    return (1 - alpha) * hard + alpha * temperature**2 * soft


def plain_loop(
    model: PreTrainedModel, data: list[dict[str, Tensor]], **options: float
) -> list[float]:
    """Gradient descent without Trainer and without kdkernels."""
    optimizer, _ = gradient_descent(model)
    model.train()
    losses = []
    for step in range(STEPS):
        first = step * BATCH * ACCUMULATED
        batch = default_data_collator(data[first : first + BATCH * ACCUMULATED])
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        rows = shifted(
            model,
            logits,
            batch["labels"],
            batch["teacher_topk_ids"],
            batch["teacher_topk_logprobs"],
        )
        loss = eager_sum(*rows, **options) / (rows[1] != -100).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_trainer_equals_a_plain_loop_with_the_eager_formula(
    model: PreTrainedModel, tmp_path: Path
) -> None:
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    options = {"alpha": 0.7, "temperature": 2.0}
    losses = plain_loop(model, examples(), **options)
    wanted = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(start)
    args = arguments(tmp_path)

    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=examples(),
        compute_loss_func=TopKDistillationLoss(model, tail="renormalise", args=args, **options),
        optimizers=gradient_descent(model),
    )
    trainer.train()

    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged == pytest.approx(losses, rel=1e-4)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-4, atol=1e-6)
    assert any(not torch.equal(wanted[name], start[name]) for name in start)


@pytest.mark.filterwarnings(
    "ignore:.*should not be instantiated:DeprecationWarning"
)  # torch's compiler does
def test_a_compiled_model_is_one_graph_and_gives_the_same() -> None:
    shallow = {**SMALL, **SPECIAL, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(**shallow)).train()
    loss = TopKDistillationLoss(model)
    batch = default_data_collator(examples())
    wanted = once(loss, model, batch)
    compiled = torch.compile(model, backend="eager", fullgraph=True)

    assert once(loss, compiled, batch) == pytest.approx(wanted, rel=1e-6)
    assert compiled(input_ids=batch["input_ids"]).logits.shape[-1] == V


@pytest.mark.parametrize("kept", [True, False])
def test_evaluation_gives_the_loss_and_logits_unless_they_are_not_wanted(
    model: PreTrainedModel, tmp_path: Path, kept: bool
) -> None:
    seen: list[tuple[int, ...]] = []

    def shapes(prediction: EvalPrediction) -> dict[str, float]:
        seen.append(prediction.predictions.shape)
        return {}

    trainer = Trainer(
        model=model,
        args=arguments(tmp_path),
        eval_dataset=examples(),
        compute_loss_func=TopKDistillationLoss(
            model, alpha=0.7, tail="renormalise", logits_in_evaluation=kept
        ),
        compute_metrics=shapes,
    )
    loss = trainer.evaluate()["eval_loss"]

    batch = default_data_collator(examples())
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"]).logits
    rows = shifted(
        model, logits, batch["labels"], batch["teacher_topk_ids"], batch["teacher_topk_logprobs"]
    )
    assert loss == pytest.approx(
        float(eager_sum(*rows, alpha=0.7, temperature=1.0) / (rows[1] != -100).sum()), rel=1e-4
    )
    assert seen == [(EXAMPLES, S, V if kept else 32)]


def evaluation_loss(model: PreTrainedModel, data: list[dict[str, Tensor]], folder: Path) -> float:
    trainer = Trainer(
        model=model,
        args=arguments(folder),
        eval_dataset=data,
        compute_loss_func=TopKDistillationLoss(model),
    )
    return float(trainer.evaluate()["eval_loss"])


def test_evaluation_without_a_teacher_is_the_cross_entropy(
    model: PreTrainedModel, tmp_path: Path
) -> None:
    data = [
        {name: part for name, part in example.items() if "teacher" not in name}
        for example in examples()
    ]
    loss = evaluation_loss(model, data, tmp_path)

    batch = default_data_collator(data)
    with torch.no_grad():
        rows = shifted(model, model(input_ids=batch["input_ids"]).logits, batch["labels"])
    assert loss == pytest.approx(float(F.cross_entropy(*rows)), rel=1e-4)


@pytest.mark.parametrize("teacher", [True, False])
def test_an_evaluation_without_labels_has_the_loss_zero(
    model: PreTrainedModel, tmp_path: Path, teacher: bool
) -> None:
    data = [
        {
            name: torch.full_like(part, -100) if name == "labels" else part
            for name, part in example.items()
            if teacher or "teacher" not in name
        }
        for example in examples()
    ]

    assert evaluation_loss(model, data, tmp_path) == 0


def test_training_makes_no_logits_and_leaves_a_plain_model(
    model: PreTrainedModel, tmp_path: Path
) -> None:
    widths: list[int] = []
    head = model.get_output_embeddings()
    loss = TopKDistillationLoss(model)
    batch = default_data_collator(examples())
    labels = batch.pop("labels")
    loss(model.train()(**batch), labels).backward()
    head.register_forward_hook(lambda _module, _inputs, output: widths.append(output.shape[-1]))
    outputs = model(**batch)
    loss(outputs, labels)

    assert widths == [32]
    assert "forward" not in vars(head)
    assert model(input_ids=batch["input_ids"]).logits.shape[-1] == V
    model.save_pretrained(tmp_path / "saved")
    again = type(model).from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(again.state_dict(), dict(model.state_dict()))
    loss.remove()
    assert model(**batch).logits.shape[-1] == V


def test_a_forward_pass_that_fails_puts_the_head_back() -> None:
    model = encoder().train()
    TopKDistillationLoss(model)
    batch = default_data_collator(examples())
    del batch["labels"]
    batch["input_ids"] = batch["input_ids"] + V
    with pytest.raises(IndexError):
        model(**batch)

    assert "forward" not in vars(model.get_output_embeddings())


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
def test_a_distributed_model_knows_that_its_head_is_used(model: PreTrainedModel) -> None:
    """As Trainer wraps it: what seems unused behind the outputs must get no gradient, and a second one is an error."""
    wrapped = torch.nn.parallel.DistributedDataParallel(model.train(), find_unused_parameters=True)
    loss = TopKDistillationLoss(model)
    batch = default_data_collator(examples())
    labels = batch.pop("labels")
    loss(model(**batch), labels).backward()
    wanted = {name: part.grad for name, part in model.named_parameters()}
    model.zero_grad()
    for _ in range(2):
        model.zero_grad()
        loss(wrapped(**batch), labels).backward()

    for name, part in model.named_parameters():
        torch.testing.assert_close(part.grad, wanted[name])


# FSDP warns that changes in place would go unnoticed of what the model returns: nothing changes it.
@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module .* returned a view tensor:UserWarning")
@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("kept", [True, False], ids=["kept whole", "scattered again"])
def test_fsdp_must_keep_the_head_whole_after_the_forward_pass(
    model: PreTrainedModel, kept: bool
) -> None:
    batch = default_data_collator(examples())
    labels = batch.pop("labels")
    loss = TopKDistillationLoss(model.train())
    loss(model(**batch), labels).backward()
    wanted = [part.grad for part in model.parameters()]
    model.zero_grad()
    mesh = init_device_mesh("cpu", (1,))
    fully_shard(model, mesh=mesh, reshard_after_forward=not kept)
    outputs = model(**batch)
    if not kept:
        with pytest.raises(KernelArgumentError, match="must be whole after the forward pass"):
            loss(outputs, labels)
        return
    loss(outputs, labels).backward()
    for part, gradient in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(part.grad.full_tensor(), gradient)


def test_no_gradient_is_made_for_a_frozen_head() -> None:
    model = decoder().train()
    head = model.get_output_embeddings()
    head.requires_grad_(False)
    loss = TopKDistillationLoss(model)
    batch = default_data_collator(examples())
    labels = batch.pop("labels")
    outputs = model(**batch)
    assert loss._projection is not None
    assert not loss._projection.weight.requires_grad
    loss(outputs, labels).backward()

    assert head.weight.grad is None
    assert all(part.grad is not None for part in model.model.layers.parameters())


def test_mixed_precision_multiplies_in_its_dtype(tmp_path: Path) -> None:
    """Outside of the model's forward pass Trainer has left autocast."""
    model = encoder()
    seen: list[torch.dtype] = []
    loss = TopKDistillationLoss(model)

    def recorded(*arguments: Any, **keywords: Any) -> Tensor:
        assert loss._projection is not None
        seen.append(loss._projection.autocast)
        return loss(*arguments, **keywords)

    Trainer(
        model=model,
        args=arguments(tmp_path, bf16=True, max_steps=1),
        train_dataset=examples(),
        compute_loss_func=recorded,
    ).train()

    assert seen == [torch.bfloat16] * ACCUMULATED
    assert model.get_output_embeddings().weight.dtype == torch.float32


def once(loss: TopKDistillationLoss, model: PreTrainedModel, batch: dict[str, Tensor]) -> float:
    batch = dict(batch)
    labels = batch.pop("labels")
    return loss(model(**batch), labels).item()


def test_rows_about_the_label_and_labels_shifted_before_give_the_same() -> None:
    model = decoder().train()
    batch = default_data_collator(examples())
    wanted = once(loss := TopKDistillationLoss(model), model, batch)
    loss.remove()
    rolled = batch | {name: batch[name].roll(1, 1) for name in batch if "teacher" in name}
    by_label = once(loss := TopKDistillationLoss(model, teacher_rows="labels"), model, rolled)
    loss.remove()
    moved = batch | {"labels": F.pad(batch["labels"][:, 1:], (0, 1), value=-100)}
    before = once(TopKDistillationLoss(model, shift=False), model, moved)

    assert by_label == pytest.approx(wanted, rel=1e-6)
    assert before == pytest.approx(wanted, rel=1e-6)


def ragged(columns: TeacherColumns) -> list[dict[str, Any]]:
    """Examples of unequal length, as lists."""
    lengths = [S, S - 2, S - 1, S - 3]
    return [
        {
            columns.ids
            if name == "teacher_topk_ids"
            else columns.logprobs
            if "log" in name
            else name: part[:length].tolist()
            for name, part in example.items()
        }
        for example, length in zip(examples(), lengths, strict=False)
    ]


class Padding:
    """What `DataCollatorForSeq2Seq` asks of a tokenizer."""

    padding_side = "right"

    def pad(self, features: list[dict[str, Any]], **_: Any) -> dict[str, Tensor]:
        longest = max(len(example["input_ids"]) for example in features)
        return {
            name: torch.tensor(
                [
                    example[name]
                    + [-100 if name == "labels" else 0] * (longest - len(example[name]))
                    for example in features
                ]
            )
            for name in features[0]
        }


@pytest.mark.parametrize("columns", [TeacherColumns(), AXOLOTL, VERL])
def test_padding_of_any_kind_changes_nothing(columns: TeacherColumns) -> None:
    """-1, minus infinity, and axolotl's 0 with a mask, at places, rows and ends of sequences that no teacher filled."""
    model = encoder().train()
    features = ragged(columns)
    loss = TopKDistillationLoss(model, columns=columns)
    parts = [
        once(loss, model, TeacherCollator(default_data_collator, columns)([x])) for x in features
    ]
    rows = [sum(label != -100 for label in example["labels"]) for example in features]
    mean = sum(part * count for part, count in zip(parts, rows, strict=True)) / sum(rows)
    collate = TeacherCollator(DataCollatorForSeq2Seq(Padding()), columns)
    batch = collate(features)

    assert batch[columns.ids].shape == (4, S, K)
    assert once(loss, model, batch) == pytest.approx(mean, rel=1e-5)
    wider = F.pad(batch[columns.ids], (0, 2), value=0)
    beside = F.pad(batch[columns.logprobs], (0, 2), value=-1e9)
    mask = F.pad((batch[columns.ids] >= 0).int(), (0, 2), value=0)
    marked = {
        columns.ids: wider.clamp(min=0),
        columns.logprobs: beside.clamp(min=-1e9),
        columns.mask: mask,
    }
    assert once(loss, model, batch | marked) == pytest.approx(mean, rel=1e-5)


def test_left_padding_stands_with_the_tokens() -> None:
    collate = TeacherCollator(
        lambda rows: {"input_ids": torch.zeros(len(rows), 3)}, padding_side="left"
    )
    batch = collate([{"teacher_topk_ids": [[4, 5], [6, 7]]}, {"teacher_topk_ids": [[8]]}])

    assert batch["teacher_topk_ids"].tolist() == [
        [[-1, -1], [4, 5], [6, 7]],
        [[-1, -1], [-1, -1], [8, -1]],
    ]


def capped() -> Gemma2ForCausalLM:
    return Gemma2ForCausalLM(Gemma2Config(**SMALL, **SPECIAL, num_key_value_heads=2, head_dim=16))


def encoder_decoder() -> T5ForConditionalGeneration:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(vocab_size=V, **sizes))


class OtherForMaskedLM(BertForMaskedLM):
    """As a user's own class, which transformers does not list."""


def renamed() -> OtherForMaskedLM:
    return OtherForMaskedLM(BertConfig(**SMALL))


@pytest.mark.parametrize(
    ("make", "options", "said"),
    [
        (encoder, {"alpha": 1.5}, "alpha must be a finite number in"),
        (encoder, {"teacher_rows": "tokens"}, "teacher_rows must be one of 'logits', 'labels'"),
        (encoder_decoder, {}, "got the encoder-decoder T5ForConditionalGeneration"),
        (lambda: encoder().bert, {}, "BertModel has none: open it as"),
        (renamed, {}, "shift must be said of OtherForMaskedLM"),
    ],
)
def test_refused_before_training(
    make: Callable[[], PreTrainedModel], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(KernelArgumentError, match=said):
        TopKDistillationLoss(make(), **options)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"remove_unused_columns": True},
            "args.remove_unused_columns=True drops the teacher's columns",
        ),
        ({"label_smoothing_factor": 0.1}, "args.label_smoothing_factor=0.1 is left to the loss"),
    ],
)
def test_arguments_that_would_be_ignored_are_refused(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(KernelArgumentError, match=said):
        TopKDistillationLoss(encoder(), args=arguments(tmp_path, **changes))


def test_dropped_columns_are_named(tmp_path: Path) -> None:
    model = encoder()
    trainer = Trainer(
        model=model,
        args=arguments(tmp_path, remove_unused_columns=True),
        train_dataset=examples(),
        compute_loss_func=TopKDistillationLoss(model),
    )

    with pytest.raises(KernelArgumentError, match="set remove_unused_columns=False in Trainer's"):
        trainer.train()


@pytest.mark.parametrize(
    ("make", "changes", "options", "said"),
    [
        (capped, {}, {}, "the logits of Gemma2ForCausalLM must be what its output projection returns"),
        (encoder, {"teacher_topk_logprobs": None}, {}, "has teacher_topk_ids without teacher_topk_logprobs"),
        (encoder, {"labels": None}, {}, "the batch must have labels"),
        (encoder, {}, {"temperature": 2.0}, "needs the column teacher_log_partition"),
        (encoder, {"teacher_topk_ids": torch.zeros(2, S)}, {}, "must both be"),
        (encoder, {"labels": torch.zeros(EXAMPLES, S - 1, dtype=torch.int64)}, {}, "labels and the teacher's columns"),
        (encoder, {"teacher_topk_ids": torch.full((EXAMPLES, S, K), V)}, {}, f"a column from 0 to {V - 1}"),
    ],
)  # fmt: skip
def test_a_batch_that_does_not_fit_is_refused(
    make: Callable[[], PreTrainedModel], changes: dict[str, Any], options: dict[str, Any], said: str
) -> None:
    model = make().train()
    loss = TopKDistillationLoss(model, **options)
    batch = {
        name: part
        for name, part in (default_data_collator(examples()) | changes).items()
        if part is not None
    }
    labels = batch.pop("labels", None)

    with pytest.raises(KernelArgumentError, match=said):
        loss(model(**batch), labels)


def test_the_parts_of_the_last_batch_can_be_logged() -> None:
    model = encoder().train()
    loss = TopKDistillationLoss(model, alpha=0.25)
    value = once(loss, model, default_data_collator(examples()))

    assert loss.last is not None
    assert float(loss.last.loss) == value
    assert math.isclose(
        0.75 * float(loss.last.hard) + 0.25 * float(loss.last.soft), value, rel_tol=1e-5
    )
    assert not loss.last.loss.requires_grad


def test_the_last_loss_is_that_of_the_batch_also_where_trainer_multiplies_it() -> None:
    """As Trainer does in place, by the number of processes."""
    model = encoder().train()
    loss = TopKDistillationLoss(model)
    batch = default_data_collator(examples())
    labels = batch.pop("labels")
    value = loss(model(**batch), labels)
    before = value.item()
    value *= 2

    assert loss.last is not None
    assert float(loss.last.loss) == before
