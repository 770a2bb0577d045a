"""vocabmerge: what trimming a whole folder costs in processor time and memory, beyond its tokenizer and its model.

Needs `--model FOLDER` (multilingual-e5-small) and `--data FOLDER`. `vocabmerge.trim` runs in a process of its own, on 20,000 lines of
each language at 99.9 % coverage; a second process imports the same modules and does nothing, a third makes the calls to the
tokenizers library that no trim can do without: open the vocabulary, segment every line once, open the new one, segment the
lines that lost a piece. Beyond imports and those calls all is counted as ours: reading the text (a plain file), the choice, reading and
writing weights and tokenizer, the map of ids, the report. The vocabulary alone (a folder without weights, 100 lines) is
opened, cut, written and read back as well. Peak memory is the process's high-water mark of resident memory.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from record import Recorder, parser
from tokenizers import Tokenizer
from trimmed_encoders import LANGUAGE_SETS, read_options, texts_to_choose_by

from vocabmerge import read_corpus, trim

LINES, COVERAGE, TOP, REPEATS = 20_000, 0.999, 32_768, 3
SECONDS = {"all of it": 60.0, "ours": 5.0}
SECONDS_ALONE = 3.0  # of our own, for a vocabulary of 250,000 pieces
MEMORY = 1.3  # of the bytes of the weights

BEGIN = """
import importlib, json, re, sys, time
from pathlib import Path
task = json.loads(sys.argv[1])
answer = {}
"""
TRIM = """
from vocabmerge import trim
trim(task["model"], task["texts"], task["out"], lines=task["lines"], coverage=task["coverage"])
answer["modules"] = list(sys.modules)
"""
IMPORTS = """
for name in task["modules"]:
    try:
        importlib.import_module(name)
    except Exception:
        answer.setdefault("absent", []).append(name)
"""
TOKENIZER = """
from tokenizers import Tokenizer
from vocabmerge.language_texts import language_texts
spent = 0.0
def timed(call, *arguments, **options):
    global spent
    start = time.process_time()
    made = call(*arguments, **options)
    spent += time.process_time() - start
    return made
old = timed(Tokenizer.from_file, task["model"] + "/tokenizer.json")
new = timed(Tokenizer.from_file, task["out"] + "/tokenizer.json")
kept = {number for piece, number in old.get_vocab().items() if new.token_to_id(piece) is not None}
for text in language_texts(task["texts"], lines=task["lines"]).values():
    lines = list(text)
    for start in range(0, len(lines), 2000):
        batch = lines[start : start + 2000]
        rows = timed(old.encode_batch_fast, batch, add_special_tokens=False)
        lost = [line for line, row in zip(batch, rows) if not kept.issuperset(row.ids)]
        timed(new.encode_batch_fast, lost, add_special_tokens=False)
answer["spent"] = spent
"""
END = """
answer["seconds"] = time.process_time()
answer["peak"] = 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
print(json.dumps(answer))
"""


def main() -> None:
    options = read_options(parser(__doc__.splitlines()[0]))
    recorder = Recorder("vocabmerge_folder", options)
    lines = 200 if options.quick else LINES
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        texts = texts_to_choose_by(
            options.data, dict.fromkeys(sum(LANGUAGE_SETS, ())), lines, folder / "texts", ()
        )
        for languages in LANGUAGE_SETS:
            task = {
                "model": str(options.model),
                "texts": {language: [str(texts[language][0])] for language in languages},
                "out": str(folder / "-".join(languages)),
                "lines": lines,
                "coverage": COVERAGE,
            }
            record_folder(recorder, task)
        repeats = 1 if options.quick else REPEATS
        record_vocabulary(recorder, options.model, texts["en"][0], folder, repeats)
    recorder.close()


def record_folder(recorder: Recorder, task: dict[str, Any], run: Callable[..., Any] | None = None) -> None:  # fmt: skip
    """Processor time and peak memory of trimming one folder."""
    run = run or in_process
    whole = run(TRIM, task)
    imports = run(IMPORTS, {"modules": whole["modules"]})
    tokenizer = run(TOKENIZER, task)["spent"]
    shape = {
        "model": Path(task["model"]).name,
        "languages": " ".join(task["texts"]),
        "lines": task["lines"],
        "coverage": task["coverage"],
    }
    beyond = whole["seconds"] - imports["seconds"] - tokenizer
    recorder.add(
        "processor time of trimming a folder",
        {
            "all of it": [whole["seconds"]],
            "imports": [imports["seconds"]],
            "tokenizers": [tokenizer],
            "ours": [beyond],
        },
        unit="s",
        bar=SECONDS,
        shape=shape,
    )
    weights = sum(file.stat().st_size for file in Path(task["model"]).glob("*.safetensors"))
    mib = {"all of it": whole["peak"], "imports": imports["peak"], "weights": weights}
    recorder.add(
        "peak memory of trimming a folder",
        {name: [size / 2**20] for name, size in mib.items()},
        unit="MiB",
        shape=shape,
    )
    recorder.add(
        "peak memory beyond imports, of the bytes of the weights",
        {"trim": [(whole["peak"] - imports["peak"]) / weights]},
        unit="x",
        bar={"trim": MEMORY},
        shape=shape,
    )


def in_process(program: str, task: Mapping[str, Any]) -> Any:
    """What a program says of itself that is run with a task in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + program + END, json.dumps(task)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def record_vocabulary(
    recorder: Recorder, model: Path, text: Path, scratch: Path, repeats: int
) -> None:
    """Processor time of opening, cutting, writing and reading back a vocabulary without weights."""
    folder = scratch / "vocabulary"
    folder.mkdir()
    few = scratch / "few.txt"
    few.write_text("\n".join(islice(read_corpus(text), 100)), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model / name, folder)
    top = min(TOP, Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size() // 2)
    samples: dict[str, list[float]] = {"all of it": [], "tokenizers": [], "ours": []}
    for turn in range(repeats + 1):
        out = scratch / f"vocabulary-{turn}"
        whole = seconds(lambda out=out: trim(folder, {"en": [few]}, out, top=top))
        library = seconds(lambda out=out: open_both(folder, out))
        if turn or repeats == 1:  # the first of several warms up
            for name, value in (("all of it", whole), ("tokenizers", library), ("ours", whole - library)):  # fmt: skip
                samples[name].append(value)
    recorder.add(
        "processor time of opening, cutting, writing and reading back a vocabulary",
        samples,
        unit="s",
        bar={"ours": SECONDS_ALONE},
        shape={"model": model.name, "top": top, "lines": 100},
    )


def open_both(before: Path, after: Path) -> Sequence[Tokenizer]:
    """The library's own opening of the old vocabulary and the new."""
    return [Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (before, after)]


def seconds(call: Callable[[], object]) -> float:
    """Processor time of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


if __name__ == "__main__":
    main()
