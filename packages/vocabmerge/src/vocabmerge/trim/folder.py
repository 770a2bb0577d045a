"""Trims a folder: tokenizer, and the model if one is in it, into a new folder that is opened as the old one was."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from vocabmerge.encoder_folder.layout import Layout, named_ids, read_layout
from vocabmerge.encoder_folder.parts import check_folder
from vocabmerge.encoder_folder.write import write_trimmed
from vocabmerge.errors import VocabularyError
from vocabmerge.families.components import open_normalizer
from vocabmerge.hub.fetch import local_files, model_folder
from vocabmerge.language_texts import LINES, Corpora, language_texts
from vocabmerge.output_folder import new_folder, refuse_taken, write_json
from vocabmerge.patch_file import Patch, digests, write_patch
from vocabmerge.progress import ProgressCallback, no_progress
from vocabmerge.tokenizer_file.reading import open_vocabulary
from vocabmerge.tokenizer_file.vocabulary import Vocabulary
from vocabmerge.trim.card import card
from vocabmerge.trim.characters import CharacterRule
from vocabmerge.trim.report import trim_report
from vocabmerge.trim.rule import Rule
from vocabmerge.trim.segmented_text import SegmentedText
from vocabmerge.trim.trim import CutVocabulary, trim_vocabulary

REPORT = "report.json"
CARD = "README.md"


def trim(
    source: str | Path,
    corpora: Corpora,
    out: str | Path | None = None,
    *,
    threshold: float | None = None,
    top: int | None = None,
    budget: int | None = None,
    coverage: float | None = None,
    multiple: int = 1,
    characters: CharacterRule = "scripts",
    lines: int | None = LINES,
    prompts: Sequence[str] = (),
    revision: str | None = None,
    patch: str | Path | None = None,
    name: str | None = None,
    watch: ProgressCallback = no_progress,
) -> dict[str, Any]:
    """Cut a model or a tokenizer down to what some languages need, and write it to a new folder, a patch, or both.

    BiStil's rule (Ansell, Ponti, Korhonen, Vulić 2023) keeps a piece if `max over languages l of p[l, i] ≥ threshold`,
    where `p[l, i]` is the share of piece i among the tokens of l's corpus; see `trim_vocabulary` for the other rules and
    for what stays besides. The model loses the rows of the other pieces, bit for bit, and nothing else: hidden states,
    sentence vectors, and the logits of kept pieces are what they were.

    The folder has the layout of the source, a card of its own (`README.md`), `maps/<name>.safetensors` (old id → new ids)
    and `report.json`. It appears whole or not at all.

    Args:
        source: a model folder, a tokenizer (see `read_vocabulary`), or `OWNER/NAME` on the Hugging Face Hub.
        corpora: per language, the texts that say what it needs: files, folders of text files, and data sets of the Hub
            as `hub:NAME[:CONFIG[:SPLIT]]`, which are streamed.
        out: the folder to make; must not exist, or be empty.
        threshold: BiStil's rule, the default with 1e-6.
        top: or: how many pieces to keep.
        budget: or: how many pieces to keep, fairly to the worst-served language.
        coverage: or: the share of every language's tokens, of those that are known, whose pieces to keep.
        multiple: the number of pieces is rounded up to a multiple of this, with the next best ones.
        characters: which single characters stay whatever their counts: those `seen`, those of the `scripts` too, or `all`.
        lines: of each language at most so many, evenly spread over its files; None for all.
        prompts: put in front of texts by whoever uses the model; their pieces stay, as those of prompts in the folder do.
        revision: branch, tag or commit of a source on the Hub.
        patch: a file to make, from which and the source `apply_patch` makes the folder.
        name: what the card calls the model, `OWNER/NAME` where it goes to the Hub; by default after source and languages.
        watch: told what is going on.

    Returns:
        The report.

    Raises:
        VocabularyError: any input that cannot be worked with, such as a model with fewer rows than the tokenizer has
            ids, a part of it that is not understood, or a coverage that cannot be met.

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
    out, patch = (None if place is None else Path(place) for place in (out, patch))
    # Refused here, before anything slow.
    Rule(threshold=threshold, top=top, budget=budget, coverage=coverage, multiple=multiple)
    texts = language_texts(corpora, lines=lines)
    _refuse_bad_output(out, patch)
    base = model_folder(source, revision=revision)
    layout = read_layout(base)
    vocabulary, segmenter = open_vocabulary_in(layout, name=base_name(source, base))
    if patch is not None and not layout.transformers and not layout.tables:
        raise VocabularyError(
            f"{source}: a tokenizer alone is no base of a patch; leave --patch out, or name a model"
        )
    check_folder(layout, vocabulary)
    with _work_folder(out, patch) as folder:
        segmented = {
            language: SegmentedText(
                vocabulary,
                _Lowercased(text) if layout.lowercases else text,
                segmenter=segmenter,
                watch=watch,
                what=f"lines of {language} counted",
            )
            for language, text in texts.items()
        }
        before_texts: Iterable[str] = [*layout.prompts.values(), *prompts]
        if layout.lowercases:
            before_texts = _Lowercased(before_texts)
        protect = [*named_ids(layout), *_ids_of(segmenter, before_texts)]
        del segmenter  # of a large vocabulary hundreds of MiB
        cut = trim_vocabulary(
            vocabulary,
            {language: text.counts for language, text in segmented.items()},
            threshold=threshold,
            top=top,
            budget=budget,
            coverage=coverage,
            multiple=multiple,
            characters=characters,
            seen={language: text.characters for language, text in segmented.items()},
            protect=protect,
        )
        report = trim_report(cut, segmented, source=source, base=base, watch=watch)
        watch(0, None, "model written")
        report["model"] = write_cut(layout, cut, folder)
        name = name or "-".join([cut.before.name, *texts])
        (folder / CARD).write_text(card(report, layout, name=name), encoding="utf-8")
        write_json(folder / REPORT, report)
        if patch is not None:
            watch(0, None, "patch written")
            write_patch(_patch(cut, layout, report, folder), patch)
    return report


