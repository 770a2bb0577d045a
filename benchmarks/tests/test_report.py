"""The report shows what the records hold, and nothing that they do not."""

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

import formatting
import latest
import report


def _record(contender: str, median: float, **other: Any) -> dict[str, Any]:
    floor = other.get("floor")
    ratio = {"median": median, "low": median, "high": median, "repeats": 3} if floor else None
    return {
        "question": "op_cost", "what": "cost", "contender": contender, "unit": "s", "median": median, "low": median,
        "high": median, "repeats": 3, "floor": floor, "ratio": ratio, "bar": None, "at_least": False, "met": None,
        "memory_bytes": None, "shape": {"N": 1}, "quick": False, "machine": "m", "threads": 2,
        "versions": {"torch": "2"}, "commit": "aaa", "date": "2026-01-01",
    } | other  # fmt: skip


def _write(file: Path, *records: dict[str, Any]) -> Path:
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


def test_the_newest_run_counts_and_the_older_ones_are_its_history(tmp_path: Path) -> None:
    new = _write(tmp_path / "a.jsonl", _record("ours", 1.5, date="2026-02-01", commit="bbb"))
    old = _write(tmp_path / "b.jsonl", _record("ours", 3.0), _record("ours", 2.0))

    runs = latest.read([new, old])
    (run,) = latest.newest(runs)

    assert run.records[0]["median"] == 1.5
    assert [each.figure for each in latest.past(runs, run, "ours")] == [3.0, 2.0, 1.5]


def test_another_machine_or_size_is_no_history(tmp_path: Path) -> None:
    file = _write(
        tmp_path / "a.jsonl",
        _record("ours", 9.0, machine="other"),
        _record("ours", 8.0, quick=True),
        _record("ours", 7.0, shape={"N": 2}),
        _record("ours", 1.0),
    )

    runs = latest.read([file])

    assert [each.figure for each in latest.past(runs, runs[-1], "ours")] == [1.0]


def test_contenders_of_two_runs_never_share_a_comparison(tmp_path: Path) -> None:
    file = _write(
        tmp_path / "a.jsonl", _record("ours", 1.0), _record("peer", 9.0), _record("ours", 2.0)
    )

    (run,) = latest.newest(latest.read([file]))

    assert [record["contender"] for record in run.records] == ["ours"]


def test_goals_of_quick_runs_are_shown_but_not_counted(tmp_path: Path) -> None:
    file = _write(
        tmp_path / "a.jsonl",
        _record("ours", 1.0, bar=2.0, met=True),
        _record("ours", 3.0, bar=2.0, met=False, quick=True),
    )

    summary = report.markdown(latest.read([file]))

    assert "1 of 1 goals of the full runs are met." in summary
    assert "## Quick sizes" in summary
    assert "**missed**" in summary.partition("## Quick sizes")[2]


def test_missed_goals_come_first_on_the_page_and_in_the_summary(tmp_path: Path) -> None:
    file = _write(
        tmp_path / "a.jsonl",
        _record("good", 1.0, bar=2.0, met=True),
        _record("bad", 3.0, bar=2.0, met=False),
    )
    runs = latest.read([file])

    assert report.markdown(runs).index("bad") < report.markdown(runs).index("good")
    assert "<section id=missed>" in report.page(runs)


class _Tags(HTMLParser):
    void = frozenset({"meta", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.links += [str(value) for name, value in attributes if name in ("src", "href")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_loads_nothing_and_trusts_no_name(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    file = _write(
        tmp_path / "a.jsonl",
        _record(evil, 1.0, floor="a < b", bar=1.1, met=True, memory_bytes=2**20),
        _record("a < b", 1.0, floor="a < b"),
        _record(evil, 0.0, unit="", what=evil),
    )
    page = report.page(latest.read([file]))
    tags = _Tags()
    tags.feed(page)

    assert tags.open == []
    assert all(link.startswith(("#", "data:")) for link in tags.links)
    assert "<script" not in page
    assert not re.search(r"https?://", page)


def test_a_line_that_is_no_record_is_named(tmp_path: Path) -> None:
    file = _write(tmp_path / "a.jsonl", _record("ours", 1.0))
    file.write_text(file.read_text() + "{}\n")

    with pytest.raises(ValueError, match=r"a\.jsonl, line 2 is no record"):
        latest.read([file])


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (0.0, "s", "0 µs"), (0.00012, "s", "120 µs"), (0.13, "s", "130 ms"), (2.5, "s", "2.5 s"),
        (11174805504.0, "FLOP", "11.2 G FLOP"), (66554112, "", "66.6 M"), (1.5, "x", "1.5 ×"), (3.5e-5, "", "3.5e-05"),
        (5_120.0, "tokens/s", "5120 tokens/s"), (999.7e6, "", "1 G"),
    ],
)  # fmt: skip
def test_quantities_are_written_with_three_digits(value: float, unit: str, expected: str) -> None:
    assert formatting.quantity(value, unit) == expected


def test_what_is_committed_can_be_read() -> None:
    files = sorted((Path(__file__).parent.parent / "results").glob("*.jsonl"))

    runs = latest.read(files)

    assert runs
    assert report.page(runs).endswith("</html>\n")
