"""An encoder whose hidden states of words a student learns: checked, opened for a run, and asked in each step."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from mergedistill.errors import StageError
from mergedistill.recipe.recipe import Recipe, States
from mergedistill.targets.batch import StatesTargets
from mergedistill.targets.encoder_words import EncoderWords, WordsOfBatch, no_words
from teacherzoo import Signals, Teacher, load_teacher
from teacherzoo.catalogue.catalogue import find_teacher
from teacherzoo.encoders.families import known_family
from teacherzoo.encoders.inference import Precision
from teacherzoo.encoders.kinds import model_layout, shell_of
from teacherzoo.encoders.layers import lowest_layers
from teacherzoo.encoders.teachers import teacher_folder

_LOG = logging.getLogger("mergedistill")
_SAMPLE = 1000  # blocks of a language of which words are counted


class EncoderStates:
    """The states of words, of an encoder in evaluation mode and without gradients.

    It is no module: it is not saved, trained or sharded with the student. At its first batch it moves to the batch's device.

    Args:
        encoder: as `load_teacher` opens it.
        states: which layer; those above are taken away.
        precision: that it computes in.

    Attributes:
        width: of its hidden states.

    Raises:
        StageError: for a model that does not give each token of a text its state.
    """

    def __init__(self, encoder: Teacher, states: States, *, precision: Precision) -> None:
        self._encoder: Any = encoder.model.base_model.requires_grad_(False)
        if states.layer != "last" and states.layer < _depth(self._encoder.config):
            lowest_layers(self._encoder, states.layer)
            norm = known_family(self._encoder.config).final_norm
            if norm is not None:  # which stands behind the last layer alone
                self._encoder.set_submodule(norm, nn.Identity())
        self._bfloat16 = precision == "bfloat16"
        self.width = self._width(states.called)

    @torch.no_grad()
    def _width(self, name: str) -> int:
        """Of the states, as a few tokens have them."""
        kind = self._encoder.config.model_type
        tokens = torch.ones(1, 8, dtype=torch.int64)
        try:
            shape = self._encoder(input_ids=tokens, attention_mask=tokens).last_hidden_state.shape
        except (AttributeError, TypeError, ValueError) as error:
            raise StageError(
                f"states.encoder: {name} is a {kind!r} model, which text alone is not enough for; choose an encoder of text."
            ) from error
        if shape[:-1] != tokens.shape:
            raise StageError(
                f"states.encoder: {name} is a {kind!r} model, which has fewer states than tokens; choose another encoder."
            )
        return int(shape[-1])

    @torch.no_grad()
    def words(self, targets: StatesTargets) -> Tensor:
        """[M, H] in float32: of each word the mean over its pieces."""
        device = targets.input_ids.device
        if not targets.count:
            return torch.zeros(0, self.width, device=device)
        self._encoder.to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self._bfloat16):
            states = self._encoder(
                input_ids=targets.input_ids, attention_mask=targets.attention_mask
            ).last_hidden_state
        return word_means(states, targets.encoder_cells, targets.encoder_words, targets.count)


def word_means(states: Tensor, cells: Tensor, words: Tensor, count: int) -> Tensor:
    """The mean over the pieces of each word, in float32.

    Args:
        states: [B, S, H].
        cells: [P] numbers of cells of [B, S].
        words: [P] the word of each, from 0 to M - 1; every word has a piece.
        count: M.

    Returns:
        [M, H].

    Example:
        >>> states = torch.tensor([[[1.0], [2.0], [4.0]]])
        >>> word_means(states, torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1]), 2).tolist()
        [[1.0], [3.0]]
    """
    rows = states.flatten(0, 1)[cells].float()
    sums = rows.new_zeros(count, rows.shape[1]).index_add(0, words, rows)
    sizes = rows.new_zeros(count).index_add(0, words, rows.new_ones(len(words)))
    return sums / sizes[:, None]


def open_states(
    recipe: Recipe, states: States, vocabulary: Path
) -> tuple[EncoderStates, dict[str, WordsOfBatch]]:
    """The encoder, and by language the words that it is asked for.

    Args:
        recipe: of the run.
        states: its part on states.
        vocabulary: the folder of the merged vocabulary.
    """
    encoder, asked = _open(states, precision=recipe.record.precision)
    words: dict[str, WordsOfBatch] = {}
    for language in recipe.languages:
        if states.languages and language not in states.languages:
            words[language] = no_words
            continue
        file = vocabulary / "languages" / language / "tokenizer.json"
        words[language] = EncoderWords(Tokenizer.from_file(str(file)), encoder)
    return asked, words


def _open(states: States, *, precision: Precision) -> tuple[Teacher, EncoderStates]:
    encoder = load_teacher(find_teacher(states.encoder), headless=True)
    return encoder, EncoderStates(encoder, states, precision=precision)


def count_words(
    signals: Mapping[str, Signals], words: Mapping[str, WordsOfBatch], encoder: str
) -> dict[str, dict[str, int]]:
    """Per language, in its first 1,000 blocks, how many words the text has and how many of them the encoder is asked for; logged.

    Raises:
        StageError: for a language without any.
    """
    counts = {}
    for language, words_of in words.items():
        if not isinstance(words_of, EncoderWords):
            continue
        reader = signals[language]
        blocks = [words_of.blocks(reader[row])[0] for row in range(min(_SAMPLE, len(reader)))]
        met = sum(1 + int(block.words.max(initial=-1)) for block in blocks)
        counts[language] = {"words": sum(block.text_words for block in blocks), "met": met}
        _LOG.info(
            "%s: of %d words %s has %d as the student does, in %d blocks",
            language,
            counts[language]["words"],
            encoder,
            met,
            len(blocks),
        )
        if not met:
            raise StageError(
                f"{language}: the encoder {encoder} has no word of its text as the student does; leave the language out by "
                "states.languages, or choose another encoder."
            )
    return counts


def refuse_unfit_encoder(states: States) -> None:
    """Before anything is spent: what is no encoder, cannot be read, or has no such layer.

    Raises:
        StageError: for layers that it does not have, or of which none can be left out.
        TeacherzooError, VocabularyError: for a folder that cannot be opened.
    """
    layout = model_layout(teacher_folder(find_teacher(states.encoder)))
    if states.layer != "last":
        _refuse_layer(states.layer, states.called, shell_of(layout).config)
    _open(states, precision="float32")


def _refuse_layer(layer: int, name: str, config: Any) -> None:
    if layer > (depth := _depth(config)):
        raise StageError(
            f"states.layer is {layer}, but {name} has only {depth}; set no more than that, or last."
        )
    if layer < depth and known_family(config).layers is None:
        raise StageError(
            f"states.layer is {layer}, but the layers of {name} are one, used over and over; set last."
        )


def _depth(config: Any) -> int:
    return int(config.num_hidden_layers)
