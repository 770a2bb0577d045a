"""The stream of made-up documents, its stages on a few hundred of them, and what is recorded of them."""

import argparse
import gzip
import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

import teacherzoo_stream
from record import Recorder
from teacherzoo_stream import (
    STAGES,
    WORD,
    WORDS,
    Stream,
    add_records,
    check,
    distinct,
    lines_of,
    refuse_other_sizes,
    run_apart,
    run_here,
)


def test_every_tenth_line_and_no_other_repeats_one_before_it() -> None:
    lines = list(lines_of(0, 5000))

    first = {line: number for number, line in reversed([*enumerate(lines)])}
    assert [n for n, line in enumerate(lines) if first[line] < n] == [*range(9, 5000, 10)]
    assert len(first) == len({tuple(line.split()[-2:]) for line in lines}) == distinct(5000)


def test_lines_are_the_same_however_they_are_cut() -> None:
    whole = list(lines_of(0, 1000))

    assert [line for start in range(0, 1000, 7) for line in lines_of(start, min(start + 7, 1000))] == whole  # fmt: skip
    assert not set(lines_of(0, 1000, language=1)) & set(whole)


def test_words_are_as_frequent_as_zipf_has_them() -> None:
    drawn = Counter(word for line in lines_of(0, 20_000) for word in line.split()[:-2])
    total = drawn.total()

    assert len(set(WORD)) == WORDS
    for rank in (0, 1, 9, 99):
        expected = math.log((rank + 2) / (rank + 1)) / math.log(WORDS + 1) * total
        # A tenth of the lines repeats others, so that counts spread by a little more than a Poisson's.
        assert abs(drawn[WORD[rank]] - expected) < 6 * math.sqrt(expected)


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Stream:
    return Stream(documents=605, languages=2, work=tmp_path_factory.mktemp("stream"))


@pytest.fixture(scope="module")
def figures(stream: Stream) -> dict[str, Any]:
    """Of all stages, run in this process on files of 100 lines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacherzoo_stream, "FILE_LINES", 100)
        patch.setattr(teacherzoo_stream, "TOGETHER", 30)
        return {stage: run_here(stage, stream) for stage in STAGES}


def test_stages_count_what_lies_on_disk(stream: Stream, figures: dict[str, Any]) -> None:
    texts: dict[str, list[str]] = {"l000": [], "l001": []}
    for language, lines in texts.items():
        for file in sorted((stream.work / "text" / language).iterdir()):
            lines += gzip.decompress(file.read_bytes()).decode().splitlines()
    rows = [
        row
        for file in sorted((stream.work / "signals").glob("*.parquet"))
        for row in pq.read_table(file).to_pylist()
    ]

    assert [len(lines) for lines in texts.values()] == [302, 303]
    different = sum(len(set(lines)) for lines in texts.values())
    assert stream.distinct == different == figures["corpora"]["documents"]
    assert figures["generate"]["text_bytes"] == sum(len(line) + 1 for lines in texts.values() for line in lines)  # fmt: skip
    assert figures["read"]["blocks"] == len(rows)
    assert figures["read"]["positions"] == sum(len(row["positions"]) for row in rows)
    check(stream, figures)


@pytest.mark.parametrize(
    ("stage", "key"),
    [
        ("corpora", "documents"),
        ("record", "documents"),
        ("read", "blocks"),
        ("read", "positions"),
        ("read", "digests"),
    ],
)
def test_a_count_that_differs_is_refused(
    stream: Stream, figures: dict[str, Any], stage: str, key: str
) -> None:
    wrong = {**figures, stage: {**figures[stage], key: figures[stage][key] - 1}}

    with pytest.raises(AssertionError):
        check(stream, wrong)


def test_a_stage_that_was_done_is_not_done_again(
    stream: Stream, figures: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a process was started"))

    assert run_apart("record", stream) == figures["record"]


def test_a_work_folder_is_of_one_size(tmp_path: Path) -> None:
    refuse_other_sizes(Stream(documents=100, languages=1, work=tmp_path))
    refuse_other_sizes(Stream(documents=100, languages=1, work=tmp_path))

    with pytest.raises(SystemExit, match="'documents': 200"):
        refuse_other_sizes(Stream(documents=200, languages=1, work=tmp_path))


def test_memory_is_judged_by_the_bar_and_a_resumed_recording_has_no_time(
    stream: Stream, figures: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "records.jsonl"
    large = {"import_bytes": 300_000_000, "seconds": 1.0, "processor_seconds": 1.0}
    changed = {stage: {**known, **large, "peak_bytes": 999_000_000} for stage, known in figures.items()}  # fmt: skip
    changed["record"] |= {"peak_bytes": 1_001_000_000, "resumed": True}
    recorder = Recorder("teacherzoo_stream", argparse.Namespace(out=out, quick=True))

    add_records(recorder, stream, changed)

    records = [json.loads(line) for line in out.read_text().splitlines()]
    peaks = {r["contender"]: r for r in records if r["what"].startswith("peak")}
    assert {name: (r["median"], r["met"]) for name, r in peaks.items()} == {
        **dict.fromkeys(("generate", "corpora", "read"), (999.0, True)),
        "record": (1001.0, False),
    }
    assert peaks["record"]["memory_bytes"] == 701_000_000
    assert {r["contender"] for r in records if r["what"] == "time"} == {"generate", "corpora", "read"}  # fmt: skip
    assert {r["shape"]["repeats"] for r in records} == {605 - stream.distinct}
