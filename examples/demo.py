"""The whole story in minutes: three teachers become one student, a big multilingual model becomes a small bilingual one.

    python examples/demo.py [--out demo] [--data DIR] [--seed N] [--quick]

Without `--data` it is told in the toy world, whose languages are made up and whose limits are known exactly; with it, on
real text in the layout that `xeval` reads. What is done is not done again: run it a second time and it goes on, or ends
at once. Everything ends in one table, `OUT/table.md`, and one page, `OUT/report.html`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here comes from the Hub
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

import yaml
from demo_experiment import REAL_LANGUAGES, Experiment, real_text, toy_world
from demo_page import write_page, write_table
from demo_process_pool import ProcessPool
from rich.console import Console
from rich.table import Table

Watch = Callable[[int, int, str], None]
_HELD_OUT = 0.02  # share of the documents that no model is trained on

_DOCUMENTS = 1000  # of each language, that the students read
PRETRAINING = {
    "width": 128,
    "batch": 32,
    "length": 24,
    "mask_rate": 0.3,
    "checkpoint_every": 10_000,
}
TAGGING: dict[str, Any] = {"batch_size": 16, "learning_rate": 1e-3, "max_length": 64}
_JUDGED_LINES = 200


# --- jobs: each makes one thing, in a process of its own, and is done at once where the thing is there ----------------


def pretrain(
    experiment: Experiment,
    out: Path,
    languages: Sequence[str],
    settings: Mapping[str, Any],
    watch: Watch,
) -> None:
    """A teacher from the text of its languages."""
    from teacherzoo import Corpus, PretrainingConfig, pretrain_teacher

    if out.exists():
        return
    texts = [
        Corpus(code, str(experiment.corpus(code)), held_out_share=_HELD_OUT, part="train")
        for code in languages
    ]
    config = PretrainingConfig(seed=experiment.seed, **settings)
    pretrain_teacher(texts, out, config=config, watch=watch)


def entropies(experiment: Experiment, watch: Watch) -> None:
    """Bits per byte that the best possible model would need, computed by the world that made the text."""
    from toyworld import World

    if experiment.floors.exists():
        return
    manifest = json.loads((experiment.data / "MANIFEST.json").read_text())
    world = World(manifest["seed"], share=manifest["share"], frames=manifest["frames"])
    floors = {}
    for number, code in enumerate(experiment.languages):
        watch(number, len(experiment.languages), code)
        floors[code] = world.entropy(code).bits_per_byte
    experiment.floors.write_text(json.dumps(floors))


def hold_out(experiment: Experiment, watch: Watch) -> None:
    """Put aside what the judge reads."""
    from teacherzoo import Corpus

    folder = experiment.judged / "corpora"
    folder.mkdir(parents=True, exist_ok=True)
    for number, code in enumerate(experiment.languages):
        watch(number, len(experiment.languages), code)
        held_out = Corpus(
            code, str(experiment.corpus(code)), held_out_share=_HELD_OUT, part="held_out", limit=500
        )
        lines = [" ".join(document.text.split()) for document in held_out.documents()]
        (folder / f"{code}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    labels = experiment.judged / "ud"
    if not labels.exists():
        labels.symlink_to((experiment.data / "ud").resolve(), target_is_directory=True)


def rank_all(experiment: Experiment, candidates: Sequence[Path], watch: Watch) -> None:
    """Who is best at which language, on text that none of them has read."""
    from teacherzoo import Corpus, rank

    file = experiment.out / "ranking.json"
    if file.exists():
        return
    texts = [
        Corpus(code, str(experiment.corpus(code)), held_out_share=_HELD_OUT, part="held_out")
        for code in experiment.languages
    ]
    ranking = rank(candidates, texts, documents=100, watch=watch)
    measured: dict[str, dict[str, float]] = {candidate.name: {} for candidate in candidates}
    for rating in ranking.ratings:
        measured[Path(rating.teacher).name][rating.language] = rating.charged_bits_per_byte
    best = {code: Path(name).name for code, name in ranking.assignment.items()}
    file.write_text(json.dumps({"bits_per_byte": measured, "best": best}))


def merge(recipe: Path, until: str, watch: Watch) -> None:
    """Follow a recipe of mergedistill."""
    from mergedistill import read_recipe, run

    run(read_recipe(recipe), until=until, watch=watch)


def extract_student(experiment: Experiment, watch: Watch) -> None:
    """The pair's pieces and every second layer of the multilingual teacher, taught to do as the whole does."""
    from bistil import Extraction, extract

    if experiment.extracted.exists():
        return
    how = Extraction(
        steps=experiment.steps("extract"), batch=24, length=24, learning_rate=1e-3, mask_rate=0.3,
        seed=experiment.seed,
    )  # fmt: skip
    source, target = experiment.pair
    texts = {code: experiment.corpus(code) for code in experiment.pair}
    extract(
        experiment.out / "multilingual", texts, experiment.extracted,
        source=source, targets=[target], extraction=how, watch=watch,
    )  # fmt: skip


