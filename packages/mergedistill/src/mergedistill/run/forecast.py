"""What a recipe will take before anything is spent: tokens, disk, memory and time, scaled up from a miniature of the run.

The miniature is the recipe itself on a few kilobytes of each language's text, with a few steps of training, in a temporary
folder that is gone afterwards. So what would go wrong in the run's first minute goes wrong here.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from mergedistill.publish.held_out_scores import MEASURED
from mergedistill.rank.corpus_warnings import corpus_warnings
from mergedistill.recipe.corpora import corpus
from mergedistill.recipe.language_teachers import TeacherEnsemble, teachers_in_use
from mergedistill.recipe.read import altered
from mergedistill.recipe.recipe import Recipe, Teaching
from mergedistill.recipe.stages import STAGES, ensembles_or_refuse, recording_folder, stages
from mergedistill.run.run import refuse_early, run
from mergedistill.training.trainer import EVALUATED
from teacherzoo import Signals
from teacherzoo.progress import ProgressCallback, no_progress
from teacherzoo.signals.layout import MANIFEST
from teacherzoo.signals.stats import column_sizes
from vocabmerge.open_models import quiet_transformers

_SAMPLE_BYTES = 32 << 10  # of each language's text; four times that where it holds few documents
_STEPS = 4  # of the miniature's training; the first is not timed
_RANKED_BYTES = 4 << 10  # of each language's text, that the miniature ranks teachers on
_FEWEST, _FEWEST_LINES = "vocabulary of the fewest lines", 10
_MANY_DOCUMENTS = 4 * _FEWEST_LINES
_NEVER = 10**9


@dataclass(frozen=True, kw_only=True)
class LanguagePlan:
    """What a language amounts to.

    Attributes:
        language: its code.
        teachers: who will be asked; where ranking must decide first, whom the miniature chose.
        documents: for training.
        bytes: of their text.
        tokens: in the primary teacher's pieces, special ones included, once for each draw of masks.
        blocks: likewise.
        positions: masked ones, likewise.
        signal_bytes: on disk, of all its teachers.
        recorded: whether that is there already.
        rounds: how often the training will read each block.
        words_heard: teacher to the share of masked words at which it is heard in the miniature, where teachers are combined.
        words_met: share of the miniature's words whose states are learned of an encoder; None where none are.
    """

    language: str
    teachers: tuple[str, ...]
    documents: int
    bytes: int
    tokens: int
    blocks: int
    positions: int
    signal_bytes: int
    recorded: bool
    rounds: float
    words_heard: Mapping[str, float]
    words_met: float | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will take on this machine, in one process.

    Attributes:
        done: stage to whether it is done.
        languages: one by one.
        pieces: of the vocabulary.
        body_parameters: of the student, embeddings apart.
        embedding_parameters: of the student's vocabulary.
        student_bytes: of its weights on disk; a checkpoint takes three times that.
        memory: stage to the process's largest memory in bytes, on the GPU where there is one; None where the machine
            does not tell.
        seconds: stage to how long it will take; 0 where it is done.
        corpus_warnings: about text and teachers, from a few held-out documents.
    """

    done: Mapping[str, bool]
    languages: tuple[LanguagePlan, ...]
    pieces: int
    body_parameters: int
    embedding_parameters: int
    student_bytes: int
    memory: Mapping[str, int | None]
    seconds: Mapping[str, float]
    corpus_warnings: tuple[str, ...]


def plan(recipe: Recipe, *, watch: ProgressCallback = no_progress) -> Plan:
    """Foresee a run; nothing is written but to a temporary folder.

    Args:
        recipe: what would be run.
        watch: told (done, total, what).

    Returns:
        What it will take. Numbers of documents and bytes are counted, all else is measured on the miniature and scaled
        by bytes of text, by steps, by documents.

    Raises:
        MergedistillError, TeacherzooError, VocabularyError: what the run itself would stumble over at its beginning.
    """
    refuse_early(recipe)
    counts = {}
    for number, language in enumerate(recipe.languages):
        watch(number, len(recipe.languages), f"reading {language}")
        counts[language] = _count(recipe, language)
    with tempfile.TemporaryDirectory(prefix="mergedistill-plan-") as folder:
        small = _miniature(recipe, counts, Path(folder))
        seen = _observe(small, watch)
        done = {name: stage.done for name, stage in stages(recipe).items()}
        languages = tuple(
            _language_plan(recipe, small, language, counts[language]) for language in counts
        )
        model = _model_sizes(small)
        suspected = tuple(corpus_warnings(small))
    return Plan(
        done=done,
        languages=_with_rounds(recipe, languages),
        **model,
        memory={name: seen.memory.get(name) for name in ("record", "train")},
        seconds=_seconds(recipe, small, done, languages, counts, seen),
        corpus_warnings=suspected,
    )


@dataclass(frozen=True)
class _Count:
    """A language's text: all of it, and the sample that the miniature reads."""

    documents: int
    bytes: int
    sample_documents: int
    sample_bytes: int


