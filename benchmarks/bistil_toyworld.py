"""What a bilingual student keeps of its teacher where the truth is known: a toy world, one multilingual model, seven systems.

A multilingual model is pretrained on at least six languages. BiStil's student, of half the layers, and its rivals train for
the same number of steps; all learn a task on one language and are judged on another by xeval, with several seeds. Beside
each score stands its ratio to that of the full model with sparse fine-tunings; at the end, xeval's paired tests.
`--work` keeps what was made, so that an interrupted run goes on.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bilinguals import add_options, extracting, print_tests, record_scores, rows_of, tell, tuning
from record import Recorder, parser
from transformers.utils.logging import disable_progress_bar

from bistil.compare.recipe import Comparison
from bistil.compare.run import compare
from bistil.compare.systems import PUBLISHED, SYSTEMS
from teacherzoo import Corpus, pretrain_teacher
from teacherzoo.pretrain.config import PretrainingConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
from toyworld import write_world

SOURCE = "qav"


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large the world, the models and the runs are."""

    languages: tuple[str, ...] = ("qav", "qev", "qov", "qyr", "qag", "qso")
    targets: tuple[str, ...] = ("qov",)
    share: float = 0.2
    frames: int = 30
    words: int = 120_000
    vocabulary: int = 1200
    layers: int = 4
    width: int = 96
    teacher_steps: int = 1500
    extract_steps: int = 600
    language_steps: int = 40
    tune_steps: dict[str, int] = field(default_factory=lambda: {"pos": 200, "ner": 600})


QUICK = Size(
    share=0.1, frames=20, words=12_000, vocabulary=800, width=64, teacher_steps=20, extract_steps=6, language_steps=4,
    tune_steps={"pos": 8, "ner": 8},
)  # fmt: skip


def prepare(size: Size, folder: Path) -> tuple[Path, Path]:
    """The world's data and the multilingual model, made where they are missing."""
    data, model = folder / "data", folder / "mmt"
    if not data.exists():
        write_world(
            data, languages=size.languages, words=size.words, rows={"train": 1000, "dev": 150, "test": 400},
            share=size.share, frames=size.frames,
        )  # fmt: skip
    if not model.exists():
        corpora = [
            Corpus(code, data / "corpora" / f"{code}.txt.xz", held_out_share=0.02)
            for code in size.languages
        ]
        config = PretrainingConfig(
            vocabulary=size.vocabulary, layers=size.layers, width=size.width, heads=4,
            steps=size.teacher_steps, batch=64, length=32,
        )  # fmt: skip
        teacher = pretrain_teacher(corpora, model, config=config)
        print(f"pretrained the model in {teacher.seconds:.0f} s", teacher.accuracy, flush=True)
    return data, model


def recipe_of(
    size: Size,
    data: Path,
    model: Path,
    out: Path,
    tasks: Sequence[str],
    seeds: int,
    systems: Sequence[str],
) -> Comparison:
    return Comparison.model_validate(
        {
            "model": str(model),
            "corpora": {
                code: str(data / "corpora" / f"{code}.txt.xz") for code in size.languages
            },
            "source": SOURCE,
            "targets": size.targets,
            "tasks": tasks,
            "systems": systems,
            "data": str(data),
            "seeds": seeds,
            "out": str(out),
            "extract": extracting(size.extract_steps, learning_rate=1e-3, checkpoint_every=200),
            "languages": {
                "steps": size.language_steps, "batch": 16, "length": 32, "learning_rate": 1e-3,
                "evaluate_every": size.language_steps,
            },
            **tuning(size.tune_steps, looks=6),
        }
    )  # fmt: skip


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    add_options(arguments)
    arguments.add_argument("--systems", nargs="+", default=list(PUBLISHED), choices=list(SYSTEMS))
    arguments.add_argument(
        "--tasks", nargs="+", default=list(Size().tune_steps), choices=list(Size().tune_steps)
    )
    options = arguments.parse_args()
    disable_progress_bar()
    size = QUICK if options.quick else Size()
    seeds = 1 if options.quick else options.seeds
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.work or Path(scratch)
        data, model = prepare(size, folder)
        recorder = Recorder("bistil_toyworld", options)
        recipe = recipe_of(size, data, model, folder / "run", options.tasks, seeds, options.systems)
        compare(recipe, watch=tell)
        rows = rows_of(recipe)
        shape = {
            "languages": len(size.languages), "targets": " ".join(size.targets), "layers": size.layers,
            "width": size.width, "extract_steps": size.extract_steps,
        }  # fmt: skip
        tasks = dict.fromkeys(options.tasks, size.targets)
        record_scores(recorder, rows, options.systems, tasks, size.tune_steps, shape)
        recorder.close()
        print_tests(rows, asdict(size), recipe, tasks, options.report)


if __name__ == "__main__":
    main()