def judge(experiment: Experiment, name: str, model: Path, watch: Watch) -> None:
    """Tags right by a probe of frozen states, in every language; bits per byte in those that the model was trained on."""
    import xeval

    protocol = xeval.Protocol(max_length=64, lines=_JUDGED_LINES)
    for task, languages in (
        ("pos_probe", experiment.languages),
        ("bpb", experiment.known_to(name)),
    ):
        xeval.score(
            model, experiment.results, source=xeval.LocalFolder(experiment.judged), languages=languages,
            task=task, language=experiment.source, protocol=protocol, watch=watch,
        )  # fmt: skip


def tune_teacher(experiment: Experiment, watch: Watch) -> None:
    """The multilingual teacher tuned to tag parts of speech in the source language."""
    import xeval

    tuned = experiment.tuned("multilingual")
    if not tuned.exists():
        xeval.tune(
            experiment.out / "multilingual", tuned, task="pos", source=xeval.LocalFolder(experiment.judged),
            language=experiment.source, protocol=_tagging(experiment), seed=experiment.seed, watch=watch,
        )  # fmt: skip
    _score_tagger(experiment, tuned, watch)


def adapt_student(experiment: Experiment, watch: Watch) -> None:
    """The bilingual student tuned sparsely to the same task, under the multilingual teacher that knows it."""
    import xeval
    from bistil import TaskTeacher, TaskTraining, adapt

    tuned = experiment.tuned("bilingual")
    if not tuned.exists():
        adapt(
            experiment.extracted, tuned, task="pos", source=xeval.LocalFolder(experiment.judged),
            language=experiment.source, teacher=TaskTeacher(model=experiment.tuned("multilingual")),
            training=TaskTraining(protocol=_tagging(experiment), seed=experiment.seed), watch=watch,
        )  # fmt: skip
    _score_tagger(experiment, tuned, watch)


def _score_tagger(experiment: Experiment, tuned: Path, watch: Watch) -> None:
    """Where it was tuned: elsewhere its figures hang on the random start of its head."""
    import xeval

    xeval.score(
        tuned, experiment.results, source=xeval.LocalFolder(experiment.judged),
        languages=[experiment.source], watch=watch,
    )  # fmt: skip


def measure_costs(experiment: Experiment, watch: Watch) -> None:
    """What every model costs, one after the other, while nothing else runs."""
    import xeval

    models = list(experiment.models().values())
    experiment.costs.unlink(missing_ok=True)
    for number, model in enumerate(models):
        watch(number, len(models), model.name)
        xeval.append_cost(experiment.costs, xeval.cost(model, threads=1, length=32, repeats=30))


