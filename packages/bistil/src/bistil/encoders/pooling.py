"""A sentence encoder: an encoder and the modules of sentence-transformers behind it, from the states of tokens to a vector."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bistil.errors import ModelError
from teacherzoo.vectors.encoder import open_sentence_encoder

if TYPE_CHECKING:
    from typing import Self

# Of sentence-transformers; each reads what the one before it wrote, and none reads states of inner layers.
_MODULES = ("Pooling", "Dense", "Normalize", "LayerNorm", "Dropout")


class SentenceEncoder(nn.Module):
    """Rows of tokens to vectors [B, D]: what `sentence_transformers.SentenceTransformer` computes, with gradients.

    Args:
        encoder: a headless model of transformers.
        modules: what stands behind it, in order: Pooling, Dense, Normalize and their like.
    """

    def __init__(self, encoder: nn.Module, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.encoder: Any = encoder
        self.pooling = nn.ModuleList(modules)

    @property
    def config(self) -> Any:
        """The encoder's configuration."""
        return self.encoder.config

    @property
    def device(self) -> torch.device:
        """Where the encoder is."""
        return next(self.encoder.parameters()).device

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, *, prompt_length: int = 0, **inputs: Tensor
    ) -> Tensor:
        """The vectors [B, D] of rows [B, S].

        Args:
            input_ids: [B, S].
            attention_mask: [B, S], 0 at padding.
            prompt_length: leading tokens of a prompt, which some models leave out of pooling.
            inputs: further ones of the encoder.
        """
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **inputs)[0]
        return self.pooled(states, attention_mask, prompt_length=prompt_length)

    def pooled(self, states: Tensor, attention_mask: Tensor, *, prompt_length: int = 0) -> Tensor:
        """The vectors [B, D] of token states [B, S, H]."""
        features: dict[str, Any] = {"token_embeddings": states, "attention_mask": attention_mask}
        if prompt_length:
            features["prompt_length"] = prompt_length
        for module in self.pooling:
            features = module(features)
        vectors: Tensor = features["sentence_embedding"]
        return vectors

    def train(self, mode: bool = True) -> Self:
        """Modules behind the encoder stay as in evaluation: they have no dropout, as a student has none."""
        super().train(mode)
        self.pooling.eval()
        return self

    def num_parameters(self, *, exclude_embeddings: bool = False) -> int:
        """As transformers counts them, with those of the modules behind the encoder."""
        behind = sum(parameter.numel() for parameter in self.pooling.parameters())
        return int(self.encoder.num_parameters(exclude_embeddings=exclude_embeddings)) + behind

    def save_pretrained(self, folder: Path, state_dict: Mapping[str, Tensor] | None = None) -> None:
        """Write all weights into one safetensors file, as a checkpoint of a training."""
        from safetensors.torch import save_file

        Path(folder).mkdir(parents=True, exist_ok=True)
        weights = self.state_dict() if state_dict is None else state_dict
        save_file(
            {name: tensor.detach().contiguous() for name, tensor in weights.items()},
            Path(folder) / "model.safetensors",
        )


@dataclass(frozen=True, kw_only=True)
class SentenceModules:
    """What a sentence-transformers folder holds beside its encoder.

    Attributes:
        modules: behind the encoder, in order.
        folders: of each, below the model's.
        tokenizer: as the folder's own, lower-casing included.
        max_length: the most tokens of a row.
        prompts: name to text.
        default_prompt: what stands in front of every text unless another prompt is named; "" for nothing.
    """

    modules: tuple[nn.Module, ...]
    folders: tuple[str, ...]
    tokenizer: Any
    max_length: int
    prompts: Mapping[str, str]
    default_prompt: str

    @property
    def dimension(self) -> int | None:
        """D of the vectors; None where no module says."""
        for module in reversed(self.modules):
            for name in ("out_features", "pooling_output_dimension"):
                if hasattr(module, name):
                    return int(getattr(module, name))
        return None


def read_sentence_modules(folder: Path) -> SentenceModules:
    """Open a sentence-transformers folder, without keeping its encoder.

    Args:
        folder: with `modules.json`.

    Raises:
        TeacherError: see `open_sentence_encoder`.
        ModelError: for modules that are not known here.
    """
    model = open_sentence_encoder(folder, device="cpu")
    stated = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    names = [str(module["type"]).rpartition(".")[2] for module in stated]
    if not names or names[0] != "Transformer":
        raise ModelError(
            f"{folder}: a sentence encoder begins with one Transformer, here with {', '.join(names[:1]) or 'nothing'}; "
            "extract the encoder that you need from a folder of its own."
        )
    for name in names[1:]:
        if name not in _MODULES:
            raise ModelError(
                f"{folder}: its module {name} is not known here; those that can be taught through are {', '.join(_MODULES)}."
            )
    transformer, *modules = model
    default = model.prompts.get(model.default_prompt_name, "") if model.default_prompt_name else ""
    return SentenceModules(
        modules=tuple(modules),
        folders=tuple(str(module["path"]) for module in stated[1:]),
        tokenizer=model.tokenizer,
        max_length=int(transformer.max_seq_length or model.tokenizer.model_max_length),
        prompts=dict(model.prompts),
        default_prompt=default,
    )
