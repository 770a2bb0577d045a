"""Trims a folder: tokenizer, and the model if one is in it, into a new folder that plain transformers opens."""

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vocabmerge.errors import VocabularyError
from vocabmerge.hub.fetch import model_folder
from vocabmerge.language_texts import LINES, Corpora, language_texts
from vocabmerge.model_files import has_weights, save_model, stored_tensors
from vocabmerge.output_folder import new_folder, refuse_taken, write_json, write_tokenizer
from vocabmerge.progress import ProgressCallback, no_progress
from vocabmerge.tokenizer_file.reading import read_vocabulary
from vocabmerge.tokenizer_file.vocabulary import Vocabulary
from vocabmerge.trim.segmentation_change import segmentation_change
from vocabmerge.trim.segmented_text import SegmentedText
from vocabmerge.trim.trim import Trim, trim_vocabulary

_COMPANIONS = (
    *("README.md", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "chat_template.jinja"),
    *("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"),
)
_MODULE = "[0-9]_*"  # what sentence-transformers does behind the model, a folder each


def trim(
    source: str | Path,
    corpora: Corpora,
    out: str | Path,
    *,
    threshold: float | None = None,
    top: int | None = None,
    budget: int | None = None,
    pad_to: int = 1,
    lines: int | None = LINES,
    revision: str | None = None,
    watch: ProgressCallback = no_progress,
) -> dict[str, Any]:
    """Cut a model or a tokenizer down to what some languages need, and write it to a new folder.

    BiStil's rule (Ansell, Ponti, Korhonen, Vulić 2023) keeps a piece if `max over languages l of p[l, i] ≥ threshold`,
    where `p[l, i]` is the share of piece i among the tokens of l's corpus; see `trim_vocabulary` for what stays
    besides. The model loses the rows of the other pieces, bit for bit, and nothing else: hidden states and the logits
    of kept pieces are what they were.

    The folder holds the tokenizer, the model if the source has one, `maps/<name>.safetensors` (old id → new ids) and
    `report.json`. It appears whole or not at all.

    Args:
        source: a model folder, a tokenizer (see `read_vocabulary`), or `OWNER/NAME` on the Hugging Face Hub.
        corpora: per language, the texts that say what it needs: files, folders of text files, and data sets of the Hub
            as `hub:NAME[:CONFIG[:SPLIT]]`, which are streamed.
        out: the folder to make; must not exist, or be empty.
        threshold: BiStil's rule, the default with 1e-6.
        top: or: how many pieces to keep.
        budget: or: how many pieces to keep, fairly to the worst-served language.
        pad_to: the model's rows are rounded up to a multiple of this.
        lines: of each language at most so many, evenly spread over its files; None for all.
        revision: branch, tag or commit of a source on the Hub.
        watch: told what is going on.

    Returns:
        The report.

    Raises:
        VocabularyError: any input that cannot be worked with, or a model with fewer rows than the tokenizer has ids.

    Example:
        A tokenizer alone; with `config.json` and weights beside it the model is cut, too.

        >>> from pathlib import Path
        >>> words = ["[UNK]", "a", "##b", "ab", "abb"]
        >>> tiny = {"added_tokens": [], "model": {"type": "WordPiece", "unk_token": "[UNK]",
        ...     "continuing_subword_prefix": "##", "max_input_chars_per_word": 9,
        ...     "vocab": {word: number for number, word in enumerate(words)}}}
        >>> open_tokenizer(tiny, name="tiny").save("tokenizer.json")
        >>> _ = Path("en.txt").write_text("ab")
        >>> report = trim("tokenizer.json", {"en": ["en.txt"]}, "small")
        >>> report["pieces"]["before"], report["pieces"]["after"], list(read_vocabulary("small").pieces)
        (5, 4, ['[UNK]', 'a', '##b', 'ab'])
    """
    out = Path(out)
    if pad_to < 1:
        raise VocabularyError(f"expected to pad to a multiple of 1 or more, got {pad_to!r}")
    refuse_taken(out)
    texts = language_texts(corpora, lines=lines)
    base = model_folder(source, revision=revision)
    vocabulary = read_vocabulary(base, name=base_name(source, base))
    model = _model_in(base, vocabulary)
    with new_folder(out) as folder:
        segmented = {
            language: SegmentedText(
                vocabulary, text, watch=watch, what=f"lines of {language} counted"
            )
            for language, text in texts.items()
        }
        cut = trim_vocabulary(
            vocabulary,
            {language: text.counts for language, text in segmented.items()},
            threshold=threshold,
            top=top,
            budget=budget,
            seen={language: text.characters for language, text in segmented.items()},
            protect=_named_ids(model),
        )
        report = _report(cut, segmented, watch)
        write_tokenizer(folder, cut.after, with_model=model is not None)
        cut.map.save(folder / "maps" / f"{vocabulary.name}.safetensors")
        report["map"] = cut.map.counts
        report["model"] = None if model is None else _trim_model(model, cut, base, folder, pad_to)
        for name in _companions(base):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((base / name).read_bytes())
        write_json(folder / "report.json", report)
    return report


