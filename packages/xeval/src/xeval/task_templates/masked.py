"""A masked language model asked for the probability of pieces at masked positions, and of no others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from xeval.encoder import attention_for, named, open_tokenizer, quiet
from xeval.errors import XevalError

_LOGIT_BYTES = 256 * 2**20


class MaskedModel:
    """A masked language model whose output layer is applied to chosen positions alone.

    Args:
        model: with a masked-LM head.
        mask_id: of the mask token.
        name: for messages.
    """

    def __init__(self, model: Any, mask_id: int, name: str) -> None:
        self.model = model.eval()
        self.mask_id = mask_id
        self.name = name
        self._places: tuple[Tensor, Tensor] | None = None
        if (out := model.get_output_embeddings()) is not None:
            out.register_forward_pre_hook(self._pick)

    def rows_at_once(self, tokens: int) -> int:
        """Fewer sub-words per batch for large vocabularies: about a sixth of them need logits."""
        return max(256, min(tokens, 6 * _LOGIT_BYTES // (4 * self.model.config.vocab_size)))

    def bits(
        self, batch: dict[str, Tensor], gold: Sequence[Sequence[tuple[int, int]]]
    ) -> list[float]:
        """−log2 of the probability of gold pieces, summed per row.

        Args:
            batch: of `xeval.task_templates.batches.pad_rows`, `[R, T]`.
            gold: per row, (position, id).
        """
        device = next(self.model.parameters()).device
        rows = torch.tensor([i for i, row in enumerate(gold) for _ in row], device=device)
        places = torch.tensor([place for row in gold for place, _ in row], device=device)
        ids = torch.tensor([piece for row in gold for _, piece in row], device=device)
        self._places = (rows, places)
        with torch.inference_mode():
            logits = self.model(**{name: t.to(device) for name, t in batch.items()}).logits
            if logits.dim() == 3:
                logits = logits[rows, places]
            chances = logits.float().log_softmax(dim=-1).gather(1, ids[:, None])[:, 0].double()
        self._places = None
        if not bool(torch.isfinite(chances).all()):
            raise XevalError(
                f"{self.name}: the model gives probabilities that are not numbers; its weights are damaged"
            )
        sums = torch.zeros(len(gold), dtype=torch.double, device=device).index_add_(
            0, rows, -chances / math.log(2)
        )
        return [float(value) for value in sums]

    def _pick(self, _module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if self._places is None or inputs[0].dim() != 3:
            return None
        return (inputs[0][self._places], *inputs[1:])


def open_masked(model: str) -> tuple[MaskedModel, Any]:
    """A masked language model and its tokenizer.

    Raises:
        XevalError: when the folder has no masked-LM head, or the tokenizer no mask token.
    """
    from transformers import AutoConfig, AutoModelForMaskedLM

    tokenizer = open_tokenizer(model)
    if tokenizer.mask_token_id is None:
        raise XevalError(
            f"{model}: the tokenizer has no mask token, so no word can be hidden from the model"
        )
    with named(model, "masked language model"), quiet():
        config = AutoConfig.from_pretrained(model, trust_remote_code=False)
        opened, info = AutoModelForMaskedLM.from_pretrained(
            model,
            config=config,
            attn_implementation=attention_for(config),
            dtype="float32",
            trust_remote_code=False,
            output_loading_info=True,
        )
    if info["missing_keys"]:
        raise XevalError(
            f"{model}: has no trained masked-LM head ({sorted(info['missing_keys'])[0]!r} is missing); "
            "give the folder of the pretrained model, not of a tuned one"
        )
    if torch.cuda.is_available():
        opened.to("cuda")
    return MaskedModel(opened, tokenizer.mask_token_id, model), tokenizer
