"""Gives a model a new vocabulary: its body, a new tokenizer, and rows carried from it and from others."""

import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from vocabmerge.carry import Carried, Method, carry
from vocabmerge.carry_cooccurrence import cooccurrence_embeddings
from vocabmerge.carry_source import Source
from vocabmerge.corpora import read_corpus
from vocabmerge.count import Watch, batches, silent
from vocabmerge.errors import VocabularyError
from vocabmerge.reading import read_vocabulary
from vocabmerge.trim_write import new_folder, write_json, write_tokenizer
from vocabmerge.vocabulary import SPECIAL_ROLES, Vocabulary


def carry_model(
    tokenizer: str | Path,
    models: Sequence[str | Path],
    out: str | Path,
    *,
    method: Method = "subword",
    corpora: Mapping[str, Sequence[str | Path]] | None = None,
    k: int = 64,
    seed: int = 0,
    pad_to: int = 1,
    watch: Watch = silent,
) -> dict[str, Any]:
    """Write the first model with the new tokenizer's vocabulary, its rows made from all models; see `carry`.

    Args:
        tokenizer: the new vocabulary.
        models: model folders; the first gives the body and the space, others add rows.
        out: the folder to make; must not exist, or be empty.
        method: see `carry`.
        corpora: per language, text files; `focus` learns from them which pieces are alike.
        k: for `omp`.
        seed: of random rows.
        pad_to: the number of rows is rounded up to a multiple of this.
        watch: told what is going on.

    Returns:
        The report, also in `report.json`: pieces copied, computed and left to chance, anchors per model, and the
        settings whose token the new vocabulary lacks.

    Raises:
        VocabularyError: any input that cannot be worked with.
    """
    out = Path(out)
    if pad_to < 1:
        raise VocabularyError(f"expected to pad to a multiple of 1 or more, got {pad_to!r}")
    if not models:
        raise VocabularyError("expected at least one model to carry from, got none")
    if method == "focus" and not corpora:
        raise VocabularyError(
            "focus learns from text which pieces are alike, got no corpus; add one"
        )
    from vocabmerge.models import save_model

    new = read_vocabulary(tokenizer)
    with new_folder(out) as folder:
        model, first = _open(Path(models[0]))
        sources = [first]
        for number, path in enumerate(models[1:], start=1):
            watch(number, len(models), "models read")
            sources.append(_open(Path(path))[1])
        auxiliary = None
        if method == "focus" and corpora:
            lines = chain.from_iterable(
                read_corpus(file) for files in corpora.values() for file in files
            )
            auxiliary = cooccurrence_embeddings(_segmented(new, lines, watch), len(new))
        made = carry(new, sources, method=method, auxiliary=auxiliary, k=k, seed=seed)
        lost = _put_into(model, first.vocabulary, new, made, pad_to)
        save_model(model, folder)
        write_tokenizer(folder, _fit_to(new, model), with_model=False)
        report = {
            "format": "vocabmerge-carry/1",
            **made.report,
            "settings_without_token": lost,
            "versions": {
                name: importlib.metadata.version(name)
                for name in ("vocabmerge", "tokenizers", "torch", "transformers")
            },
        }
        write_json(folder / "report.json", report)
    return report


def read_source(folder: str | Path) -> Source:
    """Read the vocabulary and the vocabulary's tables of a model folder."""
    return _open(Path(folder))[1]


def _open(folder: Path) -> tuple[Any, Source]:
    from vocabmerge.models import open_model, vocabulary_tensors

    vocabulary = read_vocabulary(folder)
    model = open_model(folder)
    found = vocabulary_tensors(model)
    return model, Source(
        vocabulary=vocabulary,
        embedding=found.embedding.detach(),
        head=None if found.head is None else found.head.detach(),
        bias=found.biases[0].detach() if found.biases else None,
    )


def _segmented(new: Vocabulary, lines: Iterator[str], watch: Watch) -> Iterator[list[int]]:
    segmenter = new.segmenter()
    done = 0
    for batch in batches(lines):
        for encoding in segmenter.encode_batch_fast(batch, add_special_tokens=False):
            yield encoding.ids
        done += len(batch)
        watch(done, None, "lines segmented")


def _put_into(
    model: Any, old: Vocabulary, new: Vocabulary, made: Carried, pad_to: int
) -> dict[str, Any]:
    """Give the model its new tables and ids, in place; returns the settings that name no new token."""
    from vocabmerge.models import (
        move_padding,
        padded_rows,
        replace_tensors,
        set_token_ids,
        token_ids,
        vocabulary_tensors,
    )

    found = vocabulary_tensors(model)
    rows = -(-len(new) // pad_to) * pad_to
    tables = {id(found.embedding): made.embedding}
    if found.head is not None:
        assert made.head is not None  # the first source had it from this model
        tables[id(found.head)] = made.head
    for bias in found.biases:
        assert made.bias is not None
        tables[id(bias)] = made.bias
    old_pad = model.get_input_embeddings().padding_idx
    moved, lost = _settings_in(new, old, token_ids(model))
    replace_tensors(model, found, {key: padded_rows(table, rows) for key, table in tables.items()})
    set_token_ids(model, moved)
    if old_pad is not None:
        move_padding(model, old_pad, new.special_id("pad"))
    return lost


def _settings_in(
    new: Vocabulary, old: Vocabulary, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The `…_token_id` settings in new ids, None where the new vocabulary has no such token, and those by old id."""
    moved: dict[str, Any] = {}
    lost: dict[str, Any] = {}
    for name, value in settings.items():
        ids = value if isinstance(value, list) else [value]
        found = [_same_token(new, old, number) for number in ids]
        kept = [number for number in found if number is not None]
        if len(kept) < len(ids):
            lost[name] = value
        moved[name] = kept if isinstance(value, list) and kept else (kept[0] if kept else None)
    return moved, lost


def _same_token(new: Vocabulary, old: Vocabulary, number: int) -> int | None:
    if not 0 <= number < len(old) or old.pieces[number] is None:
        return None
    text = str(old.pieces[number])
    for role in SPECIAL_ROLES:
        if old.specials.get(role) == text and new.special_id(role) is not None:
            return new.special_id(role)
    return new.ids.get(text)


def _fit_to(new: Vocabulary, model: Any) -> Vocabulary:
    """The tokenizer with the inputs that the model takes, unless it names its own class."""
    if "tokenizer_class" in new.config:
        return new
    inputs = ["input_ids", "attention_mask"]
    if getattr(model.config, "type_vocab_size", 0) > 1:
        inputs.insert(1, "token_type_ids")
    return replace(new, config={**new.config, "model_input_names": inputs})