def base_name(source: str | Path, base: Path) -> str | None:
    """What a model fetched from the Hub is called: its name there without the owner; None for what lies here."""
    return None if Path(source) == base else str(source).rpartition("/")[2]


def _companions(source: Path) -> list[Path]:
    """The files of a model folder that a trim leaves as they are, by their names in it."""
    if not source.is_dir():
        return []
    files = [source / name for name in _COMPANIONS if (source / name).is_file()]
    if source / "modules.json" in files:
        files += [file for file in sorted(source.glob(f"{_MODULE}/*")) if file.is_file()]
    return [file.relative_to(source) for file in files]


def _model_in(source: Path, vocabulary: Vocabulary) -> Any:
    """The model of a folder that has weights, checked against the tokenizer; None where it has none."""
    if not has_weights(source):
        return None
    from vocabmerge.models import open_model, vocabulary_tensors

    model = open_model(source)
    rows = vocabulary_tensors(model).rows
    if rows < len(vocabulary):
        raise VocabularyError(
            f"{source}: the tokenizer has {len(vocabulary)} ids and the embedding {rows} rows; rows beyond the "
            "vocabulary are legal, missing ones are not: resize the model's embedding, or take the tokenizer that "
            "it was trained with"
        )
    return model


def _named_ids(model: Any) -> list[int]:
    """Every id that the model's settings name."""
    if model is None:
        return []
    from vocabmerge.models import token_ids

    values = token_ids(model).values()
    return [
        number for value in values for number in (value if isinstance(value, list) else [value])
    ]


def _trim_model(model: Any, cut: Trim, source: Path, folder: Path, pad_to: int) -> dict[str, Any]:
    import torch

    from vocabmerge.models import padded_rows, select_rows, vocabulary_tensors

    def size(model_folder: Path) -> dict[str, int]:
        tensors = [tensor for _, tensor in stored_tensors(model_folder)]
        return {
            "rows": vocabulary_tensors(model).rows,
            "parameters": sum(tensor.numel() for tensor in tensors),
            "bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        }

    kept = torch.from_numpy(cut.kept)
    size_before, tensors_before = size(source), dict(model.state_dict(keep_vars=True))
    select_rows(model, cut.kept.tolist(), pad_to=pad_to)
    rows = vocabulary_tensors(model).rows
    save_model(
        model,
        folder,
        source=source,
        before=tensors_before,
        cut=lambda table: padded_rows(table, rows, biased=True, ids=kept),
    )
    return {"architecture": type(model).__name__, "before": size_before, "after": size(folder)}


def _report(
    cut: Trim, segmented: Mapping[str, SegmentedText], watch: ProgressCallback
) -> dict[str, Any]:
    languages = {}
    for number, (language, text) in enumerate(segmented.items()):
        watch(number, len(segmented), "languages compared")
        change = segmentation_change(text, cut.before, cut.after, cut.new_ids)
        languages[language] = {**change.as_record(), "coverage": cut.coverage[language]}
    return {
        "format": "vocabmerge-trim/1",
        "source": cut.before.name,
        "rule": cut.rule,
        "pieces": {
            "before": len(cut.before),
            "after": len(cut.kept),
            "always": cut.always,
            "ancestors": cut.ancestors,
        },
        "languages": languages,
        "fair_bound": cut.bound,
        "digests": {"before": cut.before.digest, "after": cut.after.digest},
        "versions": {
            name: importlib.metadata.version(name) for name in ("vocabmerge", "tokenizers", "numpy")
        },
    }
