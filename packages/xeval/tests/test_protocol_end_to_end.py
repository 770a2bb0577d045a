"""From a model folder to lines of results: tuning, scoring, running, resuming."""

from collections.abc import Callable
from pathlib import Path

import pytest

from xeval.data.folder import DataSet
from xeval.data.source import LocalFolder
from xeval.encoder import model_digest, open_encoder
from xeval.errors import XevalError
from xeval.evaluate import score as evaluate_score
from xeval.evaluate.runner import run
from xeval.evaluate.score import score, score_examples
from xeval.finetune.checkpoint import predict, read_finetuned
from xeval.finetune.record import read_record
from xeval.finetune.tune import tune
from xeval.progress import no_progress
from xeval.protocol import Protocol
from xeval.statistics.results_file import read_results
from xeval.task_templates.task import FineTunedTask
from xeval.task_templates.word_labels import Tagged
from xeval.tasks import task_of

BRIEF = Protocol(learning_rate=3e-3, batch_size=8, steps=6, evaluate_every=3, max_length=32)
Models = Callable[[str], Path]


def task(name: str) -> FineTunedTask:
    found = task_of(name)
    assert isinstance(found, FineTunedTask)
    return found


def test_a_tagger_learns_and_every_language_gets_its_lines(
    tuned_pos: Path, models: Models, data: Path, tmp_path: Path
) -> None:
    results = score(tuned_pos, tmp_path / "r.jsonl", source=LocalFolder(data), bootstraps=2)

    assert {(r.dataset, r.skipped) for r in results} == {
        ("ud/xx_made", None),
        ("ud/yy_made", None),
        ("ud/zz_made", "ud/zz_made has no test split"),
    }
    source, target, _ = results
    assert source.value is not None
    assert source.value > 90
    assert target.value is not None
    assert source.value > target.value > 30
    assert read_record(tuned_pos)["notes"]["dev"]["accuracy"] > 90
    written = read_results(tmp_path / "r.jsonl")
    assert len(written) == 2 * 3 + 1
    assert {r.model_digest for r in written} == {model_digest(str(models("bert")))}
    assert {(r.seed, r.source_language, r.model) for r in written} == {(3, "xx", "bert")}
    assert source.file is None
    whole = next(r for r in written if r.dataset == "ud/xx_made" and r.bootstrap is None)
    assert whole.load_items().value() == whole.value


