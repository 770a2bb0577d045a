"""What people would do instead, on a real multilingual model: trimming, cutting layers, other students, all tuned alike.

Needs `--model FOLDER`, a multilingual encoder, and `--data FOLDER` in the layout that `xeval` reads. The model is trimmed once to
the question's languages (the same function there, with fewer rows for the optimiser to carry), every system of `bistil compare`
that is asked for is made of it on the same text for the same number of steps, learns each task on English, and is judged on
the targets. What was made stays in `--work`, and the same call goes on from it; seeds that every system has are recorded.
`--long` gives phase 1 three times the text and twice as much of it at a step, `--extract` states any key of the recipe's `extract`
anew, such as `width=192,steps=400`, `--jobs` makes systems side by side.
`--pareto FILE` draws score against parameters and operations, `--report FILE` writes recipe, tables and paired tests.

    python benchmarks/bistil_real.py --model FOLDER --data FOLDER --work FOLDER --targets de --tasks pos --seeds 1
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bilinguals import (
    add_options,
    draw_pareto,
    print_tests,
    record_scores,
    rows_of,
    tell,
)
from comparison_parts import Part, make, rounds
from record import Recorder, parser
from system_table import system_table
from transformers.utils.logging import disable_progress_bar

import xeval
from bistil.compare.recipe import Comparison
from bistil.compare.run import compare
from bistil.compare.systems import SYSTEMS as KNOWN
from teacherzoo.yaml_values import values_of
from vocabmerge import trim

SOURCE = "en"
TARGETS = ("de", "fi", "tr", "hi", "sw", "zh")
TASKS = {
    "pos": ("de", "fi", "tr", "hi", "zh"),
    "dp": ("de", "fi", "tr", "hi", "zh"),
    "ner": ("de", "fi", "tr", "hi", "zh"),
    "topic": TARGETS,
    "bitext": TARGETS,
    "topic_probe": TARGETS,
    "pos_probe": ("de", "fi", "tr", "hi", "zh"),
}
SOURCES = {"pos": "en_ewt", "dp": "en_ewt", "pos_probe": "en_ewt"}  # English has several treebanks
BARS = {  # of the whole model
    "pos": 0.99,
    "ner": 0.99,
    "dp": 0.98,
    "topic": 0.98,
    "pos_probe": 0.99,
    "bitext": 0.995,
    "topic_probe": 0.98,
}
# All weights on labels: in a first trial a third of the time of sparse fine-tuning under a teacher, and half a point behind it.
SYSTEMS = (
    "whole+full",
    *(
        f"{model}+full+labels"
        for model in ("bistil", "paper", "small", "cut", "minilmv2", "states", "scratch")
    ),
)


@dataclass(frozen=True, kw_only=True)
class Size:
    """How long the runs are.

    Attributes:
        lines: of each language's text that choose pieces, and that students read.
        extract_steps: of phase 1.
        rows: in each of its steps, of 64 tokens.
        extract_rate: its learning rate.
        checkpoint_every: so many steps.
        tune_steps: of a task, in each of the two phases of sparse fine-tuning.
        tune_rate: its learning rate.
        batch: examples in a step of it.
        looks: evaluations on the development set in each phase.
    """

    lines: int = 20_000
    extract_steps: int = 800
    rows: int = 64
    extract_rate: float = 1e-3
    checkpoint_every: int = 200
    tune_steps: int = 400
    tune_rate: float = 2e-4
    batch: int = 32
    looks: int = 4


LONG = Size(lines=60_000, rows=128, checkpoint_every=800)
QUICK = Size(lines=300, extract_steps=2, rows=16, tune_steps=2, batch=4, looks=1)


def texts_of(data: Path, folder: Path, languages: tuple[str, ...], lines: int) -> dict[str, str]:
    """Per language a file of so many lines, evenly spread over its corpus."""
    import lzma

    files = {}
    for language in languages:
        file = folder / f"{language}.txt"
        files[language] = str(file)
        if not file.exists():
            with lzma.open(data / "corpora" / f"{language}.txt.xz", "rt", encoding="utf-8") as read:
                known = read.read().splitlines()
            step = max(1, len(known) // lines)
            file.write_text("\n".join(known[::step][:lines]) + "\n", encoding="utf-8")
    return files


def recipe_of(
    size: Size,
    data: Path,
    model: Path,
    out: Path,
    texts: dict[str, str],
    *,
    targets: tuple[str, ...],
    tasks: tuple[str, ...],
    systems: tuple[str, ...],
    students: str,
    seeds: int,
    extract: Mapping[str, Any],
) -> Comparison:
    return Comparison.model_validate(
        {
            "model": str(model), "corpora": texts, "source": SOURCE, "sources": SOURCES, "targets": targets, "tasks": tasks,
            "systems": systems, "students": students, "data": str(data), "seeds": seeds, "out": str(out), "languages": None,
            "extract": {
                "steps": size.extract_steps, "batch": size.rows, "length": 64, "learning_rate": size.extract_rate, "warmup": 0.06,
                "checkpoint_every": size.checkpoint_every, **extract,
            },
            "tune": {
                "steps": size.tune_steps, "full_steps": size.tune_steps, "batch": size.batch, "length": 128,
                "learning_rate": size.tune_rate, "warmup": 0.1, "evaluate_every": max(1, size.tune_steps // size.looks),
            },
            "tune_by_task": {"topic": {"pooling": "mean"}},
        }
    )  # fmt: skip


def stated_in(text: str) -> dict[str, Any]:
    """`width=192,layers=last` as keys and values."""
    return {key: values_of(value) for key, _, value in (part.partition("=") for part in text.split(","))}  # fmt: skip


def main() -> None:
    """Make what is missing, seed by seed, and record what every system has."""
    arguments = parser(__doc__.splitlines()[0])
    add_options(arguments)
    arguments.add_argument("--tasks", nargs="+", default=["pos"], choices=list(TASKS))
    arguments.add_argument("--targets", nargs="+", default=["de"], choices=TARGETS)
    arguments.add_argument(
        "--systems",
        nargs="+",
        default=list(SYSTEMS),
        choices=list(KNOWN),
        metavar="SYSTEM",
        help="as `bistil compare` calls them",
    )
    arguments.add_argument("--students", default="pairs", choices=["pairs", "shared"])
    arguments.add_argument(
        "--long", action="store_true", help="phase 1 on more text and twice as much of it at a step"
    )
    arguments.add_argument(
        "--extract", metavar="KEY=VALUE,…", help="of phase 1, as `bistil compare` has them"
    )
    arguments.add_argument("--jobs", type=int, default=1, help="processes side by side")
    arguments.add_argument(
        "--terms",
        metavar="TERM=WEIGHT,…",
        help="of bistil's loss, in place of what suits the model",
    )
    arguments.add_argument("--pareto", type=Path, help="draw the picture into this file")
    options = arguments.parse_args()
    disable_progress_bar()
    size = QUICK if options.quick else LONG if options.long else Size()
    stated = stated_in(options.extract) if options.extract else {}
    if options.terms:
        stated["terms"] = stated_in(options.terms)
    targets, systems = tuple(options.targets), tuple(options.systems)
    tasks = {task: tuple(code for code in TASKS[task] if code in targets) for task in options.tasks}
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.work or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        languages = (SOURCE, *targets)
        texts = texts_of(options.data, folder, languages, size.lines)
        model = folder / f"whole-{'-'.join(languages)}"
        if not model.exists():
            trim(options.model, texts, model, lines=None)

        def follow(part: Part, seeds: int) -> Comparison:
            for task in part.tasks:
                recipe = recipe_of(
                    size, options.data, model, folder / "run", texts, targets=tasks[task], tasks=(task,), systems=part.systems,
                    students=options.students, seeds=seeds, extract=stated,
                )  # fmt: skip
                compare(recipe, watch=tell)
            return recipe

        seeds = range(1, 1 + (1 if options.quick else options.seeds))
        if options.jobs > 1:
            for count in seeds:
                make(rounds(systems, [*tasks]), functools.partial(follow, seeds=count), processes=options.jobs)  # fmt: skip
        for count in seeds:
            recipe = follow(Part(systems, tuple(tasks)), count)
        rows = rows_of(recipe)
        recorder = Recorder("bistil_real", options)
        shape = {**asdict(size), "students": options.students, "targets": " ".join(targets), **{f"extract.{key}": str(value) for key, value in stated.items()}}  # fmt: skip
        record_scores(recorder, rows, systems, tasks, dict.fromkeys(tasks, size.tune_steps), shape, BARS)  # fmt: skip
        recorder.close()
        costs = xeval.read_costs(folder / "run" / "costs.jsonl")
        table = system_table(rows, costs, systems, tasks)
        print_tests(rows, asdict(size), recipe, tasks, options.report, table)
        print(table)
        if options.pareto:
            draw_pareto(rows, costs, tasks, options.pareto)


if __name__ == "__main__":
    main()
