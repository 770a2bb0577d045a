"""Five teachers of two tokenizer families and six languages become one student: what does it gain, and what does it lose?

Needs `--data FOLDER` with `corpora/`, `ud/`, `ner/`, `sib200/`, and `--model FOLDER`, a multilingual encoder. The teachers: English (WordPiece,
uncased), German, Finnish and Swahili (Unigram), pretrained from nothing; Hindi with Urdu from the encoder's lowest layers, in its own pieces.
A student of one teacher's body over the union of the five vocabularies reads a quarter of their lines. The rows of the table are

- `merged`: each language's teacher is heard by its 8 likeliest pieces and their tail;
- `mlm only`: the same steps without teachers;
- `merged, 0.6 of the steps`, and `0.7`: is the end of `mlm only` reached by then, in masked accuracy and in bits per byte;
- `merged, drawn`: heard by pieces drawn from the whole distribution;
- `online`: asked in each step;
- `merged, on the encoder's layers`, and the same by masked words only: the student is as deep as the last teacher and begins as it;
- `merged, with the encoder's states`, and the same on its layers: states of words behind the encoder's layer 8 are learned, too, by
  which mBERT aligns words of two languages best (Dou and Neubig 2021).

Judged on text that neither teachers nor students read: bits per byte and masked accuracy; tags and topics by probes of frozen states that
are fitted on English; entities by models tuned on English, Finnish or Hindi. Teachers are judged beside them in their own languages.

    python benchmarks/mergedistill_five.py --model FOLDER --data FOLDER --work FOLDER --seeds 0 1 2
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from mergedistill_signals import write_some_lines
from record import Recorder, parser
from students import interval, tell, undisturbed
from transformers.utils import logging

import xeval
from mergedistill.recipe.recipe import Recipe
from mergedistill.run.ablate import Outcome, Variant, ablate
from teacherzoo import (
    ContinuedPretraining,
    Corpus,
    PretrainingConfig,
    continue_pretraining,
    pretrain_teacher,
)
from xeval.encoder import model_digest
from xeval.evaluate.score import Label

LANGUAGES = ("en", "de", "fi", "sw", "hi", "ur")
TAUGHT = {"english": ("en",), "german": ("de",), "finnish": ("fi",), "swahili": ("sw",), "hindi-urdu": ("hi", "ur")}  # fmt: skip
PLAIN, MERGED = "mlm only", "merged"
PROBES = {"pos_probe": ("en", "de", "fi", "hi"), "topic_probe": LANGUAGES}
SOURCES = {"pos_probe": "en_ewt", "topic_probe": "en"}
ENTITIES = {"en": ("en", "de", "fi", "hi"), "fi": ("fi",), "hi": ("hi",)}  # tuned on, and scored on
KEPT = 0.95  # of a teacher's score in its own language


@dataclass(frozen=True, kw_only=True)
class Size:
    """Of teachers and students; a step reads `batch` blocks of `length` pieces."""

    vocabulary: int = 5000
    layers: int = 3
    width: int = 192
    teacher_steps: int = 2000
    encoder_steps: int = 800  # of the teacher made from the encoder
    steps: int = 2000
    length: int = 32
    batch: int = 64
    learning_rate: float = 2e-3
    alpha: float = 0.7
    held_out_share: float = 0.01
    lines: int | None = None  # that students read of each language; None for a quarter
    teacher_lines: int | None = None
    tuning_steps: int = 300
    probes: tuple[str, ...] = ("pos_probe", "topic_probe")
    entities: tuple[str, ...] = ("en", "fi", "hi")  # tuned on


QUICK = Size(
    vocabulary=400, layers=1, width=64, teacher_steps=4, encoder_steps=2, steps=4, batch=8, lines=200, teacher_lines=400,
    held_out_share=0.05, tuning_steps=2, probes=("topic_probe",), entities=("fi",),
)  # fmt: skip


def main() -> None:
    options = _options()
    logging.disable_progress_bar()
    size = QUICK if options.quick else Size()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.work or Path(scratch)
        for name in options.teachers or TAUGHT:
            teach(name, size, options, folder)
        if options.teachers:
            return
        recorder = Recorder("mergedistill_five", options)
        measure(size, options, folder, recorder)
        recorder.close()


def _options() -> Namespace:
    asked = parser(__doc__.splitlines()[0])
    asked.add_argument("--work", type=Path, help="keep everything here; the same call goes on")
    asked.add_argument("--seeds", type=int, nargs="+", help="of the students; by default 0 1 2")
    asked.add_argument("--rows", nargs="+", choices=[row.name for row in rows(Size(), "")], metavar="ROW",
                       help="of the table; by default all")  # fmt: skip
    asked.add_argument("--teachers", nargs="+", choices=list(TAUGHT), help="only make these")
    asked.add_argument(
        "--held-out",
        action="store_true",
        help="only bits per byte and masked accuracy, no probes and entities",
    )
    options = asked.parse_args()
    if options.model is None or options.data is None:
        asked.error("name the encoder by --model FOLDER and the text by --data FOLDER.")
    if options.quick:
        options.rows = options.rows or [MERGED, PLAIN]
    options.seeds = options.seeds or ([0] if options.quick else [0, 1, 2])
    return options


def teach(name: str, size: Size, options: Namespace, folder: Path) -> None:
    """Make a teacher, unless it is there."""
    out = folder / "teachers" / name
    if out.exists():
        return
    corpora = [
        Corpus(code, corpus_of(options, code), held_out_share=size.held_out_share, limit=size.teacher_lines)
        for code in TAUGHT[name]
    ]  # fmt: skip
    if name == "hindi-urdu":
        further = ContinuedPretraining(
            layers=size.layers, vocabulary=2 * size.vocabulary, steps=size.encoder_steps, head_steps=size.encoder_steps // 8,
            batch=size.batch, length=size.length,
        )  # fmt: skip
        made = continue_pretraining(options.model, corpora, out, config=further)
    else:
        english = name == "english"
        anew = PretrainingConfig(
            family="wordpiece" if english else "unigram", cased=not english, vocabulary=size.vocabulary, layers=size.layers,
            width=size.width, steps=size.teacher_steps, batch=size.batch, length=size.length,
        )  # fmt: skip
        made = pretrain_teacher(corpora, out, config=anew)
    print(f"teacher {name}: {made}", file=sys.stderr, flush=True)


def corpus_of(options: Namespace, language: str) -> Path:
    return Path(options.data) / "corpora" / f"{language}.txt.xz"


def rows(size: Size, encoder: str) -> list[Variant]:
    """Of the table, those that decide first."""
    on_layers = {
        "student.start": "teacher", "student.teacher": "hindi-urdu", "student.architecture": "bert", "student.width": 384,
        "student.layers": size.layers, "student.heads": 12, "student.feed_forward": 1536,
    }  # fmt: skip
    with_states = {"states": {"encoder": encoder, "layer": 8}}
    return [
        Variant(name=MERGED, changes={}),
        Variant(name=PLAIN, changes={"distil.alpha": 0.0}),
        *(
            Variant(
                name=f"merged, {share} of the steps",
                changes={"train.steps": round(share * size.steps)},
            )
            for share in (0.6, 0.7)
        ),
        Variant(name="merged, drawn", changes={"distil.sampler": "random"}),
        Variant(name="online", changes={"distil.online": True}),
        Variant(name="merged, on the encoder's layers", changes=on_layers),
        Variant(name="mlm only, on the encoder's layers", changes=on_layers | {"distil.alpha": 0.0}),
        Variant(name="merged, with the encoder's states", changes=with_states),
        Variant(name="mlm only, with the encoder's states", changes=with_states | {"distil.alpha": 0.0}),
        Variant(name="merged, on the encoder's layers, with its states", changes=on_layers | with_states),
    ]  # fmt: skip


def measure(size: Size, options: Namespace, folder: Path, recorder: Recorder) -> None:
    recipe = recipe_of(size, options, folder)
    chosen = [
        row
        for row in rows(size, str(options.model))
        if not options.rows or row.name in options.rows
    ]
    outcomes: dict[str, Outcome] = {}
    for row in chosen:
        (outcomes[row.name],) = ablate(recipe, [row], seeds=options.seeds, watch=tell)
        print(row.name, {code: interval(values) for code, values in outcomes[row.name].bits_per_byte.items()}, flush=True)  # fmt: skip
    shape = {"steps": size.steps, "teacher_steps": size.teacher_steps, "seeds": " ".join(map(str, options.seeds))}  # fmt: skip
    say_held_out(outcomes, recorder, shape)
    if options.held_out:
        return
    results = folder / "results.jsonl"
    for task in size.probes:
        say_probe(task, outcomes, options, folder, results, recorder, shape)
    say_entities(size, outcomes, options, folder, recorder, shape)


def recipe_of(size: Size, options: Namespace, folder: Path) -> Recipe:
    """The merged student's; lines of each language from all over its text, which lies source behind source."""
    languages = {}
    for language in LANGUAGES:
        file = folder / "lines" / f"{language}.txt"
        write_some_lines(corpus_of(options, language), size.lines, file)
        languages[language] = str(file)
    return Recipe.model_validate(
        {
            "out": str(folder / "run"),
            "languages": languages,
            "teachers": [
                {"teacher": str(folder / "teachers" / name), "languages": codes}
                for name, codes in TAUGHT.items()
            ],
            "held_out_share": size.held_out_share,
            "vocabulary": {"normalizer": "keep"},
            "student": {"layers": size.layers, "width": size.width},
            "distil": {"alpha": size.alpha, "block_length": size.length},
            "train": undisturbed(size.steps, size.batch * size.length, size.learning_rate),
        }
    )