class _Lowercased(Iterable[str]):
    """Texts as the tokenizer gets them where sentence-transformers lowercases them before."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = texts
        self._lowercase = open_normalizer({"type": "Lowercase"})

    def __iter__(self) -> Iterator[str]:
        return map(self._lowercase, self._texts)


def _ids_of(segmenter: Tokenizer, texts: Iterable[str]) -> set[int]:
    return {number for text in texts for number in segmenter.encode(text).ids}


def vocabulary_in(layout: Layout, *, name: str | None = None) -> Vocabulary:
    """The vocabulary of a model folder, called as the folder where it is not named."""
    return open_vocabulary_in(layout, name=name)[0]


def open_vocabulary_in(layout: Layout, *, name: str | None = None) -> tuple[Vocabulary, Tokenizer]:
    """The same, and its `Vocabulary.segmenter()`."""
    if name is None and layout.folder.is_dir():
        name = layout.folder.resolve().name
    return open_vocabulary(layout.folder / layout.tokenizer, name=name)


def base_name(source: str | Path, base: Path) -> str | None:
    """What a model fetched from the Hub is called: its name there without the owner; None for what lies here."""
    return None if Path(source) == base else str(source).rpartition("/")[2]


def write_cut(layout: Layout, cut: CutVocabulary, folder: Path) -> dict[str, Any]:
    """Write all that follows from a model folder and a cut of its vocabulary: the model, the tokenizer, the map.

    Returns:
        What the report says of the model.
    """
    about = write_trimmed(layout, folder, cut)
    cut.map.save(folder / "maps" / f"{cut.before.name}.safetensors")
    return about


def base_files(layout: Layout, left_out: list[str]) -> list[str]:
    """The files of a model folder that a trim of it depends on, by their paths in it."""
    return [
        name
        for name in local_files(layout.folder)
        if name not in left_out
        and not any(part.startswith(".") for part in Path(name).parts)
        and not name.lower().startswith("readme")
    ]


def _patch(cut: CutVocabulary, layout: Layout, report: dict[str, Any], folder: Path) -> Patch:
    return Patch(
        name=cut.before.name,
        base=digests(layout.folder, base_files(layout, report["model"]["left_out"])),
        made=digests(folder, local_files(folder)),
        kept=cut.kept,
        tokenizer=cut.tokenizer,
        texts={name: (folder / name).read_text(encoding="utf-8") for name in (CARD, REPORT)},
        versions=report["versions"],
    )


def _refuse_bad_output(out: Path | None, patch: Path | None) -> None:
    if out is None and patch is None:
        raise VocabularyError("expected a folder (-o) or a patch (--patch) to write, got neither")
    if out is not None:
        refuse_taken(out)
    if patch is not None:
        if patch.exists():
            raise VocabularyError(f"{patch}: exists already; name another file, or remove it")
        if not patch.parent.is_dir():
            raise VocabularyError(f"{patch}: there is no folder {patch.parent}; make it first")


@contextmanager
def _work_folder(out: Path | None, patch: Path | None) -> Iterator[Path]:
    """The folder to fill: the new one, or one that goes where only a patch is wanted."""
    if out is not None:
        with new_folder(out) as folder:
            yield folder
    else:
        assert patch is not None
        with tempfile.TemporaryDirectory(prefix=f".{patch.name}.", dir=patch.parent) as temporary:
            yield Path(temporary)