@dataclass
class _Observed:
    """The miniature as it ran: when each report of progress came, and the peaks of memory."""

    times: dict[str, list[tuple[float, int, int, str]]] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int | None] = field(default_factory=dict)


def _count(recipe: Recipe, language: str) -> _Count:
    documents = size = sample_documents = sample_bytes = 0
    for document in corpus(recipe, language).documents():
        documents += 1
        size += len(document.text.encode("utf-8", "surrogatepass"))
        wanted = _SAMPLE_BYTES * (1 if sample_documents >= _MANY_DOCUMENTS else 4)
        if sample_bytes < wanted:
            sample_documents, sample_bytes = documents, size
    return _Count(documents, size, sample_documents, sample_bytes)


def _miniature(recipe: Recipe, counts: Mapping[str, _Count], folder: Path) -> Recipe:
    return altered(
        recipe,
        {
            "out": str(folder / "run"),
            "signals": str(folder / "signals"),
            "rank.documents": _ranked(recipe, counts),
            "train.steps": _STEPS,
            "train.evaluate_every": _STEPS,
            "train.checkpoint_every": _NEVER,
            "train.arguments": {
                **recipe.train.arguments,
                "logging_steps": _NEVER,
                "report_to": [],
            },
            **{f"languages.{code}.limit": count.sample_documents for code, count in counts.items()},
        },
    )


def _ranked(recipe: Recipe, counts: Mapping[str, _Count]) -> int:
    """Documents of each language that the miniature ranks teachers on."""
    longest = max(count.sample_bytes / count.sample_documents for count in counts.values())
    return min(recipe.rank.documents, max(8, round(_RANKED_BYTES / longest)))


def _observe(small: Recipe, watch: ProgressCallback) -> _Observed:
    seen = _Observed()
    for name in STAGES:
        if name == "vocabulary":
            # Once without text, so to speak: what grows with the text is told from what does not.
            fewest = {"out": f"{small.out}-fewest", "vocabulary.calibration_lines": _FEWEST_LINES}
            few = altered(small, fewest)
            # What is refused before the ranking is read in the first call alone, as in the run itself.
            run(few, until="rank")
            _time(few, name, _FEWEST, seen, watch)
        _time(small, name, name, seen, watch)
    return seen


def _time(small: Recipe, until: str, noted: str, seen: _Observed, watch: ProgressCallback) -> None:
    reports = seen.times.setdefault(noted, [])

    def note(done: int, total: int, what: str) -> None:
        reports.append((time.perf_counter(), done, total, what))
        watch(done, total, f"a miniature: {until}")

    with _peak_memory() as peak:
        begun = time.perf_counter()
        run(small, until=until, watch=note)
        seen.spent[noted] = time.perf_counter() - begun
        reports.append((time.perf_counter(), -1, -1, "end"))
        seen.memory[noted] = peak()


def _language_plan(recipe: Recipe, small: Recipe, language: str, count: _Count) -> LanguagePlan:
    ensembles = ensembles_or_refuse(small)
    used = teachers_in_use(small, ensembles)
    scale = count.bytes / count.sample_bytes
    there = _there(recipe, language, ensembles)
    size = 0
    for name in ensembles[language].weights:
        teacher: Teaching = used[name][0]
        if name in there:
            size += sum(shard.bytes for shard in Signals(there[name]).manifest.shards)
        else:
            signals = Signals(recording_folder(small, teacher, language))
            size += round(scale * sum(column_sizes(signals).values()))
    primary = Signals(
        recording_folder(small, used[ensembles[language].primary][0], language), held=1
    )
    tokens = sum(
        len(primary.shard(number).token_ids) for number in range(len(primary.manifest.shards))
    )
    return LanguagePlan(
        language=language,
        teachers=tuple(ensembles[language].weights),
        documents=count.documents,
        bytes=count.bytes,
        tokens=round(scale * tokens),
        blocks=round(scale * len(primary)),
        positions=round(scale * sum(shard.positions for shard in primary.manifest.shards)),
        signal_bytes=size,
        recorded=len(there) == len(ensembles[language].weights),
        rounds=0.0,
        words_heard=_words_heard(small, language),
        words_met=_words_met(small, language),
    )


def _words_heard(small: Recipe, language: str) -> dict[str, float]:
    """As the miniature's training noted it."""
    usages = stages(small)["train"].facts()["meetings"].get(language, {})
    return {name: usage["words_heard"] / max(1, usage["words"]) for name, usage in usages.items()}


def _words_met(small: Recipe, language: str) -> float | None:
    counts = stages(small)["train"].facts().get("states", {}).get(language)
    return counts["met"] / counts["words"] if counts else None


def _there(
    recipe: Recipe, language: str, ensembles: Mapping[str, TeacherEnsemble]
) -> dict[str, Path]:
    """What has been recorded for the run itself."""
    named = {teacher.called: teacher for teacher in recipe.teachers}
    folders = {
        name: recording_folder(recipe, named[name], language)
        for name in ensembles[language].weights
    }
    return {name: folder for name, folder in folders.items() if (folder / MANIFEST).is_file()}


