"""How well a model reads text that no stage trains on: bits per byte and masked accuracy, per language."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mergedistill.recipe.recipe import Recipe
from teacherzoo import Masking, Teacher, TokenSpace, split_head
from teacherzoo.encoders.inference import MaskedBlock, PlainEngine, predict_blocks
from teacherzoo.errors import CorpusError, EmptyCorpusError
from teacherzoo.rank.bits_per_byte import bits_per_byte
from teacherzoo.text.blocks import Block, blocks_of
from teacherzoo.text.corpora import Document, document_digest
from teacherzoo.text.masking import masked_positions

_LOG = logging.getLogger("mergedistill")
_TOKENS = 8192


@dataclass(frozen=True, kw_only=True)
class Score:
    """A model on the held-out text of a language.

    Attributes:
        bits_per_byte: as teacherzoo defines it; comparable across tokenizers.
        accuracy: share of masked pieces that the model puts first; comparable where two models cut text alike.
    """

    bits_per_byte: float
    accuracy: float


def held_out_texts(recipe: Recipe, documents: int) -> dict[str, list[str]]:
    """Per language, the first held-out documents; a small corpus may hold nothing out, and its language is absent.

    So is one whose text cannot be read, which is said: a student learns from recordings where no network reaches its text.
    """
    from mergedistill.recipe.corpora import held_out_corpus

    texts = {}
    for language in recipe.languages:
        try:
            first = islice(held_out_corpus(recipe, language).documents(), documents)
            texts[language] = [document.text for document in first]
        except EmptyCorpusError:
            continue
        except CorpusError as error:
            _LOG.warning("Held-out text cannot be read, and nothing is measured on it: %s", error)
    return texts


def score(reader: Teacher, texts: list[str], *, masking: Masking, block_length: int) -> Score:
    """Read some documents, on the device that the model is on.

    Accuracy is over all blocks, each masked once: every chosen piece becomes the mask, so that nothing is given away.

    Args:
        reader: a model with the tokenizer that it reads this language by.
        texts: documents.
        masking: policy, rate and seed of the masks for accuracy.
        block_length: tokens in a row.
    """
    bits = bits_per_byte(reader, texts, max_length=block_length)
    documents = [Document(text, document_digest(text)) for text in texts]
    masked_blocks = [
        masked
        for block in blocks_of(documents, reader.backend, length=block_length)
        if (masked := _masked_block(block, masking, reader.space)) is not None
    ]
    if not masked_blocks:
        return Score(bits_per_byte=bits.value, accuracy=float("nan"))
    predictions = predict_blocks(
        PlainEngine(reader, device=next(reader.model.parameters()).device),
        masked_blocks,
        pad=reader.space.pad,
        token_budget=_TOKENS,
        k=1,
        temperatures=(),
    )
    gold = np.concatenate([masked.wanted[:, 0] for masked in masked_blocks])
    hits = predictions.ids[:, 0].numpy() == gold
    return Score(bits_per_byte=bits.value, accuracy=float(hits.mean()))


def _masked_block(block: Block, masking: Masking, space: TokenSpace) -> MaskedBlock | None:
    positions = masked_positions(block, masking, space=space, draw=0)
    if not len(positions):
        return None
    masked = block.token_ids.copy()
    masked[positions] = space.mask
    gold = block.token_ids[positions, None].astype("int64")
    return MaskedBlock(masked, positions, gold, "held-out text")


def reader_of(model: Any, tokenizer: Any, *, max_length: int) -> Teacher:
    """A model in memory, with one of its tokenizers, as teacherzoo's measures take it.

    Args:
        model: a masked LM, in whatever mode it is.
        tokenizer: a fast tokenizer of transformers.
        max_length: the longest row in tokens.
    """
    special = {int(number) for number in tokenizer.all_special_ids}
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return Teacher(
        name="student",
        folder=Path(),
        model=model,
        head=split_head(model),
        backend=backend,
        space=TokenSpace(
            mask=int(tokenizer.mask_token_id),
            pad=int(tokenizer.pad_token_id),
            unknown=tokenizer.unk_token_id,
            special=tuple(sorted(special)),
            size=len(tokenizer),
        ),
        max_length=max_length,
        weights_digest="",
        tokenizer_digest="",
    )


def score_languages(
    model: Any,
    tokenizers: Mapping[str, Any],
    texts: Mapping[str, list[str]],
    *,
    masking: Masking,
    block_length: int,
) -> dict[str, Score]:
    """A model on each language that has text, in evaluation mode; the mode it was in comes back afterwards."""
    training = model.training
    model.eval()
    try:
        return {
            language: score(
                reader_of(model, tokenizers[language], max_length=block_length),
                documents,
                masking=masking,
                block_length=block_length,
            )
            for language, documents in texts.items()
        }
    finally:
        model.train(training)