def say_held_out(
    outcomes: Mapping[str, Outcome], recorder: Recorder, shape: Mapping[str, object]
) -> None:
    """Bits per byte and masked accuracy of each language, students beside their teachers."""
    first = next(iter(outcomes.values()))
    teachers = json.loads((first.students[0] / "run.json").read_text())["held_out"]
    for part, of_teacher, what, unit in (
        ("bits_per_byte", "teacher", "held-out bits per byte", "b/B"),
        ("accuracy", "teacher_accuracy", "held-out masked accuracy", ""),
    ):
        for language in LANGUAGES:
            figures = {name: getattr(outcome, part)[language] for name, outcome in outcomes.items()}
            figures["teacher"] = [teachers[language][of_teacher]]
            recorder.add(what, figures, unit=unit, shape={**shape, "language": language})


def say_probe(
    task: str,
    outcomes: Mapping[str, Outcome],
    options: Namespace,
    folder: Path,
    results: Path,
    recorder: Recorder,
    shape: Mapping[str, object],
) -> None:
    """A probe fitted on English, of students in all languages and of the English teacher in its own; paired tests of two students."""

    def ask(model: Path, name: str, seed: int, languages: Sequence[str]) -> list[xeval.Result]:
        label = Label(model=name, model_digest=model_digest(str(model)), seed=seed)
        return xeval.score(
            model, results, source=xeval.open_source(str(options.data)), languages=languages, task=task,
            language=SOURCES[task], label=label,
        )  # fmt: skip

    scored: list[xeval.Result] = []
    for name, outcome in outcomes.items():
        for seed, student in zip(outcome.seeds, outcome.students, strict=True):
            scored += ask(student, name, seed, PROBES[task])
    teacher = ask(folder / "teachers" / "english", "english", 0, ["en"])
    metric = xeval.task_of(task).metrics[0]
    for language in PROBES[task]:
        figures = {name: by_seed(scored, name, metric, language) for name in outcomes}
        in_source = language == "en"
        if in_source:
            figures["teacher"] = by_seed(teacher, "english", metric, language) * len(options.seeds)
        recorder.add(
            f"{task} {metric}, fitted on English", figures, unit="%", floor="teacher" if in_source else None,
            bar={MERGED: KEPT} if in_source and task == "pos_probe" and MERGED in outcomes else None, at_least=True,
            shape={**shape, "language": language},
        )  # fmt: skip
    if {MERGED, PLAIN} <= outcomes.keys():
        # Students of one row of the table and several seeds are other weights, and one system.
        by_system = [replace(one, model_digest=one.model) for one in xeval.read_results(results) if one.task == task]  # fmt: skip
        for test in xeval.compare(by_system, MERGED, PLAIN):
            if test.metric == metric:
                for gap in (*test.languages, *filter(None, [test.mean])):
                    print(f"{task}, {gap.place}: {gap.verdict} ({gap.low:+.2f} to {gap.high:+.2f}, p {gap.p_holm:.3f})")  # fmt: skip