def _with_rounds(recipe: Recipe, languages: tuple[LanguagePlan, ...]) -> tuple[LanguagePlan, ...]:
    from dataclasses import replace

    weights = {plan.language: plan.blocks**recipe.train.sampling_exponent for plan in languages}
    size = max(1, recipe.train.tokens // recipe.distil.block_length)
    accumulated = int(recipe.train.arguments.get("gradient_accumulation_steps", 1))
    read = recipe.train.steps * accumulated * size
    total = sum(weights.values())
    return tuple(
        replace(plan, rounds=read * weights[plan.language] / total / max(1, plan.blocks))
        for plan in languages
    )


def _model_sizes(small: Recipe) -> dict[str, int]:
    from transformers import AutoModelForMaskedLM

    with quiet_transformers():
        model: Any = AutoModelForMaskedLM.from_pretrained(stages(small)["train"].place / "model")
    embedding = model.get_input_embeddings().weight
    return {
        "pieces": len(embedding),
        "body_parameters": model.num_parameters() - embedding.numel(),
        "embedding_parameters": embedding.numel(),
        "student_bytes": sum(
            parameter.numel() * parameter.element_size() for parameter in model.parameters()
        ),
    }


def _seconds(
    recipe: Recipe,
    small: Recipe,
    done: Mapping[str, bool],
    languages: tuple[LanguagePlan, ...],
    counts: Mapping[str, _Count],
    seen: _Observed,
) -> dict[str, float]:
    def documents_read(most: int, in_miniature: int) -> float:
        """How many times as many held-out documents the run reads as the miniature, where those are the most of each."""
        held = [_held_out(recipe, count) for count in counts.values()]
        sampled = [count.sample_documents for count in counts.values()]
        read = sum(min(most, count) for count in held)
        return read / sum(
            min(in_miniature, count, here) for count, here in zip(held, sampled, strict=True)
        )

    text = sum(counts[plan.language].bytes for plan in languages if not plan.recorded)
    sample = sum(count.sample_bytes for count in counts.values())
    ready, step, evaluation = _training_times(seen)
    evaluations = recipe.train.steps // (
        recipe.train.evaluate_every or max(1, recipe.train.steps // 10)
    )
    evaluation *= documents_read(EVALUATED, EVALUATED)
    took = {
        "rank": _grown(seen, "rank", documents_read(recipe.rank.documents, small.rank.documents)),
        "vocabulary": _calibrated(recipe, counts, seen),
        "record": _grown(seen, "record", text / sample),
        "train": ready + recipe.train.steps * step + evaluations * evaluation,
        "card": _grown(seen, "card", documents_read(MEASURED, MEASURED)),
    }
    return {name: 0.0 if done[name] else took[name] for name in STAGES}


def _held_out(recipe: Recipe, count: _Count) -> int:
    """About so many documents are held out; where none are, ranking reads the others."""
    share = recipe.held_out_share
    return round(count.documents * share / (1 - share)) or count.documents


def _calibrated(recipe: Recipe, counts: Mapping[str, _Count], seen: _Observed) -> float:
    """Seconds of the vocabulary: what two numbers of lines took tells what grows with the text from what does not."""
    lines = recipe.vocabulary.calibration_lines
    all_of_it = sum(count.bytes * min(1, lines / count.documents) for count in counts.values())
    sample = sum(count.sample_bytes for count in counts.values())
    few = sum(
        count.sample_bytes * min(1, _FEWEST_LINES / count.sample_documents)
        for count in counts.values()
    )
    took, fewest = seen.spent["vocabulary"], seen.spent[_FEWEST]
    per_byte = max(0.0, took - fewest) / (sample - few) if few < sample else took / sample
    return took + max(0.0, all_of_it - sample) * per_byte


def _grown(seen: _Observed, stage: str, times: float) -> float:
    """Seconds of a stage that does its work so many times, and opens its teachers as often as the miniature did."""
    work = 0.0
    for before, after in pairwise(seen.times[stage]):
        # Within one teacher's work the count rises; where it falls, another was opened.
        if 0 <= before[1] <= after[1]:
            work += after[0] - before[0]
    work = work or seen.spent[stage]
    return seen.spent[stage] + (times - 1) * work


def _training_times(seen: _Observed) -> tuple[float, float, float]:
    """Seconds until the first step is done, of another step, and of one evaluation."""
    reports = seen.times["train"]
    steps = [report[0] for report in reports if report[3].startswith("training")]
    apart = [after - before for before, after in pairwise(steps)]
    end = reports[-1][0]
    return seen.spent["train"] - (end - steps[0]), median(apart), end - steps[-1]


@contextmanager
def _peak_memory() -> Iterator[Callable[[], int | None]]:
    """Inside, a function that tells the largest memory since the beginning: the GPU's where there is one."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        yield lambda: int(torch.cuda.max_memory_allocated())
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    yield _high_water_mark


def _high_water_mark() -> int | None:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None
