"""Results are appended once, never half, and read only when they are what they say."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xeval.errors import XevalError
from xeval.statistics import records
from xeval.statistics.comparable import check_one_protocol
from xeval.statistics.compare import compare
from xeval.statistics.items import Items, bootstrap_rows, test_set_digest
from xeval.statistics.result import Result, digest_of
from xeval.statistics.results_file import append_result, append_results, read_results
from xeval.statistics.summary import summarise

ITEMS = Items(metric="accuracy", rows=np.array([[3, 4], [4, 4]]), test_digest="t" * 16)


def result(**changes: Any) -> Result:
    fields: dict[str, Any] = {
        "model": "small",
        "model_digest": "ab12",
        "task": "pos",
        "dataset": "ud/de_gsd",
        "split": "test",
        "language": "de",
        "source_language": "en",
        "protocol": {"epochs": 3, "rates": [1e-5, 2e-5]},
        "seed": 1,
        "metric": "accuracy",
        "value": 87.5,
        "n": 2,
    }
    return Result(**{**fields, **changes})


def test_a_result_comes_back_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    written = result(cost={"parameters": 7, "device": "cpu"})

    append_result(file, written)

    assert read_results(file) == [written]


def test_a_second_append_of_one_key_writes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    assert append_result(file, result())
    before = file.read_bytes()

    assert not append_result(file, result(value=12.0))

    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        {"model": "large"},
        {"model_digest": "cd34"},
        {"task": "ner"},
        {"dataset": "ud/de_pud"},
        {"split": "dev"},
        {"language": "fr"},
        {"source_language": "de"},
        {"protocol": {"epochs": 4}},
        {"seed": 2},
        {"bootstrap": 0},
        {"metric": "f1"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_record_that_differs_in_one_part_of_the_key_is_another(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    file = tmp_path / "results.jsonl"

    assert append_results(file, [(result(), None), (result(**change), None)]) == 2


def test_a_figure_replaces_the_reason_why_there_was_none(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    nothing = result(value=None, n=0, skipped="no test split")
    append_result(file, nothing)
    assert not append_result(file, nothing)

    assert append_result(file, result())

    assert read_results(file) == [result()]


def test_items_come_back_with_the_record_and_give_its_value(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "results.jsonl"
    append_result(file, result(), items=ITEMS)

    (read,) = read_results(file)
    items = read.load_items()

    assert items.value() == read.value
    assert items.rows.tolist() == ITEMS.rows.tolist()
    assert read.test_digest == ITEMS.test_digest


def test_equal_items_share_one_side_file_with_equal_bytes(tmp_path: Path) -> None:
    append_result(tmp_path / "a" / "r.jsonl", result(), items=ITEMS)
    append_results(tmp_path / "b" / "r.jsonl", [(result(), ITEMS), (result(model="other"), ITEMS)])

    (a,) = (tmp_path / "a" / "items").iterdir()
    (b,) = (tmp_path / "b" / "items").iterdir()
    assert a.name == b.name
    assert a.read_bytes() == b.read_bytes()


def test_a_value_that_its_items_do_not_give_is_refused(tmp_path: Path) -> None:
    with pytest.raises(XevalError, match=r"value is 80\.0 but the item statistics give 87\.5"):
        append_result(tmp_path / "r.jsonl", result(value=80.0), items=ITEMS)


def test_bootstrap_records_are_checked_against_their_own_draw(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).integers(0, 2, size=(50, 1))
    items = Items(
        metric="accuracy", rows=np.hstack([rows, np.ones_like(rows)]), test_digest="t" * 16
    )
    draw = result(bootstrap=3, value=items.bootstrap_value(3), n=50)

    assert append_result(tmp_path / "r.jsonl", draw, items=items)
    with pytest.raises(XevalError, match="item statistics give"):
        append_result(tmp_path / "r.jsonl", dataclasses.replace(draw, bootstrap=4), items=items)


def test_an_unfinished_last_line_is_ignored_in_reading_and_cut_in_writing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "r.jsonl"
    append_result(file, result())
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"schema": 1, "model": "sm')

    assert read_results(file) == [result()]
    assert "r.jsonl:2" in caplog.text
    append_result(file, result(seed=2))

    assert file.read_bytes().startswith(whole + b'{"schema"')
    assert [r.seed for r in read_results(file)] == [1, 2]


@given(cut=st.integers(min_value=0, max_value=2000))
@settings(max_examples=25, deadline=None)
def test_whatever_is_cut_off_appending_again_restores_the_file(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    file = tmp_path_factory.mktemp("cut") / "r.jsonl"
    records = [(result(seed=seed), None) for seed in range(3)]
    append_results(file, records)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) - cut % (len(whole) + 1)])

    append_results(file, records)

    assert file.read_bytes() == whole


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the lines that are read from now on."""
    read, real = [], records._record

    def record(line: bytes, path: Path, number: int) -> Result:
        read.append(number)
        return real(line, path, number)

    monkeypatch.setattr(records, "_record", record)
    return read


