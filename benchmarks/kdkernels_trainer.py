"""What does a step of transformers' Trainer cost with the top-k loss, beside the same formula on whole logits?

Forward and backward of `Trainer.training_step` on a masked model with the 250,002 pieces of XLM-R (15 % of the tokens masked)
and on a causal one with the 128,256 of Llama 3, two layers each, so that the vocabulary is most of it; bfloat16 autocast on a
GPU, float32 and smaller on a CPU. The rival is an eager `compute_loss_func` that takes the counted rows of the model's logits.
"""

from __future__ import annotations

import functools
import sys
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from record import Recorder, extra_memory, parser, race
from torch import Tensor
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

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
ALPHA, K, MASKED = 0.5, 16, 0.15


class Sizes(NamedTuple):
    pieces: int
    width: int
    batch: int
    length: int


ENCODER = Sizes(250_002, 768, 16, 512) if CUDA else Sizes(120_000, 384, 8, 256)
DECODER = Sizes(128_256, 1_024, 8, 512) if CUDA else Sizes(32_000, 384, 2, 256)
QUICK = Sizes(1_003, 64, 2, 32)


def main() -> None:
    options = parser(__doc__.splitlines()[0]).parse_args()
    recorder = Recorder("kdkernels_trainer", options)
    for kind, sizes in (("encoder", ENCODER), ("decoder", DECODER)):
        compare(recorder, kind, QUICK if options.quick else sizes, 3 if options.quick else 7)
    recorder.close()


def compare(recorder: Recorder, kind: str, sizes: Sizes, repeats: int) -> None:
    losses: dict[str, Callable[[PreTrainedModel], Any]] = {
        "TopKDistillationLoss": lambda model: TopKDistillationLoss(
            model, alpha=ALPHA, tail="renormalise"
        ),
        "eager on logits": EagerLoss,
    }
    batch = make_batch(kind, sizes)
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            name: prepared_step(make_model(kind, sizes), loss, batch, folder)
            for name, loss in losses.items()
        }
        values = [run() for run in runs.values()]
        torch.testing.assert_close(*values, rtol=1e-2, atol=0)
        times = race(runs, repeats=repeats)
        memory = {name: extra_memory(run) for name, run in runs.items()}
    recorder.add(
        f"{kind}, a training step", times, unit="s", floor="eager on logits", memory=memory,
        shape={**sizes._asdict(), "K": K, "layers": 2, "dtype": "bf16" if CUDA else "fp32"},
    )  # fmt: skip


def make_model(kind: str, sizes: Sizes) -> PreTrainedModel:
    torch.manual_seed(0)
    shape = {"vocab_size": sizes.pieces, "hidden_size": sizes.width, "num_hidden_layers": 2}
    shape |= {
        "num_attention_heads": sizes.width // 64 or 1,
        "intermediate_size": 4 * sizes.width,
        "max_position_embeddings": sizes.length,
    }
    with torch.device(DEVICE):
        if kind == "encoder":
            return BertForMaskedLM(
                BertConfig(**shape, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
            )
        ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        return LlamaForCausalLM(LlamaConfig(**shape, **ids))


def make_batch(kind: str, sizes: Sizes) -> dict[str, Tensor]:
    torch.manual_seed(0)
    shape = (sizes.batch, sizes.length)
    input_ids = torch.randint(5, sizes.pieces, shape, device=DEVICE)
    labels = input_ids.clone()
    labels[:, 0] = -100
    if kind == "encoder":
        labels[torch.rand(shape, device=DEVICE) > MASKED] = -100
    # Distinct by construction: one id from each of K stripes of the vocabulary.
    stripe = sizes.pieces // K
    ids = (
        torch.randint(stripe, (*shape, K), device=DEVICE) + torch.arange(K, device=DEVICE) * stripe
    )
    logprobs = (torch.softmax(2 * torch.randn(*shape, K, device=DEVICE), dim=-1) * 0.9).log()
    return {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "labels": labels,
        "teacher_topk_ids": ids,
        "teacher_topk_logprobs": logprobs,
    }


class EagerLoss:
    """The same formula on the counted rows of the logits, all of which the model makes."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._shift = isinstance(model, LlamaForCausalLM)
        model.register_forward_pre_hook(self._take, with_kwargs=True)

    def _take(self, _: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        self._teacher = kwargs.pop("teacher_topk_ids"), kwargs.pop("teacher_topk_logprobs")
        return args, kwargs

    def __call__(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor) -> Tensor:
        logits, (ids, logprobs) = outputs.logits, self._teacher
        if self._shift:
            logits, labels = logits[:, :-1], labels[:, 1:]
            ids, logprobs = ids[:, :-1], logprobs[:, :-1]
        counted = labels != -100
        log_q = logits[counted].float().log_softmax(-1)
        log_p = logprobs[counted].log_softmax(-1)
        hard = -log_q.gather(1, labels[counted][:, None]).sum()
        soft = (log_p.exp() * (log_p - log_q.gather(1, ids[counted]))).sum()
        return ((1 - ALPHA) * hard + ALPHA * soft) / num_items_in_batch


def prepared_step(
    model: PreTrainedModel,
    loss: Callable[[PreTrainedModel], Any],
    batch: dict[str, Tensor],
    folder: str,
) -> Callable[[], Tensor]:
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            folder, bf16=CUDA, use_cpu=not CUDA, remove_unused_columns=False, report_to=[]
        ),
        compute_loss_func=loss(model),
    )
    prepared = trainer.accelerator.prepare(model)
    rows = (batch["labels"] != -100).sum()
    return functools.partial(_step, trainer, prepared, batch, rows)


def _step(trainer: Trainer, model: Any, batch: dict[str, Tensor], rows: Tensor) -> Tensor:
    model.zero_grad(set_to_none=True)
    return trainer.training_step(model, dict(batch), rows)


if __name__ == "__main__":
    sys.exit(main())
