"""Hidden states of the words of sentences, of a model that stays as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xeval.encoder import longest_row, open_encoder, open_tokenizer
from xeval.errors import XevalError
from xeval.progress import ProgressCallback
from xeval.protocol import Protocol
from xeval.sentences.kinds import device
from xeval.sentences.vectors import require_numbers
from xeval.task_templates.batches import by_length, pad_rows, place_words
from xeval.task_templates.word_tokenization import Encoded, Pieces

_TOKENS = 4096
WORD_SETTINGS = ("pooling", "layer")


class WordStates:
    """An encoder in float32, asked for the hidden states of words.

    Args:
        model: a model folder or Hub name.
        protocol: its `max_length`, `pooling` and `layer` are honoured.

    Attributes:
        layers: those that may be read, 0 being the embeddings: the protocol's, or all of them.

    Raises:
        XevalError: it cannot be opened, or has no such layer.
    """

    def __init__(self, model: str, protocol: Protocol) -> None:
        encoder: Any = open_encoder(model)
        layers = int(encoder.config.num_hidden_layers)
        wanted = protocol.layer
        if wanted is not None and not -layers - 1 <= wanted <= layers:
            raise XevalError(
                f"layer must lie between {-layers - 1} and {layers}, the last, for this model; got {wanted!r}"
            )
        self.layers = range(layers + 1) if wanted is None else [wanted % (layers + 1)]
        self._name, self._encoder = model, encoder.to(device()).eval()
        self._pieces = Pieces(open_tokenizer(model), min(protocol.window, longest_row(encoder)))
        self._pooling = protocol.pooling

    def method(self, layer: int) -> str:
        """How words are read from a layer, in words."""
        pieces = "first sub-word" if self._pooling == "first" else "mean of the sub-words"
        return f"hidden states of words, {pieces}, layer {layer} of {self._encoder.config.num_hidden_layers}"

    def encode(self, sentences: Sequence[Sequence[str]]) -> list[Encoded]:
        """Sentences, given as words, to rows of sub-words."""
        return self._pieces.encode_words(sentences)

    def batches(
        self,
        encoded: Sequence[Encoded],
        layers: Sequence[int],
        watch: ProgressCallback,
        what: str,
    ) -> Iterator[tuple[list[int], list[NDArray[np.float32]]]]:
        """Batch after batch, longest sentences first.

        Args:
            encoded: sentences.
            layers: which hidden states.
            watch: told the sentences done.
            what: said to `watch`.

        Yields:
            The places of a batch's sentences, and from each layer the states `[n, H]` of all their words, in that order.
        """
        import torch

        from xeval.task_templates.heads import word_states

        done = 0
        for indices in by_length(encoded, tokens=_TOKENS):
            chosen = [encoded[i] for i in indices]
            rows, words = (
                {name: tensor.to(self._encoder.device) for name, tensor in tensors.items()}
                for tensors in (pad_rows(chosen, self._pieces.pad_id), place_words(chosen))
            )
            with torch.inference_mode():
                hidden = self._encoder(**rows, output_hidden_states=True).hidden_states
                states = [word_states(hidden[layer], words, self._pooling) for layer in layers]
            there = words["word_size"] > 0
            read = [of_layer[there].cpu().numpy() for of_layer in states]
            for of_layer in read:
                require_numbers(of_layer, self._name)
            yield indices, read
            done += len(indices)
            watch(done, len(encoded), what)
