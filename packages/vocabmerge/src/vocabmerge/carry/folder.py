"""Gives a model a new vocabulary: its body, a new tokenizer, and rows carried from it and from others."""

import importlib.metadata
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from vocabmerge.carry.carry import Carried, Method, carry
from vocabmerge.carry.cooccurrence import cooccurrence_embeddings
from vocabmerge.carry.pieces import matching_ids, same_token
from vocabmerge.carry.source import Source
from vocabmerge.config_ids import moved_lists
from vocabmerge.count import batches
from vocabmerge.encoder_folder.layout import CONFIG, Layout, read_layout
from vocabmerge.encoder_folder.sentence_modules import (
    MODULES_FILE,
    OF_VOCABULARY,
    TRANSFORMERS,
    VECTOR_MODULES,
)
from vocabmerge.encoder_folder.side_files import side_parameters, sort_side_files
from vocabmerge.errors import VocabularyError
from vocabmerge.language_texts import Corpora, language_texts
from vocabmerge.model_files import save_model, stored_names
from vocabmerge.output_folder import new_folder, refuse_taken, write_json, write_tokenizer
from vocabmerge.progress import ProgressCallback, no_progress
from vocabmerge.tokenizer_file.reading import read_vocabulary
from vocabmerge.tokenizer_file.vocabulary import Vocabulary


