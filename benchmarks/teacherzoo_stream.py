"""teacherzoo: does memory stay bounded when a stream of short documents goes through corpora, a recording and a reader?

Made-up documents whose words follow Zipf's law, a tenth of them repeats, are written to disk; a teacher of one layer is made
of the first of them; the corpora are read as any reader does (repeats dropped), the teacher's k likeliest ids are recorded,
and all signals are read back in a shuffled stream, as a student's training reads them. Each stage is a process of its own. Peak
memory is that process's high-water mark of resident memory, with all that it imports; the bar is 1 GB, 10^9 bytes.

Counted and compared: distinct documents with what the generator knows, documents, blocks and positions read with those recorded.
What is done lies in `--work`: the same command goes on where a killed one stopped. A recording that went on has no times.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from record import Recorder, parser, status_bytes

os.environ.setdefault("HF_HUB_OFFLINE", "1")

DOCUMENTS, QUICK_DOCUMENTS = 10_000_000, 4_000
BAR = 1000.0  # MB of 10^6 bytes
WORDS, FEWEST, MOST = (
    20_000,
    3,
    8,
)  # words there are, and in a document before the two that number it
REPEATED_EVERY = 10
FILE_LINES, TOGETHER = 500_000, 10_000  # lines of a file, and made at once
TEACHER_DOCUMENTS, K, BATCH = 2_000, 8, 64
SYLLABLES = [consonant + vowel for consonant in "bcdfghjklmnpqrstvwxz" for vowel in "aeiou"]

Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Lines of made-up documents in several languages, of equal number (the last has the rest), in a folder each."""

    documents: int
    languages: int
    work: Path

    def lines_of(self, language: int) -> int:
        share = self.documents // self.languages
        return share if language < self.languages - 1 else self.documents - share * language

    def folder(self, language: int) -> Path:
        return self.work / "text" / f"l{language:03d}"

    @property
    def distinct(self) -> int:
        """Documents that are no repeat, of all languages."""
        return sum(distinct(self.lines_of(language)) for language in range(self.languages))


def distinct(lines: int) -> int:
    """Of the first `lines` lines of a language, how many are no repeat."""
    return lines - lines // REPEATED_EVERY


def lines_of(start: int, stop: int, *, language: int = 0) -> Iterator[str]:
    """Lines `start` to `stop` of a language, whatever was made before.

    The document of number n has 3 to 8 words, word r (from 0) with a probability of log((r + 2) / (r + 1)) / log(WORDS + 1), nearly
    1 / (r + 1) as in Zipf's law, and behind them the two words n // WORDS and n % WORDS, so that no two documents are alike.
    Every tenth line repeats one of the documents before it.
    """
    line = np.arange(start, stop)
    numbers = line - line // REPEATED_EVERY
    repeats = line % REPEATED_EVERY == REPEATED_EVERY - 1
    numbers[repeats] = (_uniform(line[repeats], 1, language)[:, 0] * numbers[repeats]).astype(int)
    drawn = _uniform(numbers, MOST + 1, language + 1000)
    lengths = FEWEST + (drawn[:, MOST] * (MOST + 1 - FEWEST)).astype(int)
    ranks = ((WORDS + 1) ** drawn[:, :MOST]).astype(int) - 1
    for number, length, row in zip(numbers.tolist(), lengths.tolist(), ranks.tolist(), strict=True):
        chosen = [*row[:length], *divmod(number, WORDS)]
        yield " ".join([WORD[rank] for rank in chosen])


def _uniform(numbers: NDArray[np.int64], width: int, stream: int) -> NDArray[np.float64]:
    """[N, width] numbers in [0, 1) that follow from each number and the stream alone."""
    from teacherzoo.text.masking import hashed, unit

    keys = hashed(hashed(np.array([0], dtype=np.uint64), np.array([stream])), numbers)
    return unit(hashed(keys[:, None], np.arange(width)))


def _word(rank: int) -> str:
    digits = [rank % 100]
    while rank := rank // 100:
        digits.append(rank % 100)
    return "".join(SYLLABLES[digit] for digit in digits)


WORD = [_word(rank) for rank in range(WORDS)]


