"""Figures are of the data as it was: data that changed under its name is scored or tuned on anew, or refused by name."""

import json
import lzma
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from xeval.data.source import LocalFolder
from xeval.errors import XevalError
from xeval.evaluate.score import score
from xeval.finetune.record import read_record
from xeval.finetune.tune import tune
from xeval.protocol import Protocol
from xeval.statistics.items import Items
from xeval.statistics.result import Result
from xeval.statistics.results_file import append_results, read_results

BRIEF = Protocol(learning_rate=3e-3, batch_size=4, steps=1, evaluate_every=1, max_length=32)
Models = Callable[[str], Path]


@pytest.fixture
def treebank(treebank_text: Callable[[str], str], tmp_path: Path) -> Callable[..., Path]:
    """`treebank(test=1)` writes a data folder whose `test` split comes from seed 1; train, dev and test are of seed 0 else."""

    def make(**seeds: int) -> Path:
        folder = tmp_path / "data/ud/xx_made"
        folder.mkdir(parents=True, exist_ok=True)
        for split in ("train", "dev", "test"):
            text = treebank_text(f"{split}{seeds.get(split, 0)}")
            (folder / f"{split}.conllu").write_text(text)
        return tmp_path / "data"

    return make


def test_a_changed_test_file_is_scored_again_and_its_old_figures_are_left_out(
    treebank: Callable[..., Path],
    tuned_pos: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = tmp_path / "r.jsonl"
    score(tuned_pos, file, source=LocalFolder(treebank()), bootstraps=3)
    before = read_results(file)

    (result,) = score(tuned_pos, file, source=LocalFolder(treebank(test=1)), bootstraps=1)

    after = read_results(file)
    assert len(file.read_text().splitlines()) == len(before) + 2
    assert [(r.bootstrap, r.value) for r in after if r.bootstrap is None] == [(None, result.value)]
    assert {r.test_digest for r in after}.isdisjoint({r.test_digest for r in before})
    assert after[0].load_items().value() == result.value
    assert (
        "r.jsonl: figures whose test or training data has changed since are left out: 4"
        in caplog.text
    )


def test_a_test_file_that_changed_back_is_scored_a_third_time(
    treebank: Callable[..., Path], tuned_pos: Path, tmp_path: Path
) -> None:
    file = tmp_path / "r.jsonl"
    (first,) = score(tuned_pos, file, source=LocalFolder(treebank()))
    score(tuned_pos, file, source=LocalFolder(treebank(test=1)))

    (again,) = score(tuned_pos, file, source=LocalFolder(treebank()))

    assert again.value == first.value
    assert [r.value for r in read_results(file)] == [first.value]


def test_the_same_test_file_packed_otherwise_is_not_scored_again(
    treebank: Callable[..., Path], tuned_pos: Path, tmp_path: Path
) -> None:
    file = tmp_path / "r.jsonl"
    data = treebank()
    score(tuned_pos, file, source=LocalFolder(data))
    before = file.read_bytes()
    plain = data / "ud/xx_made/test.conllu"
    plain.with_suffix(".conllu.xz").write_bytes(lzma.compress(plain.read_bytes()))
    plain.unlink()

    score(tuned_pos, file, source=LocalFolder(data))

    assert file.read_bytes() == before


def test_changed_lines_of_a_text_are_scored_again_and_lines_that_are_not_looked_at_are_none(
    models: Models, tmp_path: Path
) -> None:
    file, text = tmp_path / "r.jsonl", tmp_path / "data/corpora/xx.txt"
    settings = {
        "source": LocalFolder(tmp_path / "data"), "task": "bpb", "protocol": Protocol(lines=1),
    }  # fmt: skip
    text.parent.mkdir(parents=True)
    values = []
    for lines in (
        "das haus .\nein hund .\n",
        "das haus .\nein buch .\n",
        "ein buch .\nein buch .\n",
    ):
        text.write_text(lines)
        (result,) = score(models("bert"), file, **settings)
        values.append(result.value)

    assert values[0] == values[1] != values[2]
    assert len(file.read_text().splitlines()) == 2


@pytest.mark.parametrize("split", ["train", "dev"])
def test_a_folder_tuned_on_data_that_changed_is_refused_by_name(
    split: str, treebank: Callable[..., Path], models: Models, tmp_path: Path
) -> None:
    def tuned(data: Path) -> dict:
        return tune(
            models("bert"), tmp_path / "t", task="pos", source=LocalFolder(data), language="xx",
            protocol=BRIEF,
        )  # fmt: skip

    notes = tuned(treebank())
    assert tuned(treebank(test=5)) == notes

    with pytest.raises(XevalError, match="before the training or development data of ud/xx_made"):
        tuned(treebank(**{split: 1}))


def test_a_folder_of_before_training_data_was_digested_still_counts_as_done(
    treebank: Callable[..., Path], models: Models, tmp_path: Path
) -> None:
    arguments = {"task": "pos", "language": "xx", "protocol": BRIEF}
    source = LocalFolder(treebank())
    notes = tune(models("bert"), tmp_path / "t", source=source, **arguments)
    record = read_record(tmp_path / "t")
    del record["train_digest"]
    (tmp_path / "t" / "xeval.json").write_text(json.dumps(record))

    assert tune(models("bert"), tmp_path / "t", source=source, **arguments) == notes


def figure(**changes: object) -> tuple[Result, Items]:
    """A figure of one of two languages, tasks or seeds, on test items of its language."""
    result = Result(
        model="small", model_digest="ab12", task="pos", dataset="ud/de_gsd", split="test", language="de",
        source_language="en", protocol={}, seed=0, metric="accuracy", value=75.0, n=1,
    )  # fmt: skip
    digest = str(changes.pop("test_digest", "t0"))
    return replace(result, **changes), Items(
        metric="accuracy", rows=np.array([[3, 4]]), test_digest=digest
    )


def test_a_model_tuned_anew_on_changed_data_outdates_every_language_of_that_tuning_and_no_other(
    tmp_path: Path,
) -> None:
    file = tmp_path / "r.jsonl"
    append_results(
        file,
        [figure(train_digest="old"), figure(train_digest="old", language="fr"),
         figure(train_digest="old", seed=1), figure(train_digest="old", task="ner")],
    )  # fmt: skip

    assert append_results(file, [figure(train_digest="new")]) == 1

    assert {(r.language, r.seed, r.task, r.train_digest) for r in read_results(file)} == {
        ("de", 0, "pos", "new"), ("de", 1, "pos", "old"), ("de", 0, "ner", "old"),
    }  # fmt: skip


def test_figures_on_two_states_of_a_test_set_in_two_files_are_refused(tmp_path: Path) -> None:
    append_results(tmp_path / "a.jsonl", [figure()])
    append_results(tmp_path / "b.jsonl", [figure(test_digest="t1")])

    with pytest.raises(XevalError, match=r"b\.jsonl: .* another state of the test or training"):
        read_results(tmp_path / "a.jsonl", tmp_path / "b.jsonl")


def test_a_file_of_before_training_data_was_digested_is_read_and_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    append_results(file, [figure()])
    old = json.loads(file.read_text())
    del old["train_digest"]
    file.write_text(json.dumps(old) + "\n")

    assert append_results(file, [figure()]) == 0
    assert [r.value for r in read_results(file)] == [75.0]
