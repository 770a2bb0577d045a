"""One vector per text: by the own modules of a sentence or sparse encoder, else as the mean of an encoder's hidden states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from xeval.encoder import longest_row, named, open_encoder, open_tokenizer, quiet
from xeval.errors import XevalError
from xeval.progress import ProgressCallback
from xeval.protocol import Protocol as Settings
from xeval.sentences.kinds import (
    SENTENCE_ENCODER,
    SPARSE_ENCODER,
    device,
    kind_of,
    sentence_transformers,
)
from xeval.sentences.sparse_rows import rows_of_unit_length, stacked_rows, tensor_of
from xeval.task_templates.batches import by_length, pad_rows
from xeval.task_templates.word_tokenization import Pieces

_TOKENS = 4096
_TEXTS = 512  # between two reports of progress
_SCORES = 1 << 24  # of a table at a time

Vectors = NDArray[np.float32]
"""`[n, D]`; of a sparse encoder SciPy's `csr_array`, whose rows are chosen alike."""
Role = Literal["text", "query", "document"]
"""What a text is in a task: one of two of a kind, or a query and what it looks for."""
ROLES: tuple[Role, ...] = ("text", "query", "document")
# The names that `encode_query` and `encode_document` look for. Of these the first that is not empty counts here: sentence-transformers 6.2
# takes an empty "document" that it has put there itself, and leaves out the "passage: " of a model that wants it.
_PROMPT_NAMES: dict[Role, tuple[str, ...]] = {
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
}

VECTOR_SETTINGS = ("max_length", "layer")
_WORDS = {SENTENCE_ENCODER: "sentence encoder", SPARSE_ENCODER: "sparse encoder"}


class TextVectors(Protocol):
    """A model that makes a vector of a text.

    Attributes:
        method: how, in words.
    """

    method: str

    def encode(
        self, texts: Sequence[str], role: Role, watch: ProgressCallback, what: str
    ) -> tuple[Vectors, int]:
        """Vectors `[n, D]` in the order of the texts, and how many texts were cut."""

    def similarity(self, a: Vectors, b: Vectors) -> Vectors:
        """How alike `[n, m]` rows of `a` `[n, D]` and `b` `[m, D]` are, by the model's own measure."""


def open_vectors(model: str, protocol: Settings) -> TextVectors:
    """A sentence or sparse encoder as its folder says, or the mean of hidden states of any other encoder.

    Args:
        model: a model folder or Hub name.
        protocol: its `max_length`, `layer` and prompts are honoured.

    Raises:
        XevalError: when it cannot be opened, sentence-transformers is needed and absent, or `layer` is given for a sentence
            or sparse encoder, which has its own pooling.
    """
    prompts: dict[Role, str | None] = {
        "text": protocol.text_prompt,
        "query": protocol.query_prompt,
        "document": protocol.document_prompt,
    }
    kind = kind_of(model)
    if kind not in (SENTENCE_ENCODER, SPARSE_ENCODER):
        return MeanStates(model, protocol.window, protocol.layer, prompts)
    if protocol.layer is not None:
        raise XevalError(
            f"{model}: is a {_WORDS[kind]}, which is judged by its own pooling, but layer is {protocol.layer!r}; "
            "leave the layer out"
        )
    return SentenceVectors(model, protocol.max_length, prompts, library_class=kind)


def prompt_of(role: Role, prompts: Mapping[str, str], default: str) -> str:
    """What a sentence encoder's folder puts before texts of a role.

    Args:
        role: of the text.
        prompts: the folder's, by name.
        default: the one for texts that are neither queries nor documents.

    Example:
        >>> prompt_of("document", {"query": "query: ", "passage": "passage: "}, "query: ")
        'passage: '
    """
    if role == "text":
        return default
    return next((text for name in _PROMPT_NAMES[role] if (text := prompts.get(name))), "")