def by_seed(results: Sequence[xeval.Result], model: str, metric: str, language: str) -> list[float]:
    """The mean over a language's test sets, seed by seed."""
    values: dict[int, list[float]] = {}
    for row in results:
        if (row.model, row.metric, row.language) == (model, metric, language) and row.value is not None:  # fmt: skip
            values.setdefault(row.seed, []).append(row.value)
    return [mean(values[seed]) for seed in sorted(values)]


def say_entities(
    size: Size,
    outcomes: Mapping[str, Outcome],
    options: Namespace,
    folder: Path,
    recorder: Recorder,
    shape: Mapping[str, object],
) -> None:
    """Models tuned on a language with entities, scored there and, those of English, elsewhere; its teacher beside them."""
    protocol = xeval.Protocol(
        steps=size.tuning_steps, evaluate_every=max(1, size.tuning_steps // 4), learning_rate=5e-4
    )
    teachers = {code: name for name, codes in TAUGHT.items() for code in codes}
    for language in size.entities:
        targets = ENTITIES[language]
        models = {name: outcome.students for name, outcome in outcomes.items()}
        models["teacher"] = (folder / "teachers" / teachers[language],)
        figures: dict[str, dict[str, list[float]]] = {target: {} for target in targets}
        for name, students in models.items():
            for student in students:
                scored = xeval.run(
                    [student], folder / "entities.jsonl", tasks=["ner"], source=xeval.open_source(str(options.data)),
                    language=language, languages=[language] if name == "teacher" else targets, protocol=protocol,
                    work=folder / "tuned",
                )  # fmt: skip
                for target in {row.language for row in scored}:
                    values = [row.value for row in scored if row.language == target and row.metric == "f1" and row.value is not None]  # fmt: skip
                    figures[target].setdefault(name, []).append(mean(values))
        figures[language]["teacher"] *= len(options.seeds)
        for target, measured in figures.items():
            in_source = target == language and measured["teacher"][0] > 0
            recorder.add(
                f"ner f1, tuned on {language}", measured, unit="%", floor="teacher" if in_source else None,
                bar={MERGED: KEPT} if in_source and MERGED in outcomes else None, at_least=True,
                shape={**shape, "language": target, "tuning_steps": size.tuning_steps},
            )  # fmt: skip


if __name__ == "__main__":
    main()
