"""The loss in a Trainer on a GPU: mixed precision, the Triton kernels, and what the same batch gives on a CPU."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)

from kdkernels.hf import TopKDistillationLoss

V, S, K = 1_000, 32, 8
SMALL = {
    "vocab_size": V,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 96,
}


def encoder() -> PreTrainedModel:
    return BertForMaskedLM(
        BertConfig(**SMALL, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    )


def decoder() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**SMALL, pad_token_id=0, bos_token_id=1, eos_token_id=2))


def examples() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    made = []
    for _ in range(8):
        tokens = torch.randint(5, V, (S,), generator=generator)
        top = torch.randn(S, V, generator=generator).mul(3).log_softmax(-1).topk(K)
        labels = torch.where(torch.rand(S, generator=generator) < 0.3, tokens, -100)
        made.append(
            {
                "input_ids": tokens,
                "labels": labels,
                "teacher_topk_ids": top.indices,
                "teacher_topk_logprobs": top.values,
            }
        )
    return made


def losses(model: PreTrainedModel, folder: Path, **where: Any) -> tuple[list[float], str]:
    """Of a few steps, and by which implementation."""
    args = TrainingArguments(
        output_dir=str(folder),
        max_steps=4,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=0.1,
        optim="sgd",
        lr_scheduler_type="constant",
        logging_steps=1,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        **where,
    )
    loss = TopKDistillationLoss(model, alpha=0.7, args=args)
    trainer = Trainer(model=model, args=args, train_dataset=examples(), compute_loss_func=loss)
    trainer.train()
    assert loss.last is not None
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], loss.last.impl


@pytest.mark.gpu
@pytest.mark.parametrize("make", [encoder, decoder])
@pytest.mark.parametrize(("mixed", "tolerance"), [(False, 1e-3), (True, 2e-2)])
def test_a_gpu_trains_as_a_cpu_does(
    make: Any, mixed: bool, tolerance: float, tmp_path: Path
) -> None:
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(make())
    wanted, _ = losses(models[0], tmp_path, use_cpu=True)
    measured, implementation = losses(models[1], tmp_path, bf16=mixed)

    assert implementation == "triton"
    assert measured == pytest.approx(wanted, rel=tolerance)
    assert measured[-1] < measured[0]