def _tagging(experiment: Experiment) -> Any:
    import xeval

    steps = experiment.steps("tagging")
    return xeval.Protocol(steps=steps, evaluate_every=steps // 2, **TAGGING)


# --- the stages --------------------------------------------------------------------------------------------------------


def main() -> None:
    """Tell the story."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo"), help="default: %(default)s")
    parser.add_argument("--data", type=Path, help="real text, instead of the toy world")
    parser.add_argument(
        "--seed", type=int, default=0, help="of every training; default: %(default)s"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a tenth of the steps: only to see that it goes through",
    )
    options = parser.parse_args()
    console, start = Console(), time.monotonic()
    _refuse_what_is_missing(parser, options)
    if options.data:
        experiment = real_text(options.out, options.data, seed=options.seed, quick=options.quick)
    else:
        experiment = toy_world(options.out, seed=options.seed, quick=options.quick)
    pool = ProcessPool(console)
    try:
        for number, (title, stage) in enumerate(STAGES, start=1):
            console.print(
                f"[bold]{number}. {title}[/bold] [dim]({time.monotonic() - start:.0f} s)[/dim]"
            )
            for line in stage(experiment, pool):
                console.out(line) if isinstance(line, str) else console.print(line)
    finally:
        pool.close()
    console.print(
        f"[bold]Told in {time.monotonic() - start:.0f} s.[/bold] Now open {experiment.out / 'report.html'}."
    )


def _refuse_what_is_missing(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    for code in REAL_LANGUAGES if options.data else ():
        if not any((options.data / "corpora").glob(f"{code}.txt*")):
            parser.error(
                f"{options.data}: there is no corpora/{code}.txt; the story needs {', '.join(REAL_LANGUAGES)}"
            )
        if not any((options.data / "ud").glob(f"{code}_*")):
            parser.error(f"{options.data}: there is no treebank ud/{code}_…; the judge needs one")
    marker = options.out / "story.json"
    story = str(options.data.resolve() if options.data else "toy world")
    story += f", seed {options.seed}" + ", quick" * options.quick
    if marker.exists() and json.loads(marker.read_text()) != story:
        parser.error(f"{options.out} holds another story; remove it, or name another --out")
    options.out.mkdir(parents=True, exist_ok=True)
    marker.write_text(json.dumps(story))


def pretrain_teachers(experiment: Experiment, pool: ProcessPool) -> Iterator[Any]:
    """Three small models of one language each, and one of four languages."""
    single = {
        "layers": 2,
        "learning_rate": 3e-3,
        "vocabulary": experiment.vocabulary,
        **PRETRAINING,
    }
    several = {
        "layers": 4,
        "learning_rate": 1.5e-3,
        "vocabulary": 2 * experiment.vocabulary,
        **PRETRAINING,
    }
    jobs: dict[str, tuple[Any, ...]] = {
        "multilingual teacher": (
            pretrain, experiment, experiment.out / "multilingual", experiment.languages,
            several | {"steps": experiment.steps("multilingual")},
        )
    }  # fmt: skip
    for code in experiment.teachers:
        settings = single | {"steps": experiment.steps("teacher")}
        jobs[f"teacher {code}"] = (
            pretrain,
            experiment,
            experiment.out / f"teacher-{code}",
            [code],
            settings,
        )
    jobs["held-out text"] = (hold_out, experiment)
    if experiment.made_up:
        jobs["the world's entropy"] = (entropies, experiment)
    pool.run(jobs)
    yield from ()


def rank_teachers(experiment: Experiment, pool: ProcessPool) -> Iterator[Any]:
    """Every teacher on every language's held-out text."""
    candidates = [experiment.out / f"teacher-{code}" for code in experiment.teachers]
    candidates.append(experiment.out / "multilingual")
    pool.run({"rank": (rank_all, experiment, candidates)})
    ranking = json.loads((experiment.out / "ranking.json").read_text())
    table = Table("bits per byte", *experiment.languages)
    for name, bits in ranking["bits_per_byte"].items():
        table.add_row(name, *(f"{bits[code]:.2f}" for code in experiment.languages))
    yield table
    yield "  best: " + ", ".join(f"{code}: {name}" for code, name in ranking["best"].items())


def make_students(experiment: Experiment, pool: ProcessPool) -> Iterator[Any]:
    """One student from the three, its twin that learns from the text alone, and a bilingual one from the big teacher."""
    merged, plain = _recipe(experiment, "merged", 0.7), _recipe(experiment, "plain", 0.0)
    pool.run(
        {
            "vocabularies and signals": (merge, merged, "record"),
            "bilingual student": (extract_student, experiment),
            "multilingual teacher's task": (tune_teacher, experiment),
        }
    )
    for stage in ("vocabulary", "signals"):  # what is recorded serves both
        if not (experiment.out / "plain-run" / stage).exists():
            shutil.copytree(
                experiment.out / "merged-run" / stage, experiment.out / "plain-run" / stage
            )
    pool.run(
        {
            "merged student": (merge, merged, "card"),
            "plain student, no teachers": (merge, plain, "card"),
        }
    )
    for name in ("merged", "plain"):
        if not (experiment.out / name).exists():
            shutil.copytree(experiment.out / f"{name}-run" / "student", experiment.out / name)
    yield f"  as `mergedistill run {merged}` and `bistil extract` would\n"


def _recipe(experiment: Experiment, name: str, alpha: float) -> Path:
    """A recipe of mergedistill, as a user would write it."""
    file, steps = experiment.out / f"{name}.yaml", experiment.steps("student")
    evaluate_every = steps // (2 if experiment.quick else 10)
    recipe = {
        "out": f"{name}-run",
        "seed": experiment.seed,
        "languages": {
            code: {"corpus": str(experiment.corpus(code).resolve()), "limit": _DOCUMENTS}
            for code in experiment.teachers
        },
        "teachers": [
            {"teacher": f"teacher-{code}", "languages": [code]} for code in experiment.teachers
        ],
        "held_out_share": _HELD_OUT,
        "vocabulary": {"normalizer": "keep"},
        "student": {"layers": 2, "width": 128},
        "distil": {"alpha": alpha, "block_length": 24, "rate": 0.3, "k": 32},
        "train": {
            "steps": steps,
            "tokens": 1152,
            "learning_rate": 1.5e-3,
            "evaluate_every": evaluate_every,
        },
    }
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return file


def evaluate_all(experiment: Experiment, pool: ProcessPool) -> Iterator[Any]:
    """Every model on every language."""
    jobs = {name: (judge, experiment, name, model) for name, model in experiment.models().items()}
    pool.run({"bilingual student's task": (adapt_student, experiment), **jobs})
    pool.run({"sizes and times": (measure_costs, experiment)})
    yield write_table(experiment)
    write_page(experiment)


STAGES = (
    ("Pretrain three teachers of one language each, and one of four", pretrain_teachers),
    ("Rank them", rank_teachers),
    ("Merge the three into one student; extract two languages of the four", make_students),
    ("Learn to tag words in the first language, and judge everything in all", evaluate_all),
)


if __name__ == "__main__":
    main()