def generate(stream: Stream) -> Figures:
    """Write the lines, some thousands at a time, to gzipped files of at most `FILE_LINES` each."""
    size = written = 0
    for language in range(stream.languages):
        folder = stream.folder(language)
        folder.mkdir(parents=True, exist_ok=True)
        total = stream.lines_of(language)
        for number, first in enumerate(range(0, total, FILE_LINES)):
            file = folder / f"{number:05d}.txt.gz"
            last = min(first + FILE_LINES, total)
            with gzip.open(file, "wt", compresslevel=1, encoding="utf-8") as out:
                for start in range(first, last, TOGETHER):
                    lines = lines_of(start, min(start + TOGETHER, last), language=language)
                    text = "\n".join(lines) + "\n"
                    size += len(text)  # of ASCII letters
                    out.write(text)
            written += file.stat().st_size
    return {"text_bytes": size, "disk_bytes": written}


def teach(stream: Stream) -> Figures:
    """A teacher of one layer, pretrained for some steps on the first documents of the first language."""
    from teacherzoo import PretrainingConfig, pretrain_teacher

    corpus = _corpora(stream, limit=TEACHER_DOCUMENTS)[0]
    config = PretrainingConfig(vocabulary=1000, layers=1, width=32, steps=20, batch=16, length=32)
    teacher = pretrain_teacher([corpus], stream.work / "teacher", config=config)
    return {"parameters": teacher.parameters}


def read_corpora(stream: Stream) -> Figures:
    """Read the documents of every language as any reader of corpora does, and let each go."""
    count = digests = 0
    for corpus in _corpora(stream):
        for document in corpus.documents():
            count += 1
            digests += int.from_bytes(document.digest, "big")
    return {"documents": count, "digests": digests}


def record_signals(stream: Stream) -> Figures:
    """The teacher's likeliest ids at masked positions, by the public function, as the command calls it."""
    from teacherzoo import record

    folder = stream.work / "signals"
    resumed = folder.exists()
    manifest = record(stream.work / "teacher", _corpora(stream), folder, k=K)
    return {
        "resumed": resumed,
        "documents": sum(corpus.documents for corpus in manifest.corpora.values()),
        "blocks": sum(shard.rows for shard in manifest.shards),
        "positions": sum(shard.positions for shard in manifest.shards),
        "shards": len(manifest.shards),
        "disk_bytes": sum(file.stat().st_size for file in folder.iterdir()),
    }


def read_signals(stream: Stream) -> Figures:
    """All signals in shuffled batches, as a student's training reads them, one pass."""
    from teacherzoo import Signals

    blocks = positions = digests = 0
    for batch in Signals(stream.work / "signals").stream(batch_size=BATCH, seed=0):
        assert batch.topk_ids.shape == (len(batch.labels), K)
        blocks += len(batch.documents)
        positions += len(batch.labels)
        first = zip(batch.documents, batch.parts.tolist(), strict=True)
        digests += sum(int.from_bytes(document, "big") for document, part in first if part == 0)
    return {"blocks": blocks, "positions": positions, "digests": digests}


def _corpora(stream: Stream, *, limit: int | None = None) -> list[Any]:
    from teacherzoo import Corpus

    return [
        Corpus(stream.folder(language).name, stream.folder(language), limit=limit)
        for language in range(stream.languages)
    ]


STAGES: dict[str, Callable[[Stream], Figures]] = {
    "generate": generate,
    "teach": teach,
    "corpora": read_corpora,
    "record": record_signals,
    "read": read_signals,
}
READING = ("teacherzoo.text.corpora",)
ASKING = (
    *("teacherzoo.signals.record", "teacherzoo.pretrain.pretrain"),
    "transformers.models.modernbert.modeling_modernbert",
)
IMPORTS = {
    "generate": ("teacherzoo.text.masking",),
    "teach": (*READING, *ASKING),
    "corpora": READING,
    "record": (*READING, *ASKING),
    "read": ("teacherzoo.signals.read",),
}
MEASURED = ("generate", "corpora", "record", "read")


def run_here(stage: str, stream: Stream) -> Figures:
    """One stage in this process, with its times and memory; also kept in the file `STAGE.json` of the work folder."""
    for module in IMPORTS[stage]:
        importlib.import_module(module)
    imports = status_bytes("VmRSS")
    start, busy = time.perf_counter(), time.process_time()
    figures = STAGES[stage](stream)
    figures |= {
        "seconds": time.perf_counter() - start,
        "processor_seconds": time.process_time() - busy,
        "peak_bytes": status_bytes("VmHWM"),
        "import_bytes": imports,
    }
    (stream.work / f"{stage}.json").write_text(json.dumps(figures) + "\n")
    return figures


