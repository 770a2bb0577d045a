"""The whole story in minutes: three teachers become one student, a big multilingual model becomes a small bilingual one.

    python examples/demo.py [--out demo] [--data DIR]

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here comes from the Hub
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

import yaml
from demo_page import write_page, write_table
from demo_troupe import Troupe
from rich.console import Console
from rich.table import Table

Watch = Callable[[int, int, str], None]
_HELD_OUT = 0.02  # share of the documents that no model is trained on


REAL_LANGUAGES = ("en", "de", "hi", "tr")
STEPS = {"teacher": 600, "multilingual": 600, "student": 500, "extract": 400}
_DOCUMENTS = 1000  # of each language, that the students read
SCHOOL = {
    "width": 128,
    "batch": 32,
    "length": 24,
    "mask_rate": 0.3,
    "checkpoint_every": 10_000,
}
TAGGING: dict[str, Any] = {
    "steps": 100, "evaluate_every": 50, "batch_size": 16, "learning_rate": 1e-3, "max_length": 64, "lines": 200,
}  # fmt: skip


@dataclass(frozen=True)
class Story:
    """Who is in it.

    Attributes:
        out: where everything goes.
        data: a folder in the layout that `xeval` reads.
        teachers: the languages of the monolingual teachers.
        languages: of the multilingual teacher.
        pair: of the bilingual student: the source, on which tasks are learnt, and the target.
        vocabulary: pieces of a monolingual teacher.
        made_up: whether it is the toy world's, whose entropy is known.
    """

    out: Path
    data: Path
    teachers: tuple[str, ...]
    languages: tuple[str, ...]
    pair: tuple[str, str]
    vocabulary: int
    made_up: bool

    @property
    def source(self) -> str:
        """The language with labels."""
        return self.pair[0]

    @property
    def judged(self) -> Path:
        """What the judge reads: the labelled data, and of the text what no model has seen."""
        return self.out / "judged"

    @property
    def floors(self) -> Path:
        """Where the bits per byte stand that no model can beat."""
        return self.out / "floors.json"

    @property
    def extracted(self) -> Path:
        """The bilingual student."""
        return self.out / "bilingual"

    @property
    def results(self) -> Path:
        """What the judge found."""
        return self.out / "results.jsonl"

    @property
    def costs(self) -> Path:
        """What models cost."""
        return self.out / "costs.jsonl"

    def corpus(self, language: str) -> Path:
        """A language's text."""
        return next((self.data / "corpora").glob(f"{language}.txt*"))

    def models(self) -> dict[str, Path]:
        """All models of the table."""
        return {
            **{f"teacher-{code}": self.out / f"teacher-{code}" for code in self.teachers},
            "multilingual": self.out / "multilingual",
            "plain": self.out / "plain",
            "merged": self.out / "merged",
            "bilingual": self.extracted,
        }

    def known_to(self, model: str) -> tuple[str, ...]:
        """The languages that a model of the table was raised on."""
        if model.startswith("teacher-"):
            return (model.removeprefix("teacher-"),)
        if model == "bilingual":
            return self.pair
        return self.languages if model == "multilingual" else self.teachers


# --- jobs: each makes one thing, in a process of its own, and is done at once where the thing is there ----------------


def raise_one(
    story: Story, out: Path, languages: Sequence[str], settings: Mapping[str, Any], watch: Watch
) -> None:
    """A teacher from the text of its languages."""
    from teacherzoo import Corpus, Upbringing, raise_teacher

    if out.exists():
        return
    texts = [
        Corpus(code, str(story.corpus(code)), held_out_share=_HELD_OUT, part="train")
        for code in languages
    ]
    raise_teacher(texts, out, upbringing=Upbringing(**settings), watch=watch)