class SentenceVectors:
    """A sentence or sparse encoder of sentence-transformers, by its own modules, prompts and similarity, in float32.

    Args:
        model: a folder with `modules.json`, or a Hub name.
        max_length: sub-words of a text; the encoder's own limit where that is smaller or this is None.
        prompts: by role, in place of the encoder's own; None keeps those.
        library_class: "SentenceTransformer" or "SparseEncoder".
    """

    def __init__(
        self,
        model: str,
        max_length: int | None,
        prompts: dict[Role, str | None],
        *,
        library_class: str = SENTENCE_ENCODER,
    ) -> None:
        self._name = model
        opened_by = getattr(sentence_transformers(model), library_class)
        self._sparse = library_class == SPARSE_ENCODER
        with named(model, _WORDS[library_class]), quiet():
            self._model = opened_by(
                model, device=device(), trust_remote_code=False, model_kwargs={"dtype": "float32"}
            )
        limit = self._model.max_seq_length
        if max_length is not None and (limit is None or max_length < limit):
            try:
                self._model.max_seq_length = max_length
            except AttributeError as error:
                raise XevalError(
                    f"{model}: has a module that reads texts whole, so that max_length {max_length} cannot be kept; leave it out"
                ) from error
        self._prompts = prompts
        modules = ", ".join(type(module).__name__ for module in self._model)
        said = [f"{role} {self._prompt(role)!r}" for role in ROLES if self._prompt(role)]
        self.method = f"{_WORDS[library_class]} ({modules}), {self._model.similarity_fn_name}" + (
            f", prompts: {', '.join(said)}" if said else ""
        )

    def _prompt(self, role: Role) -> str:
        """What stands before texts of this role: as given, else as the folder says."""
        given = self._prompts[role]
        if given is not None:
            return given
        default = self._model.prompts.get(self._model.default_prompt_name) or ""
        return prompt_of(role, self._model.prompts, default)

    def encode(
        self, texts: Sequence[str], role: Role, watch: ProgressCallback, what: str
    ) -> tuple[Vectors, int]:
        """Vectors `[n, D]` by `encode`, `encode_query` or `encode_document`, longest texts first."""
        ask = {
            "text": self._model.encode,
            "query": self._model.encode_query,
            "document": self._model.encode_document,
        }[role]
        form = {"save_to_cpu": True} if self._sparse else {"convert_to_numpy": True}
        order = sorted(range(len(texts)), key=lambda i: (-len(texts[i]), i))
        parts = []
        for start in range(0, len(order), _TEXTS):
            chosen = [texts[i] for i in order[start : start + _TEXTS]]
            parts.append(ask(chosen, prompt=self._prompts[role], show_progress_bar=False, **form))
            watch(start + len(chosen), len(order), what)
        rows = stacked_rows(parts) if self._sparse else np.concatenate(parts)
        vectors: Vectors = rows[np.argsort(order)]
        require_numbers(vectors, self._name)
        return vectors, self._cut([self._prompt(role) + text for text in texts])

    def _cut(self, texts: list[str]) -> int:
        """How many texts have more sub-words than the encoder reads."""
        limit, tokenizer = self._model.max_seq_length, self._model.tokenizer
        if limit is None or limit == float("inf") or not callable(tokenizer):
            return 0
        ids = tokenizer(texts, truncation=False, verbose=False)["input_ids"]
        return sum(len(row) > limit for row in ids)

    def similarity(self, a: Vectors, b: Vectors) -> Vectors:
        """The encoder's own: where its folder names no other, cosine, and the product of sparse vectors."""
        rows = max(1, _SCORES // b.shape[0])
        form: Any = tensor_of if self._sparse else np.asarray
        known = form(b)
        return np.concatenate(
            [
                self._model.similarity(form(a[start : start + rows]), known).cpu().numpy()
                for start in range(0, a.shape[0], rows)
            ]
        )


class MeanStates:
    """Mean of the hidden states of the sub-words of a text, special tokens left out, of unit length.

    Args:
        model: a model folder or Hub name.
        window: sub-words of a text at most.
        layer: which hidden states; -1 is the last, None the middle one.
        prompts: what stands before texts, by role.
    """

    def __init__(
        self, model: str, window: int, layer: int | None, prompts: dict[Role, str | None]
    ) -> None:
        encoder: Any = open_encoder(model)
        self._name, self._encoder = model, encoder.to(device()).eval()
        self._pieces = Pieces(open_tokenizer(model), min(window, longest_row(encoder)))
        self._prompts = prompts
        layers = encoder.config.num_hidden_layers
        self._layer = (layers + 1) // 2 if layer is None else layer
        if not -layers - 1 <= self._layer <= layers:
            raise XevalError(
                f"layer must lie between {-layers - 1} and {layers}, the last, for this model; got {layer!r}"
            )
        self.method = f"mean of hidden states, layer {self._layer % (layers + 1)} of {layers}"

    def encode(
        self, texts: Sequence[str], role: Role, watch: ProgressCallback, what: str
    ) -> tuple[Vectors, int]:
        """Vectors `[n, H]` of unit length, longest texts first."""
        import torch

        prompt = self._prompts[role] or ""
        pieces = self._pieces
        encoded, cut = pieces.encode_texts([prompt + text for text in texts])
        means = np.zeros((len(texts), self._encoder.config.hidden_size), dtype=np.float32)
        before, after = len(pieces.before), len(pieces.after)
        done = 0
        with torch.inference_mode():
            for indices in by_length(encoded, tokens=_TOKENS):
                rows = pad_rows([encoded[i] for i in indices], pieces.pad_id)
                batch = {name: tensor.to(self._encoder.device) for name, tensor in rows.items()}
                outputs = self._encoder(**batch, output_hidden_states=True)
                states = outputs.hidden_states[self._layer]
                # A text of special tokens alone keeps them.
                inside = batch["attention_mask"].clone()
                for row, i in enumerate(indices):
                    length = len(encoded[i].rows[0])
                    if length > before + after:
                        inside[row, :before] = 0
                        inside[row, length - after : length] = 0
                weights = inside[..., None].to(states.dtype)
                mean = (states * weights).sum(dim=1) / weights.sum(dim=1)
                means[indices] = torch.nn.functional.normalize(mean, dim=-1).cpu().numpy()
                done += len(indices)
                watch(done, len(texts), what)
        require_numbers(means, self._name)
        return means, cut

    def similarity(self, a: Vectors, b: Vectors) -> Vectors:
        """Cosine."""
        return a @ b.T


def require_numbers(vectors: Vectors, model: str) -> None:
    """Refuse vectors or scores that hold what is no number: what is nearest to such a vector is no answer of the model.

    Raises:
        XevalError: naming the model.
    """
    if not np.isfinite(vectors if isinstance(vectors, np.ndarray) else vectors.data).all():
        raise XevalError(
            f"{model}: gives vectors or scores that are no finite numbers; its weights are damaged: save or merge it again"
        )


def unit(vectors: Vectors) -> Vectors:
    """Rows of unit length; a row of zeros stays."""
    if not isinstance(vectors, np.ndarray):
        return rows_of_unit_length(vectors)  # of a sparse encoder
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths == 0, 1, lengths), dtype=np.float32)


def told_cut(cut: int, texts: int) -> list[str]:
    """The note on texts that were cut, where any was."""
    return [f"{cut} of {texts} texts were longer than a row and were cut"] * (cut > 0)
