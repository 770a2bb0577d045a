from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import pytest

from xeval.data.folder import DataSet
from xeval.data.hub import HubSource, hub_sets
from xeval.data.source import open_source
from xeval.errors import XevalError
from xeval.task_templates.text_labels import Labelled
from xeval.task_templates.word_labels import Tagged
from xeval.tasks import TASKS, task_of
from xeval.tasks.bitext import Pair
from xeval.tasks.choice import Choice
from xeval.tasks.dp import Parsed
from xeval.tasks.qa import Question
from xeval.tasks.retrieval import AskedPassage
from xeval.tasks.sts import Judged

TAGS = datasets.ClassLabel(names=["NOUN", "VERB", "_"])
# Rows with the columns that the sets on the Hub document.
ROWS: dict[tuple[str, str], tuple[str, dict[str, list[Any]], dict[str, Any], Any]] = {
    ("xnli", "nli"): (
        "de",
        {"premise": ["p"], "hypothesis": ["h"], "label": [2]},
        {},
        Labelled(text="p", second="h", label="contradiction"),
    ),
    ("paws-x", "paraphrase"): (
        "de",
        {"sentence1": ["a"], "sentence2": ["b"], "label": [1]},
        {"label": datasets.ClassLabel(names=["0", "1"])},
        Labelled(text="a", second="b", label="1"),
    ),
    ("wikiann", "ner"): (
        "sw",
        {"tokens": [["Ali", "x"]], "ner_tags": [[1, 0]]},
        {},
        Tagged(("Ali", "x"), ("B-PER", "O")),
    ),
    ("ud", "pos"): (
        "de_gsd",
        {"idx": [["1-2", "1", "2", "2.1"]], "tokens": [["ab", "a", "b", "e"]], "upos": [[2, 0, 1, 1]]},
        {"upos": datasets.Sequence(TAGS)},
        Tagged(("a", "b"), ("NOUN", "VERB")),
    ),
    ("ud", "dp"): (
        "de_gsd",
        {
            "idx": [["1-2", "1", "2"]],
            "tokens": [["ab", "a", "b"]],
            "head": [["_", "0", "1"]],
            "deprel": [["_", "root", "nsubj:pass"]],
        },
        {},
        Parsed(("a", "b"), (0, 1), ("root", "nsubj")),
    ),
    ("xquad", "qa"): (
        "xquad.de",
        {
            "context": ["rot"],
            "question": ["q"],
            "answers": [{"text": ["rot", "rot"], "answer_start": [0, 0]}],
        },
        {},
        Question("q", "rot", (("rot", 0),)),
    ),
    ("sib200", "topic"): (
        "deu_Latn",
        {"text": ["t"], "category": ["sports"]},
        {},
        Labelled(text="t", label="sports"),
    ),
    ("belebele", "choice"): (
        "deu_Latn",
        {
            "flores_passage": ["p"],
            "question": ["q"],
            **{f"mc_answer{i}": [str(i)] for i in range(1, 5)},
            "correct_answer_num": ["3"],
        },
        {},
        Choice("p", "q", ("1", "2", "3", "4"), 2),
    ),
    ("xquad", "retrieval"): ("xquad.de", {"context": ["rot"], "question": ["q"]}, {}, AskedPassage("q", "rot")),
    ("belebele", "retrieval"): (
        "deu_Latn",
        {"flores_passage": ["p"], "question": ["q"]},
        {},
        AskedPassage("q", "p"),
    ),
    ("sts22", "sts"): (
        "de-en",
        {"sentence1": ["a"], "sentence2": ["b"], "score": [2.5]},
        {},
        Judged("a", "b", 2.5),
    ),
    ("stsb", "sts"): (
        "de",
        {"sentence1": ["a"], "sentence2": ["b"], "similarity_score": [5.0]},
        {},
        Judged("a", "b", 5.0),
    ),
    ("tatoeba", "bitext"): (
        "deu-eng",
        {"sentence1": ["Haus"], "sentence2": ["house"]},
        {},
        Pair("Haus", "house"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("key", ROWS, ids="-".join)
def test_rows_of_the_hub_become_examples(
    key: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, task = key
    configuration, columns, features, expected = ROWS[key]
    asked: dict[str, Any] = {}

    def load(repository: str, config: str, **options: Any) -> Any:
        asked.update(options, repository=repository, config=config)
        made = datasets.Dataset.from_dict(columns)
        for column, feature in features.items():
            made = made.cast_column(column, feature)
        return made.to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(
        datasets, "get_dataset_config_names", lambda *_, **__: [configuration, "all-languages"]
    )
    source = HubSource(name)

    (data_set,) = source.data_sets(task_of(task))

    assert source.read(task_of(task), data_set, "test") == [expected]
    assert data_set.language in ("de", "sw")
    assert asked["streaming"] is True
    assert asked["config"] == configuration


@pytest.mark.parametrize(
    ("heads", "relations", "said"),
    [
        (["0", "_"], ["root", "obj"], "de_gsd, test: the rows are not as expected"),
        (["0", "0"], ["root", "root"], "de_gsd, test, row 0: expected a tree with one root, got 2"),
        (["0", "1"], ["root", "objekt"], "test, row 0: the label 'objekt' is not among those of"),
    ],
)
def test_rows_that_are_no_universal_tree_are_named(
    heads: list[str], relations: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"tokens": [["a", "b"]], "head": [heads], "deprel": [relations]}
    made = datasets.Dataset.from_dict(row).to_iterable_dataset()
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: made)
    german = DataSet(name="ud/de_gsd", language="de", splits=("test",))

    with pytest.raises(XevalError, match=said):
        HubSource("ud").read(task_of("dp"), german, "test")


def parquet_files(folder: Path, tokens: dict[str, str]) -> None:
    """`CONFIGURATION/SPLIT/0000.parquet` with one sentence of one token each, as the Hub's converter lays them out."""
    for place, token in tokens.items():
        tags = datasets.Features(
            {
                "tokens": datasets.Sequence(datasets.Value("string")),
                "ner_tags": datasets.Sequence(datasets.ClassLabel(names=["O", "B-PER"])),
            }
        )
        (folder / place).mkdir(parents=True)
        made = datasets.Dataset.from_dict({"tokens": [[token]], "ner_tags": [[1]]}, features=tags)
        made.to_parquet(folder / place / "0000.parquet")


def test_a_set_whose_card_names_configurations_is_read_by_the_real_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet_files(tmp_path, {"sw/validation": "Juma", "sw/test": "Ali", "en/test": "Al"})
    configurations = "".join(
        f"- config_name: {name}\n  data_files:\n"
        + "".join(f"  - {{split: {s}, path: {name}/{s}/*.parquet}}\n" for s in splits)
        for name, splits in (("sw", ("validation", "test")), ("en", ("test",)))
    )
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configurations}---\n")
    local = replace(hub_sets()["wikiann"]["ner"], repository=str(tmp_path))
    source, ner = HubSource("wikiann"), replace(task_of("ner"), hub=(local,))

    english, swahili = source.data_sets(ner)

    assert (english.language, swahili.language) == ("en", "sw")
    assert source.read(ner, swahili, "dev") == [Tagged(("Juma",), ("B-PER",))]
    assert source.read(ner, swahili, "test") == [Tagged(("Ali",), ("B-PER",))]


def test_a_set_of_converted_files_is_read_by_its_folders_at_one_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet_files(tmp_path, {"swa/train": "a", "swa/test": "Ali", "hau/test": "Bala"})
    files = [str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.parquet")]
    info = SimpleNamespace(
        sha="c0ffee", siblings=[SimpleNamespace(rfilename=name) for name in [".gitattributes", *files]]
    )  # fmt: skip
    asked = []

    def of_the_hub(self: object, repository: str, *, revision: str) -> SimpleNamespace:
        asked.append((repository, revision))
        return info

    def local(builder: str, name: str, *, data_files: dict[str, str], **options: Any) -> Any:
        place = "hf://datasets/masakhane/masakhaner2@c0ffee/"
        moved = {s: f.replace(place, f"{tmp_path}/") for s, f in data_files.items()}
        return load(builder, name, data_files=moved, **options)

    load = datasets.load_dataset
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", of_the_hub)
    monkeypatch.setattr(datasets, "load_dataset", local)
    source, ner = HubSource("masakhaner2"), task_of("ner")

    hausa, swahili = source.data_sets(ner)

    assert (hausa.name, swahili.language) == ("masakhaner2/hau", "sw")
    assert source.read(ner, swahili, "test") == [Tagged(("Ali",), ("B-PER",))]
    assert set(asked) == {("masakhane/masakhaner2", "refs/convert/parquet")}


def test_a_commit_of_the_hub_is_the_digest_of_its_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    commits = iter(["one", "one", "two"])
    monkeypatch.setattr(
        huggingface_hub.HfApi, "dataset_info", lambda *_, **__: SimpleNamespace(sha=next(commits))
    )
    data_set = DataSet(name="wikiann/sw", language="sw", splits=("train",))
    first, same, moved = (
        HubSource("wikiann").digest(task_of("ner"), data_set, "train") for _ in range(3)
    )

    assert first == same != moved


def test_tydiqa_keeps_the_rows_of_the_language(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {
        "id": ["finnish-1", "swahili-2"],
        "context": ["a", "b"],
        "question": ["q", "q"],
        "answers": [{"text": ["a"], "answer_start": [0]}, {"text": ["b"], "answer_start": [0]}],
    }
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda *_, **__: datasets.Dataset.from_dict(rows).to_iterable_dataset(),
    )
    source = HubSource("tydiqa")
    (finnish,) = (d for d in source.data_sets(task_of("qa")) if d.language == "fi")

    assert [q.context for q in source.read(task_of("qa"), finnish, "test")] == ["a"]


def test_offline_says_what_to_download_and_where_to_put_it() -> None:
    with pytest.raises(
        XevalError,
        match=r"HF_HUB_OFFLINE is set.*https://huggingface.co/datasets/unimelb-nlp/wikiann.*lay it out",
    ):
        open_source("hub:wikiann").data_sets(task_of("ner"))


@pytest.mark.parametrize("name", sorted(hub_sets()))
def test_a_set_that_several_tasks_name_is_one_set_with_readers_of_its_own(name: str) -> None:
    first, *rest = hub_sets()[name].values()

    assert [replace(hub_set, example=first.example) for hub_set in rest] == [first] * len(rest)
    assert set(hub_sets()[name]) <= set(TASKS)


def test_a_task_of_ones_own_brings_its_sets_along(monkeypatch: pytest.MonkeyPatch) -> None:
    custom = replace(hub_sets()["sib200"]["topic"], name="custom", repository="me/custom")
    monkeypatch.setitem(
        TASKS, "headlines", replace(task_of("topic"), name="headlines", hub=(custom,))
    )

    with pytest.raises(XevalError, match=r"https://huggingface.co/datasets/me/custom "):
        open_source("hub:custom").data_sets(task_of("headlines"))
    with pytest.raises(XevalError, match=r"hub:custom: is a set for headlines, not for 'topic'"):
        HubSource("custom").data_sets(task_of("topic"))


def test_a_set_pinned_to_a_commit_is_read_at_that_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(*_: str, revision: str, **__: Any) -> Any:
        asked.append(revision)
        return datasets.Dataset.from_dict({"text": ["t"], "category": ["c"]}).to_iterable_dataset()

    def names(*_: str, revision: str) -> list[str]:
        asked.append(revision)
        return ["deu_Latn"]

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(datasets, "get_dataset_config_names", names)
    pinned = replace(hub_sets()["sib200"]["topic"], revision="c0ffee")
    topic = replace(task_of("topic"), hub=(pinned,))
    (german,) = HubSource("sib200").data_sets(topic)

    assert HubSource("sib200").read(topic, german, "test") == [Labelled(text="t", label="c")]
    assert asked == ["c0ffee", "c0ffee"]


def test_unknown_sets_wrong_tasks_and_missing_splits_are_named() -> None:
    with pytest.raises(XevalError, match=r"hub:nosuch: no such standard set; there are .*xnli"):
        open_source("hub:nosuch")
    with pytest.raises(XevalError, match=r"hub:squad: is a set for qa, not for 'pos'"):
        HubSource("squad").data_sets(task_of("pos"))
    (english,) = HubSource("squad").data_sets(task_of("qa"))
    with pytest.raises(XevalError, match="has no test split, only train, dev"):
        HubSource("squad").read(task_of("qa"), english, "test")