def floor(story: Story, watch: Watch) -> None:
    """Bits per byte that the best possible model would need, computed by the world that made the text."""
    from toyworld import World

    if story.floors.exists():
        return
    manifest = json.loads((story.data / "MANIFEST.json").read_text())
    world = World(manifest["seed"], share=manifest["share"], frames=manifest["frames"])
    found = {}
    for number, code in enumerate(story.languages):
        watch(number, len(story.languages), code)
        found[code] = world.entropy(code).bits_per_byte
    story.floors.write_text(json.dumps(found))


def hold_out(story: Story, watch: Watch) -> None:
    """Put aside what the judge reads."""
    from teacherzoo import Corpus

    folder = story.judged / "corpora"
    folder.mkdir(parents=True, exist_ok=True)
    for number, code in enumerate(story.languages):
        watch(number, len(story.languages), code)
        held_out = Corpus(
            code, str(story.corpus(code)), held_out_share=_HELD_OUT, part="held_out", limit=500
        )
        lines = [" ".join(document.text.split()) for document in held_out.documents()]
        (folder / f"{code}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    labels = story.judged / "ud"
    if not labels.exists():
        labels.symlink_to((story.data / "ud").resolve(), target_is_directory=True)


def rank_all(story: Story, candidates: Sequence[Path], watch: Watch) -> None:
    """Who is best at which language, on text that none of them has read."""
    from teacherzoo import Corpus, rank

    file = story.out / "ranking.json"
    if file.exists():
        return
    texts = [
        Corpus(code, str(story.corpus(code)), held_out_share=_HELD_OUT, part="held_out")
        for code in story.languages
    ]
    ranking = rank(candidates, texts, documents=100, watch=watch)
    found: dict[str, dict[str, float]] = {candidate.name: {} for candidate in candidates}
    for rating in ranking.ratings:
        found[Path(rating.teacher).name][rating.language] = rating.charged_bits_per_byte
    best = {code: Path(name).name for code, name in ranking.assignment.items()}
    file.write_text(json.dumps({"bits_per_byte": found, "best": best}))


def merge(recipe: Path, until: str, watch: Watch) -> None:
    """Follow a recipe of mergedistill."""
    from mergedistill import read_recipe, run

    run(read_recipe(recipe), until=until, watch=watch)


def extract_one(story: Story, watch: Watch) -> None:
    """The pair's pieces and every second layer of the multilingual teacher, taught to do as the whole does."""
    from bistil import Extraction, extract

    if story.extracted.exists():
        return
    how = Extraction(steps=STEPS["extract"], batch=24, length=24, learning_rate=1e-3, mask_rate=0.3)
    source, target = story.pair
    texts = {code: story.corpus(code) for code in story.pair}
    extract(
        story.out / "multilingual", texts, story.extracted,
        source=source, targets=[target], extraction=how, watch=watch,
    )  # fmt: skip


def tag(story: Story, name: str, model: Path, watch: Watch) -> Path:
    """A model tuned to tag parts of speech in the source language."""
    import xeval

    tuned = story.out / "tuned" / name
    if not tuned.exists():
        xeval.tune(
            model, tuned, task="pos", source=xeval.LocalFolder(story.judged), language=story.source,
            protocol=xeval.Protocol(**TAGGING), watch=watch,
        )  # fmt: skip
    return tuned


def adapt_one(story: Story, watch: Watch) -> Path:
    """The small student tuned sparsely to the same task, under the multilingual teacher that knows it."""
    import xeval
    from bistil import TaskTeacher, TaskTraining, adapt

    tuned = story.out / "tuned" / "bilingual"
    if not tuned.exists():
        adapt(
            story.extracted, tuned, task="pos", source=xeval.LocalFolder(story.judged),
            language=story.source, teacher=TaskTeacher(model=story.out / "tuned" / "multilingual"),
            training=TaskTraining(protocol=xeval.Protocol(**TAGGING)), watch=watch,
        )  # fmt: skip
    return tuned


def judge(story: Story, name: str, model: Path, watch: Watch) -> None:
    """Tags right and bits per byte in every language."""
    import xeval

    tuned = adapt_one(story, watch) if name == "bilingual" else tag(story, name, model, watch)
    for judged, task, languages in (
        (tuned, None, story.languages),
        (model, "bpb", story.known_to(name)),
    ):
        xeval.score(
            judged, story.results, source=xeval.LocalFolder(story.judged), languages=languages,
            task=task, protocol=xeval.Protocol(**TAGGING), watch=watch,
        )  # fmt: skip


def price(story: Story, watch: Watch) -> None:
    """What every model costs, one after the other, while nothing else runs."""
    import xeval

    models = list(story.models().values())
    story.costs.unlink(missing_ok=True)
    for number, model in enumerate(models):
        watch(number, len(models), model.name)
        xeval.append_cost(story.costs, xeval.cost(model, threads=1, length=32, repeats=30))


# --- the acts ---------------------------------------------------------------------------------------------------------


def main() -> None:
    """Tell the story."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo"), help="default: %(default)s")
    parser.add_argument("--data", type=Path, help="real text, instead of the toy world")
    options = parser.parse_args()
    console, start = Console(), time.monotonic()
    _refuse_what_is_missing(parser, options)
    story = on_data(options.out, options.data) if options.data else in_toy_world(options.out)
    troupe = Troupe(console)
    try:
        for number, (title, act) in enumerate(ACTS, start=1):
            console.print(
                f"[bold]{number}. {title}[/bold] [dim]({time.monotonic() - start:.0f} s)[/dim]"
            )
            for line in act(story, troupe):
                console.out(line) if isinstance(line, str) else console.print(line)
    finally:
        troupe.leave()
    console.print(
        f"[bold]Told in {time.monotonic() - start:.0f} s.[/bold] Now open {story.out / 'report.html'}."
    )


def _refuse_what_is_missing(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    for code in REAL_LANGUAGES if options.data else ():
        if not any((options.data / "corpora").glob(f"{code}.txt*")):
            parser.error(
                f"{options.data}: there is no corpora/{code}.txt; the story needs {', '.join(REAL_LANGUAGES)}"
            )
        if not any((options.data / "ud").glob(f"{code}_*")):
            parser.error(f"{options.data}: there is no treebank ud/{code}_…; the judge needs one")
    told, here = (
        options.out / "story.json",
        str(options.data.resolve() if options.data else "toy world"),
    )
    if told.exists() and json.loads(told.read_text()) != here:
        parser.error(f"{options.out} holds another story; remove it, or name another --out")
    options.out.mkdir(parents=True, exist_ok=True)
    told.write_text(json.dumps(here))


def in_toy_world(out: Path) -> Story:
    """Four made-up languages, of which two are kin and one is written in another script."""
    from toyworld import write_world

    data = out / "data"
    if not data.exists():
        write_world(
            data,
            languages=["qav", "qov", "qyr", "qag"],
            words=150_000,
            rows={"train": 600, "dev": 100, "test": 300},
            share=0.1,
            frames=40,
        )
    return Story(
        out=out,
        data=data,
        teachers=("qav", "qov", "qyr"),
        languages=("qav", "qov", "qyr", "qag"),
        pair=("qav", "qov"),
        vocabulary=2500,
        made_up=True,
    )


def on_data(out: Path, data: Path) -> Story:
    """English, its teachers and three more, on real text."""
    return Story(
        out=out,
        data=data,
        teachers=("en", "de", "hi"),
        languages=REAL_LANGUAGES,
        pair=("en", "de"),
        vocabulary=4000,
        made_up=False,
    )


def raise_teachers(story: Story, troupe: Troupe) -> Iterator[Any]:
    """Three small models of one language each, and one of four languages."""
    single = {"layers": 2, "learning_rate": 3e-3, "vocabulary": story.vocabulary, **SCHOOL}
    several = {"layers": 4, "learning_rate": 1.5e-3, "vocabulary": 2 * story.vocabulary, **SCHOOL}
    jobs: dict[str, tuple[Any, ...]] = {
        "multilingual teacher": (
            raise_one, story, story.out / "multilingual", story.languages,
            several | {"steps": STEPS["multilingual"]},
        )
    }  # fmt: skip
    for code in story.teachers:
        settings = single | {"steps": STEPS["teacher"]}
        jobs[f"teacher {code}"] = (
            raise_one,
            story,
            story.out / f"teacher-{code}",
            [code],
            settings,
        )
    jobs["held-out text"] = (hold_out, story)
    if story.made_up:
        jobs["the world's entropy"] = (floor, story)
    troupe.perform(jobs)
    yield from ()


def rank_teachers(story: Story, troupe: Troupe) -> Iterator[Any]:
    """Every teacher on every language's held-out text."""
    candidates = [story.out / f"teacher-{code}" for code in story.teachers]
    candidates.append(story.out / "multilingual")
    troupe.perform({"rank": (rank_all, story, candidates)})
    ranking = json.loads((story.out / "ranking.json").read_text())
    table = Table("bits per byte", *story.languages)
    for name, its in ranking["bits_per_byte"].items():
        table.add_row(name, *(f"{its[code]:.2f}" for code in story.languages))
    yield table
    yield "  best: " + ", ".join(f"{code}: {name}" for code, name in ranking["best"].items())


def make_students(story: Story, troupe: Troupe) -> Iterator[Any]:
    """One student from the three, its twin that learns from the text alone, and a bilingual one from the big teacher."""
    merged, plain = _recipe(story, "merged", 0.7), _recipe(story, "plain", 0.0)
    troupe.perform(
        {
            "vocabularies and signals": (merge, merged, "record"),
            "bilingual student": (extract_one, story),
            "multilingual teacher's task": (tag, story, "multilingual", story.out / "multilingual"),
        }
    )
    for stage in ("vocabulary", "signals"):  # what is recorded serves both
        if not (story.out / "plain-run" / stage).exists():
            shutil.copytree(story.out / "merged-run" / stage, story.out / "plain-run" / stage)
    troupe.perform(
        {
            "merged student": (merge, merged, "card"),
            "plain student, no teachers": (merge, plain, "card"),
        }
    )
    for name in ("merged", "plain"):
        if not (story.out / name).exists():
            shutil.copytree(story.out / f"{name}-run" / "student", story.out / name)
    yield f"  as `mergedistill run {merged}` and `bistil extract` would\n"


def _recipe(story: Story, name: str, alpha: float) -> Path:
    """A recipe of mergedistill, as a user would write it."""
    file = story.out / f"{name}.yaml"
    recipe = {
        "out": f"{name}-run",
        "languages": {
            code: {"corpus": str(story.corpus(code).resolve()), "limit": _DOCUMENTS}
            for code in story.teachers
        },
        "teachers": [
            {"teacher": f"teacher-{code}", "languages": [code]} for code in story.teachers
        ],
        "held_out_share": _HELD_OUT,
        "vocabulary": {"normalizer": "keep"},
        "student": {"layers": 2, "width": 128},
        "distil": {"alpha": alpha, "block_length": 24, "rate": 0.3, "k": 32},
        "train": {"steps": STEPS["student"], "tokens": 1152, "learning_rate": 1.5e-3},
    }
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return file


def judge_all(story: Story, troupe: Troupe) -> Iterator[Any]:
    """Every model on every language."""
    troupe.perform({name: (judge, story, name, model) for name, model in story.models().items()})
    troupe.perform({"sizes and times": (price, story)})
    yield write_table(story)
    write_page(story)


ACTS = (
    ("Raise three teachers of one language each, and one of four", raise_teachers),
    ("Rank them", rank_teachers),
    ("Merge the three into one student; extract two languages of the four", make_students),
    ("Learn to tag words in the first language, and judge everything", judge_all),
)


if __name__ == "__main__":
    main()
