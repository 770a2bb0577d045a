"""What goes into an extraction: text in blocks, a teacher with a trimmed vocabulary, and what it wears."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bistil.batches import Corruption, MaskedBatches, even_schedule
from bistil.errors import ExtractError
from bistil.extraction import Extraction
from bistil.sparse import check_base
from bistil.sparse_file import SparseFineTuning, read_sparse
from bistil.trimmed import carry_over, kept_ids
from teacherzoo import Corpus, CorpusError, Teacher, load_teacher
from teacherzoo.nursery_text import pack
from teacherzoo.teachers import read_tokenizer
from vocabmerge import trim

Watch = Callable[[int, int, str], None]
_ENDINGS = (".txt", ".txt.gz", ".txt.xz")
_HELD_OUT_BATCHES = 8


def text_files(language: str, source: str | Path) -> list[Path]:
    """The files of a corpus, in order.

    Raises:
        ExtractError: where there is none.
    """
    path = Path(source)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.name.endswith(_ENDINGS))
    else:
        files = [path] if path.name.endswith(_ENDINGS) else []
    if not files or not path.exists():
        raise ExtractError(
            f"{language}: expected a text file ({', '.join(_ENDINGS)}) or a folder of such, got {str(source)!r}."
        )
    return files


def trim_teacher(
    folder: Path,
    files: Mapping[str, Sequence[Path]],
    out: Path,
    extraction: Extraction,
    *,
    watch: Watch,
) -> None:
    """Write the teacher with the pieces that the languages need; nothing to do where an earlier run left it."""
    if (out / "config.json").exists():
        return
    shutil.rmtree(out, ignore_errors=True)
    trim(
        folder,
        files,
        out,
        threshold=extraction.threshold,
        top=extraction.top,
        budget=extraction.budget,
        watch=lambda done, total, what: watch(done, total or 0, what),
    )


class Sources:
    """Text as teacher and student read it.

    Args:
        files: per language, the source first.
        teacher: whose vocabulary it is.
        extraction: lengths, shares, seed.

    Raises:
        ExtractError: where blocks are longer than the teacher can read.
        CorpusError: for text that cannot be read.
    """

    def __init__(
        self, files: Mapping[str, Sequence[Path]], teacher: Teacher, extraction: Extraction
    ) -> None:
        if extraction.length > teacher.max_length:
            raise ExtractError(
                f"length {extraction.length} is beyond the teacher's limit of {teacher.max_length} tokens; choose a smaller one."
            )
        self._files = files
        self._extraction = extraction
        self._tokenizer = read_tokenizer(teacher.folder, teacher.name)
        self._tokenizer.backend_tokenizer.no_truncation()
        self._tokenizer.backend_tokenizer.no_padding()
        if self._tokenizer.cls_token_id is None or self._tokenizer.sep_token_id is None:
            raise ExtractError(
                f"{teacher.name}: its tokenizer names no first and no separating token, which blocks begin with and "
                "documents end with; set cls_token and sep_token."
            )
        self.corruption = Corruption(
            rate=extraction.mask_rate,
            mask=teacher.space.mask,
            special=teacher.space.special,
            pieces=teacher.space.size,
            seed=extraction.seed,
        )

    @cached_property
    def blocks(self) -> dict[str, NDArray[np.int32]]:
        """Per language [N, S], to train on."""
        return {language: self._pack(language, "train") for language in self._files}

    def held_out(self) -> dict[str, MaskedBatches]:
        """Per language a few batches of text that is not trained on; languages without are absent."""
        found = {}
        for language in self._files:
            try:
                blocks = {language: self._pack(language, "held_out")}
            except CorpusError:  # a small corpus may hold nothing out
                continue
            size = self._extraction.batch
            batches = min(_HELD_OUT_BATCHES, len(blocks[language]) // size)
            if batches:
                slots = even_schedule(
                    {language: batches * size}, batches=batches, size=size, seed=0
                )
                found[language] = MaskedBatches(slots, blocks, self.corruption)
        return found

    def _pack(self, language: str, part: str) -> NDArray[np.int32]:
        corpora = [
            Corpus(language, file, part=part, held_out_share=self._extraction.held_out_share)  # type: ignore[arg-type]  # one of its two
            for file in self._files[language]
        ]
        found = []
        for corpus in corpora:
            try:
                found.append(pack([corpus], self._tokenizer, self._extraction.length, part=corpus.part)[language])  # fmt: skip
            except CorpusError:
                if part == "train" or len(corpora) == 1:
                    raise
        return np.concatenate(found)


def open_tunings(
    files: Mapping[str, str | Path], *, whole: Path, trimmed: Teacher | None
) -> dict[str, list[SparseFineTuning]]:
    """Per language what the teacher wears, checked against the whole teacher and carried to its trimmed vocabulary.

    Args:
        files: language to a sparse fine-tuning.
        whole: the teacher's folder.
        trimmed: the teacher after the trim; None where it was left whole.

    Raises:
        SparseError: for one of another base model.
    """
    if not files:
        return {}
    model = load_teacher(whole).model
    tunings = {language: read_sparse(Path(file)) for language, file in files.items()}
    for tuning in tunings.values():
        check_base(model, tuning)
    if trimmed is not None:
        kept = kept_ids(trimmed.folder, whole)
        tunings = {
            language: carry_over(tuning, trimmed.model, kept)
            for language, tuning in tunings.items()
        }
    return {language: [tuning] for language, tuning in tunings.items()}
