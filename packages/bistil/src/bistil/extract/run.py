"""Phase 1: trim the teacher's vocabulary, cut its layers, and teach what is left to do as the whole did."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bistil.encoders.capture import layers_of
from bistil.encoders.widths import require_narrowable
from bistil.errors import ExtractError
from bistil.extract.card import RunRecord, write_folder
from bistil.extract.config import Extraction
from bistil.extract.plan import Plan, attention_route
from bistil.extract.student import shaped_student
from bistil.extract.teacher import open_tunings, trim_teacher
from bistil.losses.extraction import as_student, freeze_unreached
from bistil.sparse.apply import applied
from bistil.sparse.composable_sft import sparse_path
from bistil.student.layers import choose_layers
from bistil.text.batches import MaskedBatches, Schedule
from bistil.text.blocks import TextBlocks
from bistil.text.languages import languages_of, text_files
from teacherzoo import Teacher, load_teacher
from teacherzoo.cache import DIGESTS, MADE, made_once, work_dir
from teacherzoo.digests import digest_of_arguments, digest_of_inputs, keep_digests
from teacherzoo.encoders.teachers import read_config, teacher_folder
from teacherzoo.processes import rank
from vocabmerge import read_vocabulary
from xeval.cost.parameters import parameters_of, split_parameters

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from bistil.extract.trainer import Asking
    from teacherzoo.encoders.zero3 import ShardedEngine

Watch = Callable[[int, int, str], None]


def extract(
    model: str | Path,
    corpora: Mapping[str, str | Path],
    out: Path,
    *,
    source: str,
    targets: Sequence[str],
    extraction: Extraction | None = None,
    language_sfts: Mapping[str, str | Path] | None = None,
    licences: Mapping[str, str] | None = None,
    cache_dir: Path | None = None,
    tell: Callable[[Plan], None] = lambda plan: None,
    watch: Watch = lambda done, total, what: None,
) -> Path:
    """Extract a small model for a few languages out of a big multilingual one (BiStil, phase 1).

    Interrupted, it goes on from its last checkpoint when called again with the same arguments, and ends in the same
    weights. It runs in one process, under `torchrun`, or, by `extraction.arguments`, with DeepSpeed's ZeRO-1 and 2.

    Args:
        model: the teacher: a masked-LM folder or a Hub name.
        corpora: language to a text file (`.txt`, also `.gz` and `.xz`) or a folder of such.
        out: the folder to write; it must not exist.
        source: the language that tasks will be tuned on.
        targets: the languages that they will be used on.
        extraction: everything else.
        language_sfts: language to the sparse fine-tuning that the teacher wears in its batches.
        licences: language to the licence of its text, for the card.
        cache_dir: a folder in which the trimmed teacher and the text cut into blocks stay, for further extractions of the same
            model and text (other seeds, layers, terms) to take from there; without it they go when the run ends.
        tell: given the plan before training starts.
        watch: told (done, total, what).

    Returns:
        `out`: a plain Hugging Face folder with tokenizer, masked-LM head, card and `run.json`.

    Raises:
        ExtractError: for languages without a corpus, a folder in the way, options that do not fit.
        ModelError: for a teacher that cannot be cut or listened to.
        SparseError: for a sparse fine-tuning of another model.
        TeacherzooError, VocabularyError: for text, models and vocabularies that do not serve, or where training
            diverges; they say why.
    """
    from bistil.extract.trainer import (
        held_out_terms,
        train,
    )  # late: Trainer takes seconds to import

    started = time.monotonic()
    out, sfts, extraction = Path(out), dict(language_sfts or {}), extraction or Extraction()
    languages = languages_of(source, targets, corpora, sfts, licences)
    if sfts and extraction.offload is not None:
        raise ExtractError(
            "A teacher whose weights are shared among processes cannot wear a sparse fine-tuning; leave offload out."
        )
    files = {language: text_files(language, corpora[language]) for language in languages}
    keep_digests((cache_dir or work_dir(out)) / DIGESTS)
    stated = {
        "inputs": digest_of_inputs(
            corpora=files,
            models={"teacher": model},
            files={language: sparse_path(Path(file)) for language, file in sfts.items()},
        ),
        "extraction": extraction.to_json()
        | {
            "arguments": digest_of_arguments(extraction.arguments),
            "offload": extraction.offload is not None,  # where to, changes nothing
        },
    }

    def make(work: Path) -> None:
        stage = _prepare(model, files, work, cache_dir or work, extraction, sfts, watch=watch)
        tell(stage.plan)
        before = held_out_terms(stage.student, stage.asking, stage.held_out, stage.arguments)
        watch(0, extraction.steps, _told("evaluated before training", before))
        log = train(stage.student, stage.asking, stage.batches, languages, stage.arguments, watch=watch)  # fmt: skip
        after = held_out_terms(stage.student, stage.asking, stage.held_out, stage.arguments)
        watch(extraction.steps, extraction.steps, _told("evaluated after training", after))
        record = RunRecord(
            plan=stage.plan,
            extraction=extraction.to_json(),
            sfts={language: str(file) for language, file in sfts.items()},
            texts={language: Path(corpora[language]).name for language in languages},
            licences=licences or {},
            digests={
                "weights": stage.teacher.weights_digest,
                "tokenizer": stage.teacher.tokenizer_digest,
            },
            before=before,
            after=after,
            log=log,
            seconds=time.monotonic() - started,
        )
        if rank() == 0:
            write_folder(stage.student, stage.teacher.folder, record, work / MADE, name=out.name)

    return made_once(out, stated, make, together=True, refuse=ExtractError)


def _told(when: str, figures: Mapping[str, Mapping[str, float]]) -> str:
    terms = (f"{term} in {language} {value:.3g}" for language, told in figures.items() for term, value in told.items())  # fmt: skip
    return ", ".join([when, *terms])


@dataclass(frozen=True, kw_only=True)
class _Stage:
    """All that training needs."""

    teacher: Teacher
    student: Any
    asking: Asking
    batches: MaskedBatches
    held_out: dict[str, MaskedBatches]
    arguments: TrainingArguments
    plan: Plan


def _prepare(
    model: str | Path,
    files: Mapping[str, list[Path]],
    work: Path,
    cache_dir: Path,
    extraction: Extraction,
    sfts: Mapping[str, str | Path],
    *,
    watch: Watch,
) -> _Stage:
    from bistil.extract.trainer import Asking, training_arguments

    folder = teacher_folder(model)
    layers = _layers(folder, model, extraction)
    # Chooses the device, and forms the process group, if there is one.
    arguments = training_arguments(work / "checkpoints", extraction)
    lean = folder
    if not extraction.keep_vocabulary:
        lean = trim_teacher(folder, files, cache_dir, extraction, watch=watch)
    teacher = load_teacher(lean)
    text_blocks = TextBlocks(
        files,
        teacher,
        cache_dir,
        length=extraction.length,
        batch=extraction.batch,
        held_out_share=extraction.held_out_share,
        mask_rate=extraction.mask_rate,
        seed=extraction.seed,
        watch=watch,
    )
    shaped = shaped_student(teacher.model, layers, extraction, text_blocks)
    student = shaped.student.to(arguments.device)
    tunings = open_tunings(sfts, whole=folder, trimmed=None if lean is folder else teacher)
    depth = len(layers_of(teacher.model))
    teacher, engine = _shared(teacher, extraction)

    def with_sft(language: str) -> AbstractContextManager[None]:
        return applied(teacher.model, *tunings.get(language, ()), check=False)

    asking = Asking(teacher.model, extraction.terms, layers, with_sft=with_sft, engine=engine)
    batches = _batches(text_blocks, extraction, arguments)
    positions = text_blocks.corruption.positions(extraction.length)
    as_student(
        student,
        extraction.terms,
        layers,
        positions=positions,
        depth=depth,
        projection=None if shaped.projection is None else shaped.projection.to(arguments.device),
    )
    asking.move_to(arguments.device)
    plan = Plan(
        teacher=str(model),
        architecture=type(teacher.model).__name__,
        languages=tuple(files),
        pieces=(len(read_vocabulary(folder)), len(read_vocabulary(lean))),
        teacher_parameters=parameters_of(folder),
        student_parameters=split_parameters(student),
        layers=layers,
        teacher_layers=depth,
        units=shaped.units,
        narrowed=shaped.words,
        attention=attention_route(student, extraction.terms.weights),
        terms=extraction.terms.weights,
        frozen=_freeze(student, asking, batches, next(iter(files))),
        blocks={language: len(its) for language, its in text_blocks.blocks.items()},
        steps=extraction.steps,
        tokens=len(batches) * extraction.batch * extraction.length,
    )
    return _Stage(
        teacher=teacher,
        student=student,
        asking=asking,
        batches=batches,
        held_out=text_blocks.held_out(),
        arguments=arguments,
        plan=plan,
    )


def _layers(folder: Path, name: str | Path, extraction: Extraction) -> tuple[int, ...]:
    """The student's layers, known from the configuration alone: what cannot be cut is refused before text is read."""
    from transformers import AutoModelForMaskedLM

    config = read_config(folder, name)
    with torch.device("meta"):
        shell = AutoModelForMaskedLM.from_config(config)
    layers = choose_layers(shell, reduction=extraction.reduction, layers=extraction.layers)
    require_narrowable(shell, width=extraction.width, feed_forward=extraction.feed_forward)
    return layers


def _shared(teacher: Teacher, extraction: Extraction) -> tuple[Teacher, ShardedEngine | None]:
    """The teacher as it teaches: as it is, or opened anew in shares."""
    if extraction.offload is None:
        return teacher, None
    from teacherzoo.encoders.zero3 import load_sharded_teacher

    return load_sharded_teacher(
        teacher.folder, offload=extraction.offload, precision=extraction.precision
    )


def _batches(
    text_blocks: TextBlocks, extraction: Extraction, arguments: TrainingArguments
) -> MaskedBatches:
    count = extraction.steps * arguments.gradient_accumulation_steps * arguments.world_size
    sizes = {language: len(its) for language, its in text_blocks.blocks.items()}
    slots = Schedule(sizes, batches=count, size=extraction.batch, seed=extraction.seed)
    return MaskedBatches(slots, text_blocks.blocks, text_blocks.corruption)


def _freeze(student: Any, asking: Asking, batches: MaskedBatches, language: str) -> int:
    device = next(student.parameters()).device
    probe = {name: tensor[:1].to(device) for name, tensor in batches[0].items() if tensor.dim()}
    return freeze_unreached(student, probe, asking(language, probe))
