"""What bilingual students keep of their teacher on real text: one multilingual model of thirteen languages, four tasks.

Needs `--data FOLDER` in the layout that `xeval` reads. A multilingual model as small as two cores can carry (sizes below) is
pretrained on all the text; BiStil's students, of half its layers, and their rivals train for the same number of steps; all learn
a task on English and are judged on the other languages. What was made stays in `--work`, and the same call goes on from it; seeds
that every system has are recorded, so that a system may be left out of some tasks by calling for these alone. `--pareto FILE`
draws score against parameters and operations, `--report FILE` writes recipe, tables with intervals and paired tests: both of
all that is there.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bilinguals import (
    add_options,
    draw_pareto,
    extracting,
    print_tests,
    record_scores,
    rows_of,
    tell,
    tuning,
)
from record import Recorder, parser
from transformers.utils.logging import disable_progress_bar

import xeval
from bistil.compare.recipe import Comparison
from bistil.compare.run import compare
from bistil.compare.systems import SYSTEMS as KNOWN
from teacherzoo import Corpus, pretrain_teacher
from teacherzoo.pretrain.config import PretrainingConfig

SOURCE = "en"
LANGUAGES = ("en", "de", "es", "fi", "hi", "tr", "zh", "sw", "ha", "yo", "wo", "te", "mr")
TARGETS = {
    "pos": ("de", "es", "fi", "tr", "zh", "wo", "yo", "te", "mr"),
    "dp": ("de", "es", "fi", "tr", "zh", "wo", "yo", "te", "mr"),
    "ner": ("de", "fi", "tr", "hi", "zh"),
    "topic": LANGUAGES[1:],
}
SOURCES = {"pos": "en_ewt", "dp": "en_ewt"}  # English has several treebanks
SYSTEMS = ("bistil", "whole", "distilmbert+labels", "minilmv2+labels", "scratch+labels")


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large the models and the runs are."""

    vocabulary: int = 8000
    layers: int = 4
    width: int = 128
    teacher_steps: int = 9000
    extract_steps: int = 300
    tune_steps: dict[str, int] = field(
        default_factory=lambda: {"pos": 300, "dp": 300, "ner": 600, "topic": 300}
    )


QUICK = Size(vocabulary=1500, width=64, teacher_steps=10, extract_steps=4, tune_steps=dict.fromkeys(TARGETS, 6))  # fmt: skip


def multilingual_model(size: Size, data: Path, model: Path) -> Path:
    """The multilingual model, pretrained where it is missing."""
    if not model.exists():
        corpora = [Corpus(code, _corpus(data, code), held_out_share=0.01) for code in LANGUAGES]
        config = PretrainingConfig(
            vocabulary=size.vocabulary, layers=size.layers, width=size.width, heads=4,
            steps=size.teacher_steps, batch=32, length=32, mask_rate=0.3, learning_rate=1.5e-3,
        )  # fmt: skip
        teacher = pretrain_teacher(corpora, model, config=config)
        print(f"pretrained the model in {teacher.seconds:.0f} s", teacher.accuracy, flush=True)
    return model


def recipe_of(
    size: Size, data: Path, model: Path, out: Path, task: str, targets: tuple[str, ...], seeds: int, systems: tuple[str, ...]
) -> Comparison:  # fmt: skip
    return Comparison.model_validate(
        {
            "model": str(model),
            "corpora": {code: _corpus(data, code) for code in LANGUAGES},
            "source": SOURCE,
            "sources": SOURCES,
            "targets": targets,
            "tasks": (task,),
            "systems": systems,
            "data": str(data),
            "seeds": seeds,
            "out": str(out),
            "extract": extracting(size.extract_steps, learning_rate=3e-3, checkpoint_every=size.extract_steps),
            "languages": None,  # the model has just read the same text
            **tuning(size.tune_steps, looks=4),
        }
    )  # fmt: skip


def _corpus(data: Path, language: str) -> str:
    return str(data / "corpora" / f"{language}.txt.xz")


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    add_options(arguments)
    arguments.add_argument("--tasks", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    arguments.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(KNOWN))
    arguments.add_argument(
        "--languages", nargs="+", choices=LANGUAGES[1:], help="of the targets, these alone"
    )
    arguments.add_argument("--pareto", type=Path, help="draw the picture into this file")
    options = arguments.parse_args()
    if options.data is None:
        sys.exit("This question needs real text: give --data FOLDER.")
    disable_progress_bar()
    size = QUICK if options.quick else Size()
    seeds = 1 if options.quick else options.seeds
    tasks = {
        task: tuple(code for code in TARGETS[task] if code in (options.languages or LANGUAGES))
        for task in options.tasks
    }
    systems = tuple(options.systems)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.work or Path(scratch)
        model = multilingual_model(size, options.data, folder / "mmt")
        for seed in range(seeds):  # a whole table of each seed before the next
            for task, targets in tasks.items():
                recipe = recipe_of(
                    size, options.data, model, folder / "run", task, targets, seed + 1, systems
                )
                compare(recipe, watch=tell)
        results = rows_of(recipe)
        recorder = Recorder("bistil_data", options)
        shape = {"languages": len(LANGUAGES), **asdict(size)}
        record_scores(recorder, results, systems, tasks, size.tune_steps, shape)
        recorder.close()
        everything = {**TARGETS, **tasks}
        print_tests(results, asdict(size), recipe, everything, options.report)
        if options.pareto:
            costs = xeval.read_costs(folder / "run" / "costs.jsonl")
            draw_pareto(results, costs, everything, options.pareto)


if __name__ == "__main__":
    main()
