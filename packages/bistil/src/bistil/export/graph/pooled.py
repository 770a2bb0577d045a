"""Folders of sentence-transformers as a torch module that can be traced: encoder, pooling, Dense, norm, score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from bistil.errors import ExportError
from teacherzoo.vectors.encoder import open_sentence_encoder
from vocabmerge import Layout

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_TRACED = ("Pooling", "Dense", "Normalize", "LayerNorm", "Dropout", "WeightedLayerPooling")
_CONTINUATIONS = ("a", "0", ".")
_OTHER_READING = ("processing_kwargs", "query_length", "document_length", "query_expansion")


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """What a folder of sentence-transformers computes.

    Attributes:
        encoder: the model of transformers in it.
        module: `INPUTS` to a tuple of tensors.
        outputs: names of these, and what the axes of each are.
        tokenizer: as the folder's own.
        longest: the most tokens of a row.
        prompts: name to text.
        default_prompt: in front of every text unless another is named.
        leaves_prompt_out: whether pooling leaves prompts out, of which a graph knows those in `prompts` alone.
        similarity: by which sentence-transformers compares vectors: "cosine", "dot", "euclidean" or "manhattan".
        several_labels: of a classifier, whether its labels do not exclude one another.
    """

    encoder: Any
    module: nn.Module
    outputs: Mapping[str, tuple[str, ...]]
    tokenizer: Any
    longest: int
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str = ""
    leaves_prompt_out: bool = False
    similarity: str = "cosine"
    several_labels: bool = False


def open_sentences(layout: Layout) -> Pipeline:
    """A sentence encoder: the states of tokens, and the vectors that its modules make of them.

    Raises:
        ExportError: for a module that cannot be traced.
        TeacherError: where sentence-transformers cannot open the folder.
    """
    _require_one_transformer(layout)
    model = open_sentence_encoder(layout.folder, device="cpu")
    transformer, *modules = model
    for module, stated in zip(modules, layout.modules[1:], strict=True):
        if stated.name not in _TRACED:
            raise ExportError(
                f"{layout.folder}: its module {stated.name} cannot be part of a graph; those that can are {', '.join(_TRACED)}."
            )
        if _leaves_prompt_out(module) and "weightedmean" in module.pooling_mode:
            raise ExportError(
                f"{layout.folder / stated.file}: a weighted mean that leaves the prompt out cannot be part of a graph; set "
                "include_prompt to true, if the model was trained so, or export a model that pools otherwise."
            )
    leaves_prompt_out = any(map(_leaves_prompt_out, modules))
    prompts = filter(None, model.prompts.values()) if leaves_prompt_out else ()
    starts = [_start_of(transformer, prompt, layout) for prompt in prompts]
    return Pipeline(
        encoder=_eager(transformer.auto_model),
        module=_Pooled(transformer.auto_model, modules, starts, model.truncate_dim),
        outputs={
            "last_hidden_state": ("batch", "sequence", "width"),
            "sentence_embedding": ("batch", "dimension"),
        },
        **_texts_of(model, layout),
        leaves_prompt_out=leaves_prompt_out,
        similarity=model.similarity_fn_name,
    )


def open_sparse(layout: Layout) -> Pipeline:
    """A sparse encoder: the logits of a masked LM, and the vector over the vocabulary that SPLADE makes of them.

    Raises:
        ExportError: for other modules than a masked LM and SpladePooling, or a folder that cannot be opened.
    """
    names = [module.name for module in layout.modules]
    if names not in (["Transformer", "SpladePooling"], ["MLMTransformer", "SpladePooling"]):
        raise ExportError(
            f"{layout.folder}: its modules are {', '.join(names)}; a sparse encoder is exported that is a masked LM with "
            "SpladePooling behind it."
        )
    model = _opened("SparseEncoder", layout)
    transformer, pooling = model
    return Pipeline(
        encoder=_eager(transformer.auto_model),
        module=_Splade(
            transformer.auto_model,
            pooling.activation_function,
            pooling.pooling_strategy,
            model.max_active_dims,
        ),
        outputs={
            "logits": ("batch", "sequence", "vocabulary"),
            "sentence_embedding": ("batch", "vocabulary"),
        },
        **_texts_of(model, layout),
        similarity=model.similarity_fn_name,
    )


def open_cross_encoder(layout: Layout) -> Pipeline:
    """A reranker: the logit of a pair of texts, and the score that its activation makes of it; of several labels the logits.

    Raises:
        ExportError: for modules behind the model, or a folder that cannot be opened.
    """
    if layout.modules:
        _require_one_transformer(layout)
    if len(layout.modules) > 1:
        raise ExportError(
            f"{layout.folder}: its module {layout.modules[1].name} cannot be part of a graph; a cross-encoder is exported whose "
            "scores are the logits of its model."
        )
    model = _opened("CrossEncoder", layout)
    transformer = model[0]
    scored = {"score": ("batch",)} if layout.reranker else {}
    return Pipeline(
        encoder=_eager(transformer.auto_model),
        module=_CrossEncoder(transformer.auto_model, model.activation_fn if scored else None),
        outputs={"logits": ("batch", "labels"), **scored},
        **_texts_of(model, layout),
        several_labels=not scored and isinstance(model.activation_fn, nn.Sigmoid),
    )


class _Pooled(nn.Module):
    """`INPUTS` to the states of tokens [B, S, H] and vectors [B, D], as `SentenceTransformer.encode` computes them.

    Args:
        encoder: a headless model of transformers.
        modules: of sentence-transformers behind it, in order.
        prompts: ids that a row begins with where it has a prompt, and how many tokens of it are left out of pooling.
        truncate_dim: how many numbers of a vector stay, the first; all by default.
    """

    def __init__(
        self,
        encoder: nn.Module,
        modules: Sequence[nn.Module],
        prompts: Sequence[tuple[Sequence[int], int]] = (),
        truncate_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.modules_behind = nn.ModuleList(modules)
        self._prompts = sorted(prompts, key=lambda start: len(start[0]))
        self._truncate_dim = truncate_dim

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = self.encoder(**dict(zip(INPUTS, inputs, strict=False)))
        states = outputs.last_hidden_state
        features = {
            "token_embeddings": states,
            "attention_mask": self._without_prompt(inputs[0], inputs[1]),
        }
        if getattr(outputs, "hidden_states", None) is not None:
            features["all_layer_embeddings"] = outputs.hidden_states
        for module in self.modules_behind:
            features = module(features)
        return states, features["sentence_embedding"][:, : self._truncate_dim]

    def _without_prompt(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The mask [B, S] without the tokens of the longest prompt that a row begins with."""
        if not self._prompts:
            return mask
        place = (mask.cumsum(dim=1) - 1).masked_fill(mask == 0, -1)
        left_out = torch.zeros_like(ids[:, 0])
        for start, length in self._prompts:
            prompt = torch.tensor(start)
            inside = (place >= 0) & (place < len(start))
            same = (ids == prompt[place.clamp(0, len(start) - 1)]) & inside
            left_out = torch.where(same.sum(dim=1) == len(start), length, left_out)
        return mask * (place >= left_out[:, None])