def test_scoring_again_adds_nothing_and_opens_no_model(
    tuned_pos: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "r.jsonl"
    first = score(tuned_pos, file, source=LocalFolder(data))
    before = file.read_bytes()
    monkeypatch.setattr(evaluate_score, "read_finetuned", None)

    assert [r.value for r in score(tuned_pos, file, source=LocalFolder(data))] == [
        r.value for r in first
    ]
    assert file.read_bytes() == before


def test_one_model_is_opened_once_for_all_languages(
    tuned_pos: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    monkeypatch.setattr(
        evaluate_score,
        "read_finetuned",
        lambda folder: opened.append(folder) or read_finetuned(folder),
    )

    score(tuned_pos, tmp_path / "r.jsonl", source=LocalFolder(data))

    assert opened == [tuned_pos]


def test_predictions_do_not_depend_on_batches_or_padding(tuned_pos: Path, data: Path) -> None:
    tuned = read_finetuned(tuned_pos)
    pos = task("pos")
    examples = pos.read(data / "ud/xx_made/test.conllu.xz", None)
    encoded, _ = pos.encode(tuned.pieces, examples, tuned.labels)

    def guesses(tokens: int, chosen: list) -> list:
        return predict(
            tuned.model, pos, chosen, labels=tuned.labels, pad_id=tuned.pieces.pad_id, tokens=tokens
        )

    alone = [guesses(1, [example])[0] for example in encoded]

    assert guesses(64, encoded) == alone
    assert guesses(100_000, encoded) == alone
    assert guesses(64, encoded[::-1]) == alone[::-1]


def test_a_sentence_longer_than_the_limit_is_split_scored_whole_and_counted(
    tuned_pos: Path,
) -> None:
    tuned = read_finetuned(tuned_pos)
    long = Tagged(("das", "hund", "sieht") * 30, ("DET", "NOUN", "VERB") * 30)
    short = Tagged(("das",), ("DET",))
    there = DataSet(name="ud/xx_made", language="xx", splits=("test",))

    (items,), notes = score_examples(tuned, task("pos"), [long, short], there, no_progress)

    assert items.rows[:, 1].tolist() == [90, 1]
    assert notes == ["1 of 2 sentences were longer than a row and were read in several"]


def test_the_tuned_folder_opens_without_xeval(tuned_pos: Path) -> None:
    from transformers import AutoTokenizer

    states = open_encoder(str(tuned_pos))(
        **AutoTokenizer.from_pretrained(tuned_pos)("das haus", return_tensors="pt")
    ).last_hidden_state

    assert states.shape[-1] == 32
    assert not list(tuned_pos.glob("*.bin"))
    assert (tuned_pos / "head.safetensors").is_file()


def test_one_seed_gives_the_same_bytes_and_another_others(
    models: Models, data: Path, tmp_path: Path
) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        tune(
            models("modern"), tmp_path / name, task="pos", source=LocalFolder(data),
            language="xx", protocol=BRIEF, seed=seed,
        )  # fmt: skip

    for file in ("model.safetensors", "head.safetensors"):
        a, b, c = ((tmp_path / name / file).read_bytes() for name in "abc")
        assert a == b
        assert a != c


@pytest.mark.parametrize("name", ["dp", "ner", "nli", "paraphrase", "topic", "choice", "qa"])
def test_every_other_task_runs_from_folder_to_results(
    name: str, models: Models, more_data: Path, tmp_path: Path
) -> None:
    results = run(
        [models("modern" if name in ("dp", "qa") else "bert")], tmp_path / "r.jsonl",
        tasks=[name], source=LocalFolder(more_data), language="xx", protocol=BRIEF,
    )  # fmt: skip

    scored = {(r.dataset.partition("/")[2], r.metric) for r in results if r.value is not None}
    languages = ("xx_made", "yy_made") if name == "dp" else ("xx", "yy")
    assert scored == {(language, metric) for language in languages for metric in task(name).metrics}


def test_a_run_resumes_and_more_seeds_add_only_theirs(
    models: Models, more_data: Path, tmp_path: Path
) -> None:
    file = tmp_path / "r.jsonl"

    def go(seeds: int) -> None:
        run(
            [models("bert")], file, tasks=["topic"], source=LocalFolder(more_data), language="xx",
            protocol=BRIEF, seeds=seeds, bootstraps=2,
        )  # fmt: skip

    go(1)
    first = file.read_bytes()
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("head.safetensors")}
    go(2)

    assert file.read_bytes().startswith(first)
    # 2 languages, 2 metrics, the whole set and 2 resamples, for each seed.
    assert len(read_results(file)) == 2 * (2 * 2 * 3)
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in stamps.items())
    assert len({r.protocol_digest for r in read_results(file)}) == 1


