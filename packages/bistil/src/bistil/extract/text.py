"""The text of an extraction as its terms see it: running text in masked blocks, or lines as padded rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor

from bistil.encoders.pooling import SentenceModules
from bistil.encoders.prompts import default_prompt
from bistil.errors import ExtractError
from bistil.extract.config import Extraction
from bistil.text.blocks import TextBlocks, require_length
from bistil.text.pairing import paired_files, with_pairs
from bistil.text.rows import Form, TextRows
from teacherzoo import Teacher, Vectors
from teacherzoo.digests import TOKENIZER_FILES, digest_of_model
from teacherzoo.encoders.teachers import read_tokenizer
from teacherzoo.progress import ProgressCallback
from vocabmerge import Kind

ExtractionText = TextBlocks | TextRows


class Batches(Protocol):
    """What training steps take, by number."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """`input_ids` [B, S], `language` [], and what else the form of the text has."""


def open_text(
    teacher: Teacher,
    files: Mapping[str, Sequence[Path]],
    cache_dir: Path,
    extraction: Extraction,
    *,
    sentences: SentenceModules | None = None,
    parallel: Mapping[str, Sequence[Path]] | None = None,
    vectors: Vectors | None = None,
    watch: ProgressCallback,
) -> ExtractionText:
    """The text, cut when it is asked for if no earlier run left it.

    Running text is packed into blocks and masked. Of a sentence encoder, and where a term is about whole sentences, each line
    is a row of its own; for what reads two texts at once (rerankers, question answering, classifiers of pairs) a line is `first TAB second`, or, for
    the former two, made of two lines, see `bistil.text.pairing.paired_files`. The folder's default prompt stands in front.

    Args:
        teacher: whose vocabulary it is.
        files: per language, the source first.
        cache_dir: where it is made once and stays.
        extraction: its terms say whether text is read line by line.
        sentences: of a sentence encoder, what stands behind the encoder.
        parallel: per target language files of translations.
        vectors: recorded of the teacher.
        watch: told (done, total, what).

    Raises:
        ExtractError: see `TextBlocks` and `TextRows`, and where some languages have pairs and others do not.
    """
    if sentences is None and not extraction.weights.needs_rows:
        return TextBlocks(
            files, teacher, cache_dir, length=extraction.length, batch=extraction.batch, held_out_share=extraction.held_out_share,
            mask_rate=extraction.mask_rate, seed=extraction.seed, watch=watch,
        )  # fmt: skip
    require_length(extraction.length, teacher.max_length)
    length, prompts = extraction.length, extraction.prompts
    if sentences is None:
        prompts = () if teacher.layout is None else (default_prompt(teacher.layout),)
        form, files = _form(teacher, files, cache_dir, watch)
        tokenizer = read_tokenizer(teacher.tokenizer_folder, teacher.name, needs_mask=False)
    else:
        form, tokenizer, length = "lines", sentences.tokenizer, min(length, sentences.max_length)
        prompts = prompts or (sentences.default_prompt,)
    return TextRows(
        files,
        tokenizer,
        cache_dir,
        tokenizer_digest=digest_of_model(teacher.tokenizer_folder, TOKENIZER_FILES),
        length=length,
        batch=extraction.batch,
        held_out_share=extraction.held_out_share,
        seed=extraction.seed,
        form=form,
        by_tokens=sentences is not None,
        prompts=prompts,
        parallel=parallel,
        vectors=vectors,
        segments="token_type_ids" in tokenizer.model_input_names,
        watch=watch,
    )


def _form(
    teacher: Teacher,
    files: Mapping[str, Sequence[Path]],
    cache_dir: Path,
    watch: ProgressCallback,
) -> tuple[Form, Mapping[str, Sequence[Path]]]:
    """How lines are read, and where they lie."""
    reranker = teacher.layout is not None and teacher.layout.reranker
    if reranker or teacher.kind is Kind.QUESTION_ANSWERING:
        return "pairs", paired_files(files, cache_dir, watch=watch)
    if teacher.kind is not Kind.CLASSIFIER or not (paired := with_pairs(files)):
        return "lines", files
    if len(paired) < len(files):
        single = next(language for language in files if language not in paired)
        raise ExtractError(
            f"{single}: its text has one column and that of {paired[0]} two; give both lines `first TAB second`, or both without."
        )
    return "pairs", files