def test_each_line_is_read_once_however_often_is_appended_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, read = tmp_path / "r.jsonl", _counted(monkeypatch)
    for seed in range(5):
        assert append_result(file, result(seed=seed))
        assert [r.seed for r in read_results(file)] == list(range(seed + 1))
        assert not append_result(file, result(seed=0))
    assert read == [1, 2, 3, 4, 5]

    other = tmp_path / "other.jsonl"
    append_results(other, [(result(seed=seed), None) for seed in (5, 6)])
    read.clear()
    with file.open("ab") as beside:  # as another process appends
        beside.write(other.read_bytes())

    assert not append_result(file, result(seed=6))
    assert append_result(file, result(seed=7))
    assert [r.seed for r in read_results(file)] == list(range(8))
    assert sorted(read)[-3:] == [6, 7, 8]


@pytest.mark.parametrize("change", ["replaced", "edited", "shortened", "shortened and added to"])
def test_a_file_that_was_changed_otherwise_is_read_anew(change: str, tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    append_results(file, [(result(seed=seed), None) for seed in range(3)])
    lines = file.read_bytes().splitlines(keepends=True)
    if change == "replaced":
        (tmp_path / "new").write_bytes(b"".join(lines[1:]) + lines[0].replace(b'"seed": 0', b'"seed": 5'))  # fmt: skip
        (tmp_path / "new").replace(file)
    elif change == "edited":
        status = file.stat()
        file.write_bytes(b"".join(lines).replace(b'"seed": 0', b'"seed": 5'))
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    else:
        more = [lines[0].replace(b'"seed": 0', b'"seed": %d' % seed) for seed in (10, 11, 12)]
        file.write_bytes(b"".join(lines[1:] + (more if change.endswith("to") else [])))

    assert {r.seed for r in read_results(file)} == {
        "replaced": {5, 1, 2}, "edited": {5, 1, 2}, "shortened": {1, 2}, "shortened and added to": {1, 2, 10, 11, 12}
    }[change]  # fmt: skip
    assert append_result(file, result(seed=0))
    assert not append_result(file, result(seed=1))


WRITER = """
import sys, time
from pathlib import Path
from xeval.statistics.result import Result
from xeval.statistics.results_file import append_result
while not Path(sys.argv[4]).exists():
    time.sleep(0.001)
file, start, stop = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for seed in range(start, stop):
    append_result(file, Result(
        model="small", model_digest="ab12", task="pos", dataset="ud/de_gsd", split="test", language="de",
        source_language="en", protocol={"note": "x" * 4000}, seed=seed, metric="accuracy", value=87.5, n=2,
    ))
"""


def _writer(file: Path, start: int, stop: int, *, after: Path) -> subprocess.Popen[bytes]:
    """A process that appends a record per seed, as soon as the file `after` exists."""
    arguments = [str(file), str(start), str(stop), str(after)]
    return subprocess.Popen([sys.executable, "-c", WRITER, *arguments])


def test_a_killed_writer_leaves_whole_records_only(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    writer = _writer(file, 0, 10**6, after=tmp_path)
    while not file.exists() or file.stat().st_size < 40_000:
        assert writer.poll() is None
        time.sleep(0.005)
    writer.send_signal(signal.SIGKILL)
    writer.wait()

    seeds = [r.seed for r in read_results(file)]
    append_result(file, result(seed=-1))

    assert seeds == list(range(len(seeds)))
    assert [r.seed for r in read_results(file)] == [*seeds, -1]


def test_rival_writers_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    file, go = tmp_path / "r.jsonl", tmp_path / "go"
    writers = [_writer(file, 0, 120, after=go) for _ in range(2)]
    time.sleep(1.0)
    go.touch()
    for writer in writers:
        assert writer.wait() == 0

    seeds = [json.loads(line)["seed"] for line in file.read_text().splitlines()]
    assert sorted(seeds) == list(range(120))


def test_another_version_is_refused_by_its_number(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    append_result(file, result())
    file.write_text(file.read_text().replace('"schema": 1', '"schema": 7'))

    for act in (lambda: read_results(file), lambda: append_result(file, result(seed=2))):
        with pytest.raises(
            XevalError, match=r"r\.jsonl:1: expected a result of schema 1, got schema 7"
        ):
            act()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not json\n", r"r\.jsonl:2: not a line of JSON"),
        ("[1]\n", r"r\.jsonl:2: expected a result of schema 1, got schema None"),
        (
            '{"schema": 1, "model": "x"}\n',
            r"r\.jsonl:2: not a result of schema 1: it lacks dataset, language, .*; score again",
        ),
        (
            '{"schema": 1, "model": "x", "parameters": 5}\n',
            r"r\.jsonl:2: a cost of a model and no result; give this file as --costs",
        ),
    ],
)
def test_a_line_that_is_no_result_is_named(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "r.jsonl"
    append_result(file, result())
    first = file.read_text()
    file.write_text(first + line + first)

    with pytest.raises(XevalError, match=message):
        read_results(file)


def test_an_edited_protocol_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    append_result(file, result())
    file.write_text(file.read_text().replace('"epochs": 3', '"epochs": 30'))

    with pytest.raises(XevalError, match="the record was edited"):
        read_results(file)


def test_two_values_of_one_key_are_refused(tmp_path: Path) -> None:
    append_result(tmp_path / "a.jsonl", result())
    append_result(tmp_path / "b.jsonl", result(value=50.0))

    with pytest.raises(XevalError, match=r"has the value 50\.0 here and 87\.5 in"):
        read_results(tmp_path / "a.jsonl", tmp_path / "b.jsonl")


def test_two_protocols_of_one_task_are_refused_and_the_setting_named() -> None:
    results = [result(), result(model="other", protocol={"epochs": 5, "rates": [1e-5, 2e-5]})]

    with pytest.raises(XevalError, match=r"of 'small' and 'other' \(epochs: 3 and 5\)"):
        check_one_protocol(results)
    check_one_protocol([results[0], dataclasses.replace(results[1], task="ner")])


def test_two_models_may_have_their_own_prompts_but_one_model_may_not() -> None:
    prompted = result(protocol={"epochs": 3, "text_prompt": "query: "})
    check_one_protocol([result(protocol={"epochs": 3}), dataclasses.replace(prompted, model="e5")])

    with pytest.raises(
        XevalError, match=r"'small' and 'small' \(text_prompt: None and 'query: '\)"
    ):
        check_one_protocol([result(protocol={"epochs": 3}), prompted])


def test_two_source_languages_of_one_task_are_refused() -> None:
    with pytest.raises(
        XevalError, match="two source languages, 'en' of 'small' and 'fr' of 'small'"
    ):
        check_one_protocol([result(), result(source_language="fr")])


def test_untuned_tasks_have_each_language_for_its_own_source() -> None:
    check_one_protocol([result(source_language="de"), result(language="fr", source_language="fr")])


def test_models_that_learned_from_different_data_are_refused_by_both_who_compare() -> None:
    learned = [result(train_digest="one"), result(model="other", train_digest="two")]
    said = (
        "pos, tuned on en: 'small' and 'other' learned from different training data (one and two)"
    )

    for judge in (summarise, lambda results: compare(results, "small", "other")):
        with pytest.raises(XevalError, match=re.escape(said)):
            judge(learned)
    # Each language tuned on itself, or a state that is not told.
    summarise([learned[0], result(language="fr", source_language="fr", train_digest="two")])
    summarise([learned[0], result(model="other")])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": float("nan")}, "must lie between 0 and 100, got nan"),
        ({"value": 100.5}, "must lie between 0 and 100, got 100.5"),
        ({"metric": "accuracy@1"}, "metric 'accuracy@1' is not known"),
        ({"n": 0}, "at least one item"),
        ({"value": None}, "needs the reason"),
        ({"skipped": "no test split"}, "not both"),
        ({"cost": {"params": 3}}, "unknown cost column 'params'"),
    ],
)
def test_a_record_that_would_mislead_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(XevalError, match=message):
        result(**changes)