class _Splade(nn.Module):
    """Logits, and log(1 + relu(logits)) pooled over a row's tokens, of which the `most` largest stay, by default all."""

    def __init__(
        self, model: nn.Module, activation: str, strategy: str, most: int | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self._activation, self._strategy, self._most = activation, strategy, most

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        logits = self.model(**dict(zip(INPUTS, inputs, strict=False))).logits
        weights = torch.log1p(torch.relu(logits * inputs[1][..., None].to(logits.dtype)))
        if self._activation == "log1p_relu":
            weights = torch.log1p(weights)
        vectors = weights.amax(dim=1) if self._strategy == "max" else weights.sum(dim=1)
        if self._most is not None:
            largest, places = vectors.topk(min(self._most, vectors.shape[1]))
            vectors = torch.zeros_like(vectors).scatter(1, places, largest)
        return logits, vectors


class _CrossEncoder(nn.Module):
    """Logits [B, C] of pairs of texts, and with an activation the scores [B] of the first label."""

    def __init__(self, model: nn.Module, activation: nn.Module | None) -> None:
        super().__init__()
        self.model, self.activation = model, activation

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        logits = self.model(**dict(zip(INPUTS, inputs, strict=False))).logits
        return (logits, self.activation(logits)[:, 0]) if self.activation else (logits,)


def _require_one_transformer(layout: Layout) -> None:
    names = [module.name for module in layout.modules]
    if names[0] != "Transformer" or len(layout.transformers) != 1:
        raise ExportError(
            f"{layout.folder}: a graph holds one Transformer and what stands behind it, and this folder begins with {names[0]}"
            f"{f' of {len(layout.transformers)} towers' if len(layout.transformers) > 1 else ''}; save the encoder that you need "
            "as a folder of its own, SentenceTransformer(modules=[…]).save(…), and export that."
        )


def _leaves_prompt_out(module: nn.Module) -> bool:
    return getattr(module, "include_prompt", True) is False


def _start_of(transformer: Any, prompt: str, layout: Layout) -> tuple[list[int], int]:
    """The ids that every text with a prompt begins with, and the tokens that sentence-transformers counts as the prompt's."""

    def ids(text: str) -> list[int]:
        row: list[int] = transformer.preprocess([text])["input_ids"][0].tolist()
        return row

    alone = ids(prompt)
    if alone[-1] in transformer.tokenizer.all_special_ids:
        alone.pop()
    rows = (alone, *(ids(prompt + text) for text in _CONTINUATIONS))
    start = [same[0] for same in takewhile(lambda column: len({*column}) == 1, zip(*rows, strict=False))]  # fmt: skip
    if not any(piece not in transformer.tokenizer.all_special_ids for piece in start):
        raise ExportError(
            f"{layout.folder}: its pooling leaves the prompt {prompt!r} out, and no token of it stays as it is before a text, so a "
            "graph could not tell where it ends; end the prompt with a space or a sign."
        )
    return start, len(alone)


def _texts_of(model: Any, layout: Layout) -> dict[str, Any]:
    """How sentence-transformers reads texts: by which tokenizer, of how many tokens at most, and behind which prompts."""
    transformer = model[0]
    stated = [name for name in _OTHER_READING if getattr(transformer, name, None)]
    if "message" in transformer.modalities:
        stated.append("a chat template")
    if stated:
        raise ExportError(
            f"{layout.folder}: its texts are read with {stated[0]}, and the programs that serve a graph read them plainly; save the model "
            "without, if it was trained so, and a length as max_seq_length."
        )
    return {
        "tokenizer": model.tokenizer,
        "longest": int(model.max_seq_length or model.tokenizer.model_max_length),
        "prompts": dict(model.prompts),
        "default_prompt": model.prompts.get(model.default_prompt_name, ""),
    }


def _opened(name: str, layout: Layout) -> Any:
    """A folder as a class of sentence-transformers, on the CPU, in float32."""
    from xeval.encoder import quiet

    try:
        import sentence_transformers
    except ImportError as error:
        raise ExportError(
            f"{layout.folder}: a {name} is opened by sentence-transformers, which is not installed; "
            "pip install 'bistil[sentences]'."
        ) from error
    try:
        with quiet():
            model = getattr(sentence_transformers, name)(
                str(layout.folder), device="cpu", local_files_only=True
            )
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise ExportError(
            f"{layout.folder}: sentence-transformers cannot open it: {first[0]}"
        ) from error
    return model.float()


def _eager(model: Any) -> Any:
    model.set_attn_implementation("eager")
    return model