def run_apart(stage: str, stream: Stream) -> Figures:
    """One stage in a process of its own, unless that was done."""
    done = stream.work / f"{stage}.json"
    if not done.exists():
        options = ["--documents", str(stream.documents), "--languages", str(stream.languages)]
        options += ["--work", str(stream.work), "--stage", stage]
        subprocess.run([sys.executable, __file__, *options], check=True)
    figures: Figures = json.loads(done.read_text())
    print(f"{stage}: {figures}", flush=True)
    return figures


def check(stream: Stream, figures: dict[str, Figures]) -> None:
    """What one stage has counted is what the others have, and what the generator knows."""
    corpora, recorded, read = (figures[stage] for stage in ("corpora", "record", "read"))
    assert corpora["documents"] == stream.distinct, (corpora["documents"], stream.distinct)
    assert recorded["documents"] == stream.distinct, (recorded["documents"], stream.distinct)
    for count in ("blocks", "positions"):
        assert read[count] == recorded[count], (count, read[count], recorded[count])
    assert read["digests"] == corpora["digests"], "other documents were read than recorded"


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        stream = Stream(documents=options.documents, languages=options.languages, work=work)
        if options.stage:
            run_here(options.stage, stream)
            return
        refuse_other_sizes(stream)
        recorder = Recorder("teacherzoo_stream", options)
        figures = {stage: run_apart(stage, stream) for stage in STAGES}
        check(stream, figures)
        add_records(recorder, stream, figures)
        recorder.close()


def _options() -> argparse.Namespace:
    asked = parser(__doc__.splitlines()[0])
    asked.add_argument("--documents", type=int, help=f"lines; by default {DOCUMENTS:,}")
    asked.add_argument("--languages", type=int, default=1, help="that share them")
    asked.add_argument("--work", type=Path, help="a folder to go on in; by default a temporary one")
    asked.add_argument("--stage", choices=list(STAGES), help=argparse.SUPPRESS)
    options = asked.parse_args()
    options.documents = options.documents or (QUICK_DOCUMENTS if options.quick else DOCUMENTS)
    return options


def refuse_other_sizes(stream: Stream) -> None:
    """A work folder is of one size."""
    file = stream.work / "stream.json"
    sizes = {"documents": stream.documents, "languages": stream.languages}
    if file.exists() and json.loads(file.read_text()) != sizes:
        sys.exit(f"{file} says {file.read_text().strip()}, and now {sizes} is asked for; name another --work.")  # fmt: skip
    file.write_text(json.dumps(sizes) + "\n")


def add_records(recorder: Recorder, stream: Stream, figures: dict[str, Figures]) -> None:
    """Memory with its bar, times, bytes on disk."""
    shape = {
        "documents": stream.documents,
        "languages": stream.languages,
        "repeats": stream.documents - figures["corpora"]["documents"],
        "blocks": figures["record"]["blocks"],
        "positions": figures["record"]["positions"],
        "shards": figures["record"]["shards"],
        "parameters": figures["teach"]["parameters"],
        "k": K,
    }
    add = partial(recorder.add, shape=shape, along="documents")
    peaks = {stage: figures[stage]["peak_bytes"] for stage in MEASURED}
    beyond = {stage: peaks[stage] - figures[stage]["import_bytes"] for stage in MEASURED}
    add(
        "peak resident memory of each stage's process",
        {stage: [peak / 1e6] for stage, peak in peaks.items()},
        unit="MB",
        bar=dict.fromkeys(MEASURED, BAR),
        memory=beyond,
    )
    add(
        "the same beyond what imports hold",
        {stage: [peak / 1e6] for stage, peak in beyond.items()},
        unit="MB",
    )
    timed = [stage for stage in MEASURED if not figures[stage].get("resumed")]
    for what, key in (("time", "seconds"), ("processor time", "processor_seconds")):
        add(what, {stage: [figures[stage][key]] for stage in timed}, unit="s")
    sizes = {
        "text": figures["generate"]["text_bytes"],
        "text, compressed": figures["generate"]["disk_bytes"],
        "signals": figures["record"]["disk_bytes"],
    }
    add("on disk", {name: [size / 1e6] for name, size in sizes.items()}, unit="MB")


if __name__ == "__main__":
    main()
