"""What the extraction of a sentence encoder needs besides: modules behind the encoder, translations, recorded vectors."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bistil.encoders.pooling import SentenceEncoder, SentenceModules, read_sentence_modules
from bistil.errors import ExtractError
from bistil.extract.config import Extraction
from bistil.losses.table import Sees
from bistil.text.languages import PAIR_ENDINGS, text_files
from bistil.text.pairing import pairs_of
from teacherzoo import Teacher
from teacherzoo.digests import digest_of_files, digest_of_model
from teacherzoo.processes import world_size
from vocabmerge import Kind, Layout

if TYPE_CHECKING:
    from teacherzoo import Vectors


@dataclass(frozen=True, kw_only=True)
class SentenceInputs:
    """What was given for a sentence encoder.

    Attributes:
        parallel: target language to files of translations.
        vectors: recorded of the teacher.
        teacher: digest of the whole teacher's files, where vectors are given.
    """

    parallel: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    vectors: Vectors | None = None
    teacher: str = ""

    def digests(self) -> dict[str, Any]:
        """What of it decides the student; nothing where nothing was given."""
        files = {language: digest_of_files(files) for language, files in self.parallel.items()}
        recorded = {} if self.vectors is None else {"vectors": digest_of_files(sorted(self.vectors.folder.glob("*.parquet")))}  # fmt: skip
        return ({"parallel": files} if files else {}) | recorded


def check_sentences(
    layout: Layout,
    extraction: Extraction,
    *,
    targets: Sequence[str],
    parallel: Mapping[str, str | Path],
    vectors: Path | None,
    sfts: Mapping[str, Any],
) -> SentenceInputs:
    """Refuse what does not fit, before anything is spent.

    Args:
        layout: of the teacher.
        extraction: its terms.
        targets: the target languages.
        parallel: target language to lines `source TAB target`.
        vectors: a folder of recorded vectors.
        sfts: language to a sparse fine-tuning of the teacher.

    Raises:
        ExtractError: for translations without their term, the term without translations, a language that is no target, lines
            without two columns; recorded vectors beside what must see the teacher itself; a narrower student whose vectors
            would have to be the teacher's.
        SignalsError: for vectors of another teacher.
    """
    weights = extraction.weights
    if layout.kind is not Kind.SENTENCE:
        for name, value in (("parallel", parallel), ("vectors", vectors)):
            if value:
                raise ExtractError(
                    f"{name} is for sentence encoders, and this is a teacher of kind {layout.kind.value!r}; leave it out."
                )
        return SentenceInputs()
    if bool(parallel) != ("parallel" in weights):
        raise ExtractError(
            "Translations are given, but the term parallel has weight 0; give it a weight, such as parallel=1."
            if parallel
            else "The term parallel learns from translations, and none are given; give them for a target language, or leave the term out."
        )
    files = {}
    for language, source in parallel.items():
        if language not in targets:
            raise ExtractError(
                f"{language}: translations are given, but the target languages are {', '.join(targets) or 'none'}; translations are lines "
                "`source TAB target`."
            )
        files[language] = text_files(language, source, endings=PAIR_ENDINGS)
        deque(pairs_of(files[language]), maxlen=0)  # every line is looked at
    _check_terms(extraction)
    if vectors is None:
        return SentenceInputs(parallel=files)
    from teacherzoo import Vectors

    inner = [term.name for term in weights.terms if term.taught and term.sees & ~(Sees.VECTORS | Sees.PAIRS)]  # fmt: skip
    if inner or sfts:
        because = (
            f"{' and '.join(inner)} must see more" if inner else "sparse fine-tunings change it"
        )
        raise ExtractError(
            f"Recorded vectors stand for a teacher that is not run, but {because}; leave one or the other out."
        )
    return SentenceInputs(
        parallel=files, vectors=Vectors(vectors), teacher=digest_of_model(layout.folder)
    )


def _check_terms(extraction: Extraction) -> None:
    weights = extraction.weights
    placed = [name for name in ("embedding", "parallel") if name in weights]
    if extraction.width is not None and placed:
        raise ExtractError(
            f"width {extraction.width!r}: {placed[0]} compares vectors of as many dimensions as the teacher's; leave width out, or "
            "compare nearness alone (similarity)."
        )
    text, pairs = weights.on_text(), weights.on_pairs()
    if text is None:
        raise ExtractError(
            "parallel is the only term, and text is given, too; give a term for it, such as embedding."
        )
    if pairs is not None and world_size() > 1 and Sees.VECTORS not in text.sees:
        raise ExtractError(
            "On several processes all batches must train the same parameters; beside parallel use embedding or similarity."
        )


def read_sentences(
    teacher: Teacher, given: SentenceInputs, extraction: Extraction
) -> SentenceModules | None:
    """The modules behind the teacher's encoder, recorded vectors checked against them; None of other kinds.

    Raises:
        TeacherError, ModelError: see `read_sentence_modules`.
        SignalsError: for vectors of another teacher, length or prompt.
    """
    if teacher.kind is not Kind.SENTENCE:
        return None
    sentences = read_sentence_modules(teacher.folder)
    if given.vectors is not None:
        given.vectors.require(
            teacher=given.teacher,
            length=min(extraction.length, sentences.max_length),
            prompts=extraction.prompts or (sentences.default_prompt,),
        )
    return sentences


def sentence_student(encoder: torch.nn.Module, sentences: SentenceModules) -> SentenceEncoder:
    """The student's encoder with modules of its own that start as the teacher's; their weights are trained, too."""
    return SentenceEncoder(encoder, copy.deepcopy(sentences.modules)).requires_grad_(True)


def write_modules(student: SentenceEncoder, sentences: SentenceModules, folder: Path) -> None:
    """Put the student's modules with weights that were trained in place of the teacher's.

    Args:
        student: trained.
        sentences: the teacher's modules.
        folder: the student's, with the teacher's modules copied.
    """
    modules = zip(student.pooling, sentences.modules, sentences.folders, strict=True)
    for module, start, place in modules:
        weights = {name: tensor.cpu() for name, tensor in start.state_dict().items()}
        trained = module.cpu().state_dict()
        if all(torch.equal(tensor, weights[name]) for name, tensor in trained.items()):
            continue
        saving: Any = module
        for file in (folder / place).glob("*.bin"):
            file.unlink()
        saving.save(str(folder / place))