def test_items_that_are_missing_or_of_other_test_sets_are_named(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    append_result(file, result(), items=ITEMS)
    (read,) = read_results(file)
    with pytest.raises(XevalError, match=r"of test set 't+', but the record says"):
        dataclasses.replace(read, test_digest="u" * 16).load_items()
    (side,) = (tmp_path / "items").iterdir()
    side.write_bytes(side.read_bytes()[:-3])
    with pytest.raises(XevalError, match="not a file of item statistics"):
        read.load_items()
    side.unlink()
    with pytest.raises(XevalError, match="are not there"):
        read.load_items()


def test_empty_predictions_have_no_score() -> None:
    with pytest.raises(XevalError, match="an empty test set has no score"):
        Items(metric="accuracy", rows=np.zeros((0, 2)), test_digest="t")


def test_the_protocol_digest_ignores_order_and_nothing_else() -> None:
    assert digest_of({"a": 1, "b": (2, 3)}) == digest_of({"b": [2, 3], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})


def test_the_test_set_digest_sees_order_text_and_borders() -> None:
    texts = [["ab", "c"], ["a", "bc"], ["c", "ab"], ["abc"], ["ab", "c", ""]]

    assert len({test_set_digest(items) for items in texts}) == len(texts)


def test_a_bootstrap_draw_depends_on_size_and_number_alone() -> None:
    assert bootstrap_rows(100, 4).tolist() == bootstrap_rows(100, 4).tolist()
    assert bootstrap_rows(100, 4).tolist() != bootstrap_rows(100, 5).tolist()


def test_a_record_is_one_line_whatever_its_strings_hold(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    hostile = result(model='a\nb\u2028"<script>', language="日本")
    append_result(file, hostile)

    assert len(file.read_bytes().splitlines()) == 1
    assert json.loads(file.read_text())["language"] == "日本"
    assert read_results(file) == [hostile]