def carry_model(
    tokenizer: str | Path,
    models: Sequence[str | Path],
    out: str | Path,
    *,
    method: Method = "subword",
    corpora: Corpora | None = None,
    k: int = 64,
    seed: int = 0,
    pad_to: int = 1,
    watch: ProgressCallback = no_progress,
) -> dict[str, Any]:
    """Write the first model with the new tokenizer's vocabulary, its rows made from all models.

    The methods and their papers stand at `carry`. The body of the model stays as it is; embedding, head and head bias
    get a row for each piece of the new vocabulary, and every `…_token_id` follows. The modules, prompts and other files of a
    sentence-transformers folder are copied.

    Args:
        tokenizer: the new vocabulary.
        models: model folders; the first gives the body, its modules and the space, others add rows.
        out: the folder to make; must not exist, or be empty.
        method: see `carry`.
        corpora: per language, texts, as `trim` takes them; `focus` learns from them which pieces are alike.
        k: for `omp`.
        seed: of random rows.
        pad_to: the number of rows is rounded up to a multiple of this.
        watch: told what is going on.

    Returns:
        The report, also in `report.json`: pieces copied, computed and left to chance, anchors per model, the
        settings whose token the new vocabulary lacks, and the tensors of the old vocabulary's length that no part of
        the model's class holds, which are left out.

    Raises:
        VocabularyError: any input that cannot be worked with.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> def save(folder, *words):
        ...     size = len(words)
        ...     BertModel(BertConfig(vocab_size=size, hidden_size=4, num_attention_heads=1, num_hidden_layers=1,
        ...                          intermediate_size=4)).save_pretrained(folder)
        ...     open_tokenizer({"added_tokens": [], "model": {"type": "WordPiece", "unk_token": "?",
        ...         "continuing_subword_prefix": "##", "max_input_chars_per_word": 9,
        ...         "vocab": dict(zip(words, range(size)))}}, name=folder).save(f"{folder}/tokenizer.json")
        >>> save("old", "?", "a", "##b"), save("new", "?", "ab")
        (None, None)
        >>> report = carry_model("new", ["old"], "carried", method="subword")
        >>> report["copied"], report["computed"], read_source("carried").embedding.shape
        (1, 1, torch.Size([2, 4]))
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
    refuse_taken(out)
    texts = language_texts(corpora, lines=None) if corpora else {}
    new = read_vocabulary(tokenizer)
    base = Path(models[0])
    layout = _layout_of_modules(base)
    place = layout.transformers[0] if layout else Path()
    side_files = sort_side_files(layout).copied if layout else ()
    with new_folder(out) as folder:
        model, first = _open(base)
        side_parameters(base, side_files, {len(first.vocabulary), len(first.embedding)})
        tensors_before = dict(model.state_dict(keep_vars=True))
        sources = [first]
        for number, path in enumerate(models[1:], start=1):
            watch(number, len(models), "models read")
            sources.append(_open(Path(path))[1])
        auxiliary = None
        if method == "focus":
            lines = chain.from_iterable(texts.values())
            auxiliary = cooccurrence_embeddings(_segmented(new, lines, watch), len(new))
        carried = carry(new, sources, method=method, auxiliary=auxiliary, k=k, seed=seed)
        lost = _replace_tables(model, first.vocabulary, new, carried, pad_to)
        (folder / place).mkdir(parents=True, exist_ok=True)
        left_out = save_model(model, folder / place, source=base / place, before=tensors_before)
        write_tokenizer(folder / place, _with_model_inputs(new, model), with_model=False)
        for file in side_files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(base / file, folder / file)
        template = (
            Path(tokenizer) if Path(tokenizer).is_dir() else Path(tokenizer).parent
        ) / "chat_template.jinja"
        if template.is_file():  # transformers' file for a part of tokenizer_config.json
            shutil.copyfile(template, folder / place / template.name)
        report = {
            "format": "vocabmerge-carry/1",
            **carried.report,
            "settings_without_token": lost,
            "tensors_left_out": left_out,
            "versions": {
                name: importlib.metadata.version(name)
                for name in ("vocabmerge", "tokenizers", "torch", "transformers")
            },
        }
        write_json(folder / "report.json", report)
    return report


def read_source(folder: str | Path) -> Source:
    """Read the vocabulary and the vocabulary's tables of a model folder.

    Args:
        folder: a model folder with its tokenizer.

    Returns:
        The vocabulary of V pieces, the embedding [at least V, E], and head and bias where the files hold such.

    Raises:
        VocabularyError: no tokenizer or no model that can be read there, or fewer rows than pieces.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> BertModel(BertConfig(vocab_size=2, hidden_size=4, num_attention_heads=1, num_hidden_layers=1,
        ...                      intermediate_size=4)).save_pretrained("tiny")
        >>> open_tokenizer({"model": {"type": "WordLevel", "vocab": {"?": 0, "a": 1}, "unk_token": "?"}},
        ...                name="tiny").save("tiny/tokenizer.json")
        >>> read_source("tiny").embedding.shape
        torch.Size([2, 4])
    """
    return _open(Path(folder))[1]


def _open(folder: Path) -> tuple[Any, Source]:
    from vocabmerge.models import vocabulary_tensors
    from vocabmerge.open_models import open_model

    folder = _transformer_folder(folder)
    vocabulary = read_vocabulary(folder)
    model = open_model(folder)
    tensors = vocabulary_tensors(model)
    state = model.state_dict(keep_vars=True)
    stored = {id(state[name]) for name in stored_names(folder, model)}
    # A head that is not in the files was made up.
    tables = [table for table in tensors if table is not tensors.embedding and id(table) in stored]
    return model, Source(
        vocabulary=vocabulary,
        embedding=tensors.embedding.detach(),
        head=next((table.detach() for table in tables if table.dim() == 2), None),
        bias=next((table.detach() for table in tables if table.dim() == 1), None),
    )


def _layout_of_modules(folder: Path) -> Layout | None:
    """The parts of a sentence-transformers folder; None for any other.

    Raises:
        VocabularyError: several models behind a router, or a module that knows ids or the size of the vocabulary.
    """
    if not (folder / MODULES_FILE).is_file():
        return None
    layout = read_layout(folder)
    names = [module.name for module in layout.modules]
    bound = next((n for n in names if n not in (*TRANSFORMERS, *VECTOR_MODULES) or n in OF_VOCABULARY), None)  # fmt: skip
    if bound is not None:
        raise VocabularyError(
            f"{folder / MODULES_FILE}: expected one Transformer and modules that know nothing of its vocabulary, got {bound}; "
            "save the Transformer's model and tokenizer in a folder of their own, and carry that"
        )
    return layout


def _transformer_folder(folder: Path) -> Path:
    """Where config, weights and tokenizer lie: there, or where older sentence-transformers put them."""
    if (folder / CONFIG).is_file() or not (folder / MODULES_FILE).is_file():
        return folder
    places = read_layout(folder).transformers
    return folder / places[0] if len(places) == 1 else folder


def _segmented(
    new: Vocabulary, lines: Iterator[str], watch: ProgressCallback
) -> Iterator[list[int]]:
    segmenter = new.segmenter()
    done = 0
    for batch in batches(lines):
        for encoding in segmenter.encode_batch_fast(batch, add_special_tokens=False):
            yield encoding.ids
        done += len(batch)
        watch(done, None, "lines segmented")


def _replace_tables(
    model: Any, old: Vocabulary, new: Vocabulary, carried: Carried, pad_to: int
) -> dict[str, Any]:
    """Give the model its new tables and ids, in place; returns the settings that name no new token."""
    from vocabmerge.models import (
        move_padding,
        padded_rows,
        replace_tensors,
        settings_of,
        token_ids_of,
        vocabulary_tensors,
    )

    tensors = vocabulary_tensors(model)
    rows = -(-len(new) // pad_to) * pad_to
    # Tables that the files lack are none of the source's, and are not written: their values are of no account.
    tables = {id(table): table.new_zeros(len(new), *table.shape[1:]) for table in tensors}
    tables[id(tensors.embedding)] = carried.embedding
    if tensors.head is not None and carried.head is not None:
        tables[id(tensors.head)] = carried.head
    for bias in tensors.biases:
        if carried.bias is not None:
            tables[id(bias)] = carried.bias
    old_pad = model.get_input_embeddings().padding_idx
    biased = bool(tensors.biases)
    padded = {key: padded_rows(table, rows, biased=biased) for key, table in tables.items()}
    replace_tensors(model, tensors, padded)
    matches = enumerate(matching_ids(old, new).tolist())
    new_of_old = {number: match for number, match in matches if match >= 0}
    lost: dict[str, Any] = {}
    for settings in settings_of(model).values():
        lists, of_lists = moved_lists(settings.to_dict(), new_of_old, tensors.rows)
        moved, without_token = _settings_in(new, old, token_ids_of(settings))
        for name, value in {**moved, **lists}.items():
            setattr(settings, name, value)
        lost |= {**of_lists, **without_token}
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
        old_ids = value if isinstance(value, list) else [value]
        known = [old_id for old_id in old_ids if 0 <= old_id < len(old) and old.pieces[old_id]]
        matches = [same_token(old, new, old_id) for old_id in known]
        new_ids = [new_id for new_id in matches if new_id is not None]
        if len(new_ids) < len(old_ids):
            lost[name] = value
        moved[name] = new_ids if isinstance(value, list) and new_ids else next(iter(new_ids), None)
    return moved, lost


def _with_model_inputs(new: Vocabulary, model: Any) -> Vocabulary:
    """The tokenizer with the inputs that the model takes, unless it names its own class."""
    if "tokenizer_class" in new.config:
        return new
    inputs = ["input_ids", "attention_mask"]
    if getattr(model.config, "type_vocab_size", 0) > 1:
        inputs.insert(1, "token_type_ids")
    return replace(new, config={**new.config, "model_input_names": inputs})
