"""teacherzoo: ways to a teacher against time: held-out bits per byte of English at equal processor time of training.

Needs `--model FOLDER` and `--data FOLDER`. The first steps of each way say how many of them fit into `--minutes` of processor
time; then it is trained with so many, and measured on documents kept from training. What is done lies in `--work`: the
same command goes on where a killed one stopped, with the same steps, and measures no way twice. The goal, 2.0 bits per byte,
is for 90 minutes.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from record import Recorder, parser

from teacherzoo import (
    ContinuedPretraining,
    Corpus,
    PretrainingConfig,
    continue_pretraining,
    load_teacher,
    pretrain_teacher,
)
from teacherzoo.pretrain.source import trimmed_source
from teacherzoo.progress import ProgressCallback, no_progress
from teacherzoo.rank.bits_per_byte import bits_per_byte

GOAL, GOAL_MINUTES = 2.0, 90
PROBE_STEPS, PROBE_HEAD_STEPS, WARM = 12, 5, 2
HEAD_SHARE = 0.1  # of the time, as far as 100 steps do not take less
LANGUAGE = "en"

Config = PretrainingConfig | ContinuedPretraining
NOTHING = PretrainingConfig(vocabulary=5000, layers=3, width=192)
WHOLE = ContinuedPretraining(batch=32, keep_vocabulary=True)  # it is trimmed once for all ways
LOWER = replace(WHOLE, layers=6)
WAYS: dict[str, Config] = {
    "from nothing": NOTHING,
    "from nothing, larger": replace(NOTHING, vocabulary=8000, layers=6, width=256),
    "from nothing, masks 30 to 15 %": replace(NOTHING, mask_rate=0.3, last_mask_rate=0.15),
    "from nothing, batches 32 to 128": replace(NOTHING, batch=32, last_batch=128),
    "encoder with a head": WHOLE,
    "its 6 lower layers": LOWER,
    "its 6 lower layers, states": replace(LOWER, states=1.0),
    "its 6 lower layers, masks 30 to 15 %": replace(LOWER, mask_rate=0.3, last_mask_rate=0.15),
    "its 3 lower layers": replace(LOWER, layers=3),
}


@dataclass(frozen=True)
class Pace:
    """Processor seconds that a step takes, one of all weights and one of the head alone."""

    step: float
    head_step: float


def main() -> None:
    options = _options()
    recorder = Recorder("teacherzoo_pretrain", options)
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        corpus = Corpus(
            LANGUAGE, options.data / f"corpora/{LANGUAGE}.txt.xz", limit=options.documents
        )
        source = trimmed_source(options.model, [corpus], replace(WHOLE, keep_vocabulary=False), work, watch=no_progress)  # fmt: skip
        for number, name in enumerate(WAYS):
            if options.ways is None or number in options.ways:
                _measure(recorder, options, name, work / f"way-{number}", corpus, source)
    recorder.close()


def _options() -> Any:
    asked = parser(__doc__.splitlines()[0])
    names = "; ".join(f"{number} {name}" for number, name in enumerate(WAYS)).replace("%", "%%")
    asked.add_argument(
        "--minutes", type=float, default=GOAL_MINUTES, help="processor time of each way's training"
    )
    asked.add_argument("--work", type=Path, help="a folder to go on in; by default a temporary one")
    asked.add_argument("--ways", type=int, nargs="*", help=f"by number, by default all: {names}")
    asked.add_argument("--documents", type=int, help="most of the corpus; by default all")
    asked.add_argument("--held-out", type=int, default=300, help="most documents to measure on")
    asked.add_argument("--seed", type=int, default=0)
    options = asked.parse_args()
    if options.model is None or options.data is None:
        asked.error("name the encoder by --model FOLDER and the text by --data FOLDER.")
    options.model = Path(options.model)
    if options.quick:
        options.minutes, options.documents, options.held_out = 0.02, 3000, 5
        options.ways = options.ways or [0, 8]
    return options


def _measure(
    recorder: Recorder, options: Any, name: str, place: Path, corpus: Corpus, source: Path
) -> None:
    """Train one way and record it, unless that was done."""
    done = place.with_suffix(".done.json")
    if done.exists():
        print(f"{name}: {done.read_text().strip()}", flush=True)
        return
    config = _planned(name, options, place.with_suffix(".plan.json"), corpus, source)
    start = time.process_time()
    if not place.exists():
        _train(config, corpus, source, place)
    minutes = (time.process_time() - start) / 60
    teacher = load_teacher(place)
    held_out = replace(corpus, part="held_out", limit=options.held_out)
    measured = bits_per_byte(teacher, (document.text for document in held_out.documents()))
    shape = {
        "way": name,
        "minutes": options.minutes,
        "language": LANGUAGE,
        "held_out": options.held_out,
        "documents": options.documents or "all",
        "steps": config.steps,
        "head_steps": getattr(config, "head_steps", 0),
        "batch": config.batch,
        "length": config.length,
        "parameters": sum(weights.numel() for weights in teacher.model.parameters()),
        "pieces": teacher.vocabulary_size,
        "seed": options.seed,
    }
    recorder.add(
        "bits per byte of held-out text, words that cannot be spelled at 8 bits a byte",
        {name: [measured.charged]},
        unit="bits",
        bar={name: GOAL},
        shape=shape,
    )
    figures = {"bits_per_byte": measured.charged, "processor_minutes": minutes, **shape}
    done.write_text(json.dumps(figures) + "\n")
    print(f"{name}: {json.dumps(figures)}", flush=True)


def _planned(name: str, options: Any, file: Path, corpus: Corpus, source: Path) -> Config:
    """The way with as many steps as fit into the time, by its first steps or by what an earlier run wrote down."""
    config = replace(WAYS[name], seed=options.seed)
    if not file.exists():
        pace = _pace(config, corpus, source)
        seconds = 60 * options.minutes
        head_steps = 0
        if pace.head_step:
            head_steps = max(1, min(100, int(HEAD_SHARE * seconds / pace.head_step)))
        steps = max(1, int((seconds - head_steps * pace.head_step) / pace.step))
        file.write_text(json.dumps({"steps": steps, "head_steps": head_steps, **vars(pace)}) + "\n")
    plan = json.loads(file.read_text())
    if isinstance(config, ContinuedPretraining):
        config = replace(config, head_steps=plan["head_steps"])
    return replace(config, steps=plan["steps"])


def _pace(config: Config, corpus: Corpus, source: Path) -> Pace:
    """By a short training of the same shape, whose batches grow as the long one's do; its first steps do not count."""
    times: dict[str, list[float]] = {"pretraining": [], "pretraining the head": []}

    def watch(_done: int, _total: int, what: str) -> None:
        phase = what.partition(",")[0]
        if phase in times:
            times[phase].append(time.process_time())

    short = replace(config, steps=PROBE_STEPS)
    if isinstance(short, ContinuedPretraining):
        short = replace(short, head_steps=PROBE_HEAD_STEPS)
    with tempfile.TemporaryDirectory() as folder:
        few = replace(corpus, limit=min(2000, corpus.limit or 2000))
        _train(short, few, source, Path(folder) / "probe", watch=watch)
    body, head = times["pretraining"], times["pretraining the head"]
    return Pace(_per_step(body), _per_step(head) if head else 0.0)


def _per_step(times: list[float]) -> float:
    return (times[-1] - times[WARM]) / (len(times) - 1 - WARM)


def _train(
    config: Config,
    corpus: Corpus,
    source: Path,
    out: Path,
    *,
    watch: ProgressCallback = no_progress,
) -> None:
    if isinstance(config, ContinuedPretraining):
        continue_pretraining(source, [corpus], out, config=config, watch=watch)
    else:
        pretrain_teacher([corpus], out, config=config, watch=watch)


if __name__ == "__main__":
    main()
