"""Phase 1 of BiStil (Ansell et al. 2023, section 3): trim the vocabulary, copy layers, distil."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bistil.encoders.answers import assumption, plain_kind
from bistil.encoders.capture import layers_of
from bistil.encoders.model_folder import require_narrowable_modules
from bistil.encoders.widths import require_narrowable
from bistil.errors import ExtractError
from bistil.extract.config import CHECKPOINTS, Extraction
from bistil.extract.plan import Plan, attention_route, nothing_to_learn
from bistil.extract.record import RunRecord, write_folder
from bistil.extract.sentences import (
    SentenceInputs,
    check_sentences,
    read_sentences,
    sentence_student,
    write_modules,
)
from bistil.extract.student import InitialStudent, initial_student
from bistil.extract.teacher import teacher_in_training, trimmed_teacher
from bistil.extract.text import Batches, ExtractionText, open_text
from bistil.losses.extraction import ExtractionModel, TeacherRunner, freeze_unreached
from bistil.losses.rows import SentenceExtractionModel, SentenceTeacher, is_pairs
from bistil.multitask.config import TeacherTasks
from bistil.multitask.data import TaskMixture, read_mixture
from bistil.multitask.tune import TunedTeacher, require_tunable, tuned_teacher
from bistil.multitask.vectors import vectors_kept
from bistil.sparse.composable_sft import sparse_path
from bistil.student.layers import choose_layers
from bistil.text.blocks import require_length
from bistil.text.languages import languages_of, text_files
from teacherzoo import Corpus, Teacher
from teacherzoo.cache import DIGESTS, MADE, cleared_if_diverged, made_once, work_dir
from teacherzoo.digests import digest_of_arguments, digest_of_inputs, keep_digests
from teacherzoo.encoders.kinds import model_layout, shell_of
from teacherzoo.encoders.teachers import (
    longest_text,
    read_config,
    read_tokenizer,
    teacher_folder,
)
from teacherzoo.processes import rank
from teacherzoo.progress import ProgressCallback, no_progress
from vocabmerge import Kind, Layout, read_vocabulary
from xeval.cost.parameters import parameters_behind, parameters_of, split_parameters

if TYPE_CHECKING:
    from bistil.encoders.pooling import SentenceEncoder, SentenceModules


_ROUND = 64  # batches in which every group of text has its turn


def extract(
    model: str | Path,
    corpora: Mapping[str, str | Path],
    out: Path,
    *,
    source: str,
    targets: Sequence[str] = (),
    extraction: Extraction | None = None,
    language_sfts: Mapping[str, str | Path] | None = None,
    licences: Mapping[str, str] | None = None,
    parallel: Mapping[str, str | Path] | None = None,
    vectors: Path | None = None,
    teacher_tasks: TeacherTasks | None = None,
    cache_dir: Path | None = None,
    tell: Callable[[Plan], None] = lambda plan: None,
    watch: ProgressCallback = no_progress,
) -> Path:
    """Extract a small model for a few languages out of a big multilingual one (BiStil, phase 1; Ansell et al. 2023, section 3).

    Three steps. Trim: keep a piece v of the vocabulary where max over languages of p(v) ≥ 1e-6. Copy: layer i of the student is
    the last of the i-th block of `reduction` layers of the teacher, embeddings and all else are the teacher's. Distil: minimise
    L = L_attn + L_hidden (`bistil.matching_loss`; or another mixture of terms) on masked text, a batch being of one language,
    all languages in turn.

    Interrupted, it goes on from its last checkpoint when called again with the same arguments, and ends in the same
    weights. It runs in one process, under `torchrun`, or, by `extraction.arguments`, with DeepSpeed's ZeRO-1 and 2.

    Args:
        model: the teacher: a model folder or a Hub name; a masked LM, an encoder without a head, a sentence encoder, a
            reranker or another classifier.
        corpora: language to a text file (`.txt`, also `.gz` and `.xz`) or a folder of such.
        out: the folder to write; it must not exist.
        source: the language that tasks will be tuned on.
        targets: the languages that they will be used on; none where the source is all that is wanted.
        extraction: everything else.
        language_sfts: language to the sparse fine-tuning that the teacher has on in its batches.
        licences: language to the licence of its text, for the card.
        parallel: of a sentence encoder, target language to lines `source TAB target` for the term `parallel`.
        vectors: of a sentence encoder, a folder of `teacherzoo.record_vectors`: the teacher's vectors of these lines; it is not run
            then.
        teacher_tasks: tasks on which the teacher is tuned before (ERNIE 3.0 Tiny; Liu et al. 2023); card and plan say what that
            gave and how far its vectors moved.
        cache_dir: a folder in which the tuned and the trimmed teacher, narrower students as they were cut and the text cut into
            blocks stay, for further extractions of the same model and text (other seeds, layers, terms) to take from there; without
            it they go when the run ends.
        tell: given the plan before training starts.
        watch: told (done, total, what).

    Returns:
        `out`: a folder of the teacher's kind and layout, which the same class opens, with card and `run.json`.

    Raises:
        ExtractError: for languages without a corpus, a folder in the way, options that do not fit.
        ModelError: for a teacher that cannot be cut or whose activations cannot be captured.
        SparseError: for a sparse fine-tuning of another model.
        TeacherzooError, VocabularyError: for text, models and vocabularies that do not serve, or where training
            diverges; they say why.

    Example:
        >>> corpora = {"en": "en.txt", "sw": "sw.txt"}
        >>> short = Extraction(reduction=2, steps=2, batch=2, length=32)
        >>> extract("teacher", corpora, Path("small"), source="en", targets=["sw"], extraction=short).name
        'small'
    """
    started, out, extraction = time.monotonic(), Path(out), extraction or Extraction()
    given, extraction = _check(
        model, corpora, source, targets, extraction, language_sfts or {}, licences or {}, parallel=parallel or {}, vectors=vectors,
        teacher_tasks=teacher_tasks,
    )  # fmt: skip
    keep_digests((cache_dir or work_dir(out)) / DIGESTS)

    def make(work: Path) -> None:
        with cleared_if_diverged(work):
            figures, model, teacher, sentences = _trim_copy_distil(given, extraction, work, cache_dir or work, tell, watch)  # fmt: skip
        record = RunRecord(
            **figures, extraction=extraction.to_json(), sfts={language: str(file) for language, file in given.sfts.items()},
            texts={language: Path(corpora[language]).name for language in given.languages}, licences=licences or {},
            digests={"weights": teacher.weights_digest, "tokenizer": teacher.tokenizer_digest},
            seconds=time.monotonic() - started,
        )  # fmt: skip
        if rank() == 0:
            student = model.student if sentences is None else model.student.encoder
            write_folder(student, teacher, record, work / MADE, name=out.name)
            if sentences is not None:
                write_modules(model.student, sentences, work / MADE)

    return made_once(
        out,
        _inputs(given, extraction),
        make,
        together=True,
        refuse=ExtractError,
        exclusive=[CHECKPOINTS],
    )


def _trim_copy_distil(
    given: _Given,
    extraction: Extraction,
    work: Path,
    cache_dir: Path,
    tell: Callable[[Plan], None],
    watch: ProgressCallback,
) -> tuple[dict[str, Any], ExtractionModel | SentenceExtractionModel, Teacher, SentenceModules | None]:  # fmt: skip
    """Figures for the record, the student with its loss, the teacher with a trimmed vocabulary, and its sentence modules."""
    from bistil.extract.trainer import held_out_terms, train, training_arguments  # late: slow

    given, tuned = _tuned(
        given, extraction, cache_dir, watch
    )  # whose training may be of another precision
    # Chooses the device, and forms the process group, if there is one.
    arguments = training_arguments(work / CHECKPOINTS, extraction)
    teacher = trimmed_teacher(given.folder, given.files, cache_dir, extraction, watch=watch)
    sentences = read_sentences(teacher, given.sentences, extraction)
    text = open_text(
        teacher, given.files, cache_dir, extraction, sentences=sentences, parallel=given.sentences.parallel, vectors=given.sentences.vectors,
        watch=watch,
    )  # fmt: skip

    copied = initial_student(
        teacher, given.layers, extraction, text, sentences=sentences, device=arguments.device, cache_dir=cache_dir, watch=watch
    )  # fmt: skip

    # An untrained student is looked at on a batch all the same.
    batches = text.batches(max(1, extraction.steps) * arguments.gradient_accumulation_steps * arguments.world_size)  # fmt: skip
    held_out = {language: group if isinstance(group, list) else [group] for language, group in text.held_out().items()}  # fmt: skip
    trained = None if sentences is None else sentence_student(copied.student, sentences)
    runner, teacher = teacher_in_training(teacher, given.folder, given.sfts, given.layers, extraction, sentences=sentences)  # fmt: skip
    student = _in_training(copied, runner, text, given, extraction, arguments.device, trained)
    plan = replace(_plan(student, copied, teacher, text, batches, given, extraction), tuned=tuned)
    tell(plan)
    before = held_out_terms(student, held_out, arguments)
    watch(0, extraction.steps, _in_words("evaluated before training", before))
    if extraction.steps == 0:
        return (
            {"plan": plan, "before": before, "after": before, "log": []},
            student,
            teacher,
            sentences,
        )
    log = train(student, batches, given.languages, arguments, optimizer=extraction.optimizer, watch=watch)  # fmt: skip
    after = held_out_terms(student, held_out, arguments)
    watch(extraction.steps, extraction.steps, _in_words("evaluated after training", after))
    return {"plan": plan, "before": before, "after": after, "log": log}, student, teacher, sentences


@dataclass(frozen=True, kw_only=True)
class _Given:
    """What a run is made from, checked before anything is spent.

    Attributes:
        model: as the user named it.
        folder: where it lies.
        layout: its parts.
        languages: the source first.
        files: of text, by language.
        sfts: language to a sparse fine-tuning.
        layers: for each of the student's layers the teacher's.
        sentences: what a sentence encoder's extraction is given besides.
        mixture: of tasks that the teacher is tuned on before.
    """

    model: str
    folder: Path
    layout: Layout
    languages: tuple[str, ...]
    files: Mapping[str, list[Path]]
    sfts: Mapping[str, str | Path]
    layers: tuple[int, ...]
    sentences: SentenceInputs
    mixture: TaskMixture | None


def _check(
    model: str | Path,
    corpora: Mapping[str, str | Path],
    source: str,
    targets: Sequence[str],
    extraction: Extraction,
    sfts: Mapping[str, str | Path],
    licences: Mapping[str, str],
    *,
    parallel: Mapping[str, str | Path],
    vectors: Path | None,
    teacher_tasks: TeacherTasks | None,
) -> tuple[_Given, Extraction]:
    languages = languages_of(source, targets, corpora, sfts, licences)
    if sfts and extraction.offload is not None:
        raise ExtractError(
            "To a teacher whose weights are shared among processes no sparse fine-tuning can be applied; leave offload out."
        )
    files = {language: text_files(language, corpora[language]) for language in languages}
    for language, listed in files.items():
        # Refuses what is no language tag.
        Corpus(language, tuple(listed))
    folder = teacher_folder(model)
    layout = model_layout(folder)
    extraction = extraction.decided(layout.kind)
    if teacher_tasks is not None:
        require_tunable(layout, model, untuned={"fine-tunings of languages": sfts, "recorded vectors": vectors})  # fmt: skip
    given = _Given(
        model=str(model),
        folder=folder,
        layout=layout,
        languages=languages,
        files=files,
        sfts=sfts,
        layers=_layers(layout, model, extraction),
        sentences=check_sentences(
            layout, extraction, targets=targets, parallel=parallel, vectors=vectors, sfts=sfts
        ),
        mixture=None if teacher_tasks is None else read_mixture(teacher_tasks),
    )
    return given, extraction


def _tuned(
    given: _Given, extraction: Extraction, cache_dir: Path, watch: ProgressCallback
) -> tuple[_Given, TunedTeacher | None]:
    """The same with the tuned teacher's folder in the place of the teacher's, and what the tuning gave."""
    if given.mixture is None:
        return given, None
    folder, tuned = tuned_teacher(given.folder, given.mixture, cache_dir, watch=watch)
    if rank() == 0:
        prompt = next(iter(extraction.prompts), None)
        kept = vectors_kept(given.folder, folder, given.files, prompt=prompt, watch=watch)
        tuned = replace(tuned, kept=kept)
    return replace(given, folder=folder, layout=model_layout(folder)), tuned


def _inputs(given: _Given, extraction: Extraction) -> dict[str, Any]:
    """All that decides the student: contents, not where they lie."""
    return {
        "inputs": digest_of_inputs(
            corpora=given.files,
            models={"teacher": given.model},
            files={language: sparse_path(Path(file)) for language, file in given.sfts.items()},
        ),
        **given.sentences.digests(),
        **({} if given.mixture is None else {"teacher_tasks": given.mixture.inputs()}),
        "extraction": extraction.to_json()
        | {
            "arguments": digest_of_arguments(extraction.arguments),
            "offload": extraction.offload is not None,  # where to, changes nothing
        },
    }


def _layers(layout: Layout, name: str | Path, extraction: Extraction) -> tuple[int, ...]:
    """Known from configuration and tokenizer alone: what cannot be cut or read is refused before text is."""
    if layout.kind is Kind.MASKED_LM:
        read_config(layout.folder, name)
    elif extraction.offload is not None:
        raise ExtractError(
            f"{name}: offload shares the weights of masked LMs alone, and this is a teacher of kind {layout.kind.value!r}; leave "
            "offload out."
        )
    shell: Any = shell_of(layout)
    tokenizer = read_tokenizer(layout.folder / layout.tokenizer, name, needs_mask=False)
    require_length(extraction.length, longest_text(shell.config, tokenizer))
    if "answers" in extraction.weights and shell.config.problem_type == "regression":
        raise ExtractError(
            f"{name}: its problem_type is 'regression', so its answers are no distributions to diverge; use answers_mse in place "
            "of answers."
        )
    assert extraction.layers is not None  # decided when the run was checked
    layers = choose_layers(shell, reduction=extraction.reduction, layers=extraction.layers)
    require_narrowable_modules(layout, extraction.width)
    require_narrowable(shell, width=extraction.width, feed_forward=extraction.feed_forward, heads=extraction.heads)  # fmt: skip
    return layers


def _in_training(
    copied: InitialStudent,
    runner: TeacherRunner | SentenceTeacher,
    text: ExtractionText,
    given: _Given,
    extraction: Extraction,
    device: torch.device,
    trained: SentenceEncoder | None,
) -> ExtractionModel | SentenceExtractionModel:
    """The student with its loss in the forward pass; it and the teacher are on the device."""
    runner.move_to(device)
    if trained is not None:
        assert isinstance(runner, SentenceTeacher)
        return SentenceExtractionModel(
            trained, runner, weights=extraction.weights, layers=given.layers, projection=copied.projection, heads=copied.heads
        ).to(device)  # fmt: skip
    assert isinstance(runner, TeacherRunner)
    model = ExtractionModel(
        copied.student,
        runner,
        weights=extraction.weights,
        layers=given.layers,
        positions=text.masked_positions,
        projection=copied.projection,
        heads=copied.heads,
    )
    return model.to(device)


def _plan(
    student: ExtractionModel | SentenceExtractionModel,
    copied: InitialStudent,
    teacher: Teacher,
    text: ExtractionText,
    batches: Batches,
    given: _Given,
    extraction: Extraction,
) -> Plan:
    """What will be done, in figures; parameters that no term reaches are frozen here."""
    probes = _probes(batches, next(student.parameters()).device, given.languages[0])
    counted = split_parameters(copied.student)
    return Plan(
        teacher=given.model,
        kind=plain_kind(given.layout),
        assumed=tuple(assumption(given.layout)),
        architecture=type(teacher.model).__name__,
        languages=given.languages,
        pieces=(
            len(read_vocabulary(given.folder / given.layout.tokenizer)),
            len(read_vocabulary(teacher.tokenizer_folder)),
        ),
        teacher_parameters=parameters_of(given.folder),
        student_parameters=replace(counted, head=counted.head + parameters_behind(given.folder)),
        layers=given.layers,
        teacher_layers=len(layers_of(teacher.model)),
        units=copied.units,
        heads=copied.heads,
        narrowed=copied.words,
        attention=attention_route(student.student, extraction.weights),
        terms=dict(extraction.weights),
        frozen=freeze_unreached(student, *probes),
        idle=_idle(copied, given, extraction),
        blocks=text.sizes,
        steps=extraction.steps,
        tokens=len(batches) * extraction.batch * extraction.length if extraction.steps else 0,
    )


def _idle(copied: InitialStudent, given: _Given, extraction: Extraction) -> bool:
    as_it_was = extraction.init == "teacher" and not copied.words and not given.sfts
    return as_it_was and nothing_to_learn(given.layers, extraction.weights)


def _probes(batches: Batches, device: torch.device, language: str) -> list[dict[str, Any]]:
    """A row of the first batch of text, and of the first of pairs among those that one round of the groups has."""
    probes: dict[bool, dict[str, Any]] = {}
    for number in range(min(len(batches), _ROUND)):
        batch = batches[number]
        if is_pairs(batch) not in probes:
            rows = {name: tensor[:1] if tensor.dim() else tensor for name, tensor in batch.items()}
            probe = {name: tensor.to(device) for name, tensor in rows.items() if name != "language"}
            probes[is_pairs(batch)] = {**probe, "language": language}
    return list(probes.values())


def _in_words(when: str, figures: Mapping[str, Mapping[str, float]]) -> str:
    if not figures:
        return f"{when}: no figures, for no text is held out"
    terms = (f"{term} in {language} {value:.3g}" for language, values in figures.items() for term, value in values.items())  # fmt: skip
    return ", ".join([when, *terms])