def test_a_model_without_a_pooling_head_classifies(
    models: Models, more_data: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    folder = tmp_path / "bare"
    open_encoder(str(models("bert"))).save_pretrained(folder)
    AutoTokenizer.from_pretrained(models("bert")).save_pretrained(folder)

    notes = tune(
        folder, tmp_path / "t", task="topic", source=LocalFolder(more_data), language="xx",
        protocol=BRIEF,
    )  # fmt: skip

    assert "accuracy" in notes["dev"]


def test_a_folder_of_another_tuning_is_not_overwritten(
    tuned_pos: Path, models: Models, data: Path
) -> None:
    with pytest.raises(XevalError, match=r"another tuning \(other protocol, seed\)"):
        tune(
            models("bert"), tuned_pos, task="pos", source=LocalFolder(data), language="xx",
            protocol=BRIEF,
        )  # fmt: skip


def test_a_tuning_that_fails_leaves_no_folder(
    models: Models, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.torch

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        tune(
            models("bert"), tmp_path / "out" / "t", task="pos", source=LocalFolder(data),
            language="xx", protocol=BRIEF,
        )  # fmt: skip

    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("languages", "said"),
    [
        (("zz",), "language 'zz': ud/zz_made has no test split, only train"),
        (("qq",), "language 'qq': there is no such data set; there are xx_made, yy_made, zz_made"),
    ],
)
def test_a_language_that_cannot_be_scored_is_named(
    languages: tuple[str, ...], said: str, tuned_pos: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(XevalError, match=said):
        score(tuned_pos, tmp_path / "r", source=LocalFolder(data), languages=languages)


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("yy", "expected a data set with the splits train and dev, but ud/yy_made has test"),
        ("qq", "source 'qq': there is no such data set"),
    ],
)
def test_a_source_that_cannot_be_tuned_on_is_named(
    language: str, said: str, models: Models, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(XevalError, match=said):
        tune(
            models("bert"), tmp_path / "t", task="pos", source=LocalFolder(data), language=language
        )


def test_what_is_no_model_or_was_not_tuned_is_named(
    models: Models, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(XevalError, match=r"empty: no .* could be opened there"):
        tune(
            tmp_path / "empty", tmp_path / "t", task="pos", source=LocalFolder(data), language="xx"
        )
    with pytest.raises(XevalError, match="expected a folder written by `xeval tune`"):
        score(models("bert"), tmp_path / "r", source=LocalFolder(data))
    with pytest.raises(XevalError, match="was not tuned for 'pos'"):
        score(models("bert"), tmp_path / "r", source=LocalFolder(data), task="pos")
    with pytest.raises(XevalError, match="needs no tuning"):
        tune(models("bert"), tmp_path / "t", task="bpb", source=LocalFolder(data), language="xx")
    with pytest.raises(XevalError, match="task 'nosuch' is not known"):
        score(models("bert"), tmp_path / "r", source=LocalFolder(data), task="nosuch")


def test_an_encoder_with_missing_weights_is_refused(models: Models, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file
    from transformers import AutoConfig

    state = load_file(models("bert") / "model.safetensors")
    del state["bert.encoder.layer.1.attention.self.query.weight"]
    AutoConfig.from_pretrained(models("bert")).save_pretrained(tmp_path)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(
        XevalError, match=r"'encoder.layer.1.attention.self.query.weight' are missing"
    ):
        open_encoder(str(tmp_path))


def test_an_unknown_label_in_the_test_set_is_named_with_its_line(
    models: Models, more_data: Path, tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(more_data / "sib200", tmp_path / "d" / "sib200")
    (tmp_path / "d/sib200/yy/test.tsv").write_text("index_id\tcategory\ttext\n1\tpflanzen\tbaum\n")

    with pytest.raises(XevalError, match=r"yy/test.tsv:2: the label 'pflanzen' .*\(dinge, tiere\)"):
        run(
            [models("bert")], tmp_path / "r.jsonl", tasks=["topic"],
            source=LocalFolder(tmp_path / "d"), language="xx", protocol=BRIEF,
        )  # fmt: skip


def test_mean_pooling_is_another_protocol_and_runs(
    models: Models, data: Path, tmp_path: Path
) -> None:
    from dataclasses import replace

    first, mean = BRIEF, replace(BRIEF, pooling="mean")
    for protocol in (first, mean):
        run(
            [models("modern")], tmp_path / "r.jsonl", tasks=["pos"], source=LocalFolder(data),
            language="xx", languages=["xx"], protocol=protocol,
        )  # fmt: skip

    assert len({r.protocol_digest for r in read_results(tmp_path / "r.jsonl")}) == 2
