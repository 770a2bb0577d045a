"""Results that mteb wrote are read as mteb reads them, and compared by the book, tasks being the sample."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from xeval.cli.app import app
from xeval.errors import XevalError
from xeval.statistics.compare_mteb import compare_mteb
from xeval.statistics.mteb_results import read_mteb
from xeval.statistics.significance import holm

# Tasks of mteb with a measure that tells their kind.
MEASURES = {
    "SIB200Classification": {"scores_per_experiment": [{"accuracy": 0.5}]},
    "AmazonCounterfactualClassification": {"scores_per_experiment": [{"accuracy": 0.5}]},
    "MassiveIntentClassification": {"scores_per_experiment": [{"accuracy": 0.5}]},
    "SciFact": {"ndcg_at_10": 0.5},
    "STS17": {"cosine_spearman": 0.5},
    "STSBenchmark": {"cosine_spearman": 0.5},
    "Tatoeba": {"f1": 0.5, "accuracy": 0.5},
    "TwentyNewsgroupsClustering": {"v_measure": 0.5},
}
ENGLISH = {
    "SIB200Classification": "eng_Latn", "AmazonCounterfactualClassification": "en",
    "MassiveIntentClassification": "en", "STS17": "en-en", "Tatoeba": "fra-eng",
}  # fmt: skip

Subsets = dict[str, float]


def write_task(folder: Path, task: str, subsets: Subsets | float, split: str = "test") -> Path:
    """A result file as mteb's own writer makes it."""
    import mteb

    if isinstance(subsets, float):
        subsets = {ENGLISH.get(task, "default"): subsets}
    scores = {subset: {**MEASURES[task], "main_score": score} for subset, score in subsets.items()}
    result = mteb.TaskResult.from_task_results(
        mteb.get_task(task),
        {split: scores},  # type: ignore[dict-item]
        evaluation_time=1.0,
    )
    folder.mkdir(parents=True, exist_ok=True)
    result.to_disk(folder / f"{task}.json")
    return folder


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Results of two models on eight tasks, of which one has three languages."""
    root = tmp_path_factory.mktemp("results")
    draw = np.random.default_rng(5)
    for model, lead in (("org__large", 0.03), ("org__small", 0.0)):
        for task in MEASURES:
            base = 0.5 + lead + float(draw.normal(scale=0.01))
            subsets = {"en": base, "de": base - 0.1, "ja": base - 0.2}
            several = task == "AmazonCounterfactualClassification"
            write_task(root / model / "abc123", task, subsets if several else base)
    return root / "org__large", root / "org__small"


# Reading


def test_what_mteb_wrote_is_read_as_mteb_reads_it(eight: tuple[Path, Path]) -> None:
    import mteb

    results = read_mteb(eight[0])

    assert (results.model, results.revision) == ("org/large", "abc123")
    assert set(results.tasks) == set(MEASURES)
    compared = {score.task: score.score_a for score in compare_mteb(*eight).tasks}
    for name, task in results.tasks.items():
        by_mteb = mteb.TaskResult.from_disk(eight[0] / "abc123" / f"{name}.json")
        assert task.revision == by_mteb.dataset_revision
        assert task.version == by_mteb.mteb_version
        assert compared[name] == pytest.approx(100 * by_mteb.get_score(), abs=1e-9)


@pytest.mark.parametrize(
    ("task", "kind", "content"),
    [
        ("STSBenchmark", "similarity", {"test": {
            "cos_sim": {"pearson": 0.7, "spearman": 0.8}, "manhattan": {"pearson": 0.1, "spearman": 0.2},
            "euclidean": {"pearson": 0.1, "spearman": 0.2}, "evaluation_time": 3.2}}),
        ("STS17", "similarity", {"test": {
            "en-en": {"cos_sim": {"pearson": 0.7, "spearman": 0.8}},
            "ko-ko": {"cos_sim": {"pearson": 0.5, "spearman": 0.6}}, "evaluation_time": 3.2}}),
        ("TwitterSemEval2015", "pair classification", {"test": {
            "cos_sim": {"ap": 0.5, "f1": 0.4}, "max": {"ap": 0.6, "f1": 0.5}, "evaluation_time": 1.0}}),
        ("SciFact", "retrieval, reranking", {"test": {
            "map_at_10": 0.3, "ndcg_at_1": 0.2, "ndcg_at_10": 0.4, "evaluation_time": 1.0}}),
        ("TwentyNewsgroupsClustering", "clustering", {"test": {
            "v_measure": 0.4, "v_measure_std": 0.1, "v_measures": {"default": [0.3, 0.5]}, "evaluation_time": 1.0}}),
        ("Tatoeba", "bitext mining", {"test": {
            "fra-eng": {"accuracy": 0.9, "f1": 0.88, "precision": 0.87, "recall": 0.9},
            "tur-eng": {"accuracy": 0.7, "f1": 0.68, "precision": 0.67, "recall": 0.7}, "evaluation_time": 2.0}}),
        ("AmazonCounterfactualClassification", "classification", {"test": {
            "en": {"accuracy": 0.7, "accuracy_stderr": 0.01, "f1": 0.6, "main_score": 0.7},
            "de": {"accuracy": 0.6, "accuracy_stderr": 0.01, "f1": 0.5, "main_score": 0.6}, "evaluation_time": 2.0}}),
    ],
)  # fmt: skip
def test_files_from_before_mteb_1_11_are_read_as_mteb_reads_them(
    task: str, kind: str, content: dict[str, Any], tmp_path: Path
) -> None:
    import mteb

    path = tmp_path / f"{task}.json"
    head = {"dataset_revision": "abc", "mteb_dataset_name": task, "mteb_version": "1.2.0"}
    path.write_text(json.dumps({**head, **content}))

    read = read_mteb(tmp_path).tasks[task]

    by_mteb = mteb.TaskResult.from_disk(path)
    assert (read.kind, read.revision, read.version) == (kind, "abc", "1.2.0")
    assert {
        (split, entry["hf_subset"]): entry["main_score"]
        for split, entries in by_mteb.scores.items()
        for entry in entries
    } == {place: score.main_score for place, score in read.scores.items()}


def test_what_mteb_does_not_take_for_results_is_left_aside(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "results/some__model/main", "SciFact", 0.5)
    meta = {"name": "owner/real-name", "revision": "main"}
    (folder / "model_meta.json").write_text(json.dumps(meta))
    (folder / "SciFact_predictions.json").write_text("{}")
    write_task(folder / "experiments/truncated", "SciFact", 0.4)

    results = read_mteb(tmp_path)
    experiment = read_mteb(folder / "experiments/truncated")

    assert (results.model, results.revision) == ("owner/real-name", "main")
    assert results.tasks["SciFact"].scores["test", "default"].main_score == 0.5
    assert experiment.tasks["SciFact"].scores["test", "default"].main_score == 0.4


def _broken(folder: Path, how: str) -> None:
    path = write_task(folder, "SciFact", 0.5) / "SciFact.json"
    text = path.read_text()
    match how:
        case "empty":
            path.unlink()
        case "cut":
            path.write_text(text[: len(text) // 2])
        case "deep":
            path.write_text("[" * 100_000)
        case "foreign":
            path.write_text('{"loss": 0.3}')
        case "list":
            path.write_text("[1, 2]")
        case "scores are a number":
            change(path, scores=3)
        case "no main score":
            change(path, scores={"test": [{"hf_subset": "default", "languages": []}]})
        case "text for a score":
            change(path, scores={"test": [{"hf_subset": "default", "main_score": "0.5"}]})
        case "subset twice":
            entry = {"hf_subset": "default", "languages": [], "main_score": 0.5}
            change(path, scores={"test": [entry, entry]})
        case "task twice":
            (folder / "again.json").write_text(text)
        case "two models":
            write_task(folder / "deeper", "STSBenchmark", 0.5)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("empty", "expected result files of mteb"),
        ("cut", "SciFact.json: not JSON"),
        ("deep", "SciFact.json: not JSON"),
        ("foreign", "SciFact.json: not a result file of mteb"),
        ("list", "SciFact.json: expected a JSON object, got list"),
        ("scores are a number", "SciFact.json: not a result file of mteb"),
        ("no main score", "SciFact.json: not a result file of mteb"),
        ("text for a score", "main_score is '0.5', expected a number"),
        ("subset twice", "the subset 'default' of the split 'test' stands there twice"),
        ("task twice", "two files hold results of the task 'SciFact'"),
        ("two models", "expected the results of one model, but 2 folders hold some (., deeper)"),
    ],
)
def test_what_is_no_result_of_mteb_is_refused_by_name(how: str, said: str, tmp_path: Path) -> None:
    _broken(tmp_path, how)

    with pytest.raises(XevalError) as refused:
        read_mteb(tmp_path)

    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


# Statistics


def test_p_is_that_of_scipy_and_the_interval_that_of_every_resample(
    eight: tuple[Path, Path],
) -> None:
    from scipy.stats import permutation_test

    compared = compare_mteb(*eight)
    of_a, of_b = (
        np.array([getattr(s, side) for s in compared.tasks]) for side in ("score_a", "score_b")
    )
    test = permutation_test(
        (of_a, of_b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf
    )
    # The bootstrap distribution of six of the tasks, in full.
    six = compare_mteb(*eight, tasks=sorted(MEASURES)[:6], resamples=40_000)
    gaps = (of_a - of_b)[:6]
    every = np.array([gaps[list(drawn)].mean() for drawn in product(range(6), repeat=6)])

    assert compared.all_tasks is not None
    assert six.all_tasks is not None
    assert compared.all_tasks.n == 8
    assert compared.all_tasks.p == pytest.approx(test.pvalue, abs=1e-12)
    assert compared.all_tasks.difference == pytest.approx((of_a - of_b).mean(), abs=1e-9)
    ends = np.quantile(every, [0.025, 0.975])
    assert [six.all_tasks.low, six.all_tasks.high] == pytest.approx(ends, abs=0.03)
    # 80 % power at 5 % by the same distribution: 1.96 and 0.84 standard errors.
    assert six.all_tasks.detectable == pytest.approx(2.8 * every.std(), rel=0.12)


def test_the_names_exchanged_turn_the_difference_alone(eight: tuple[Path, Path]) -> None:
    one, two = compare_mteb(*eight).all_tasks, compare_mteb(*reversed(eight)).all_tasks

    assert one is not None
    assert two is not None
    assert one.difference == pytest.approx(-two.difference)
    assert one.p == two.p
    assert [one.low, one.high] == pytest.approx([-two.high, -two.low])
    assert one.verdict == two.verdict == f"org/large better by {one.difference:.2f} points"


def test_a_task_of_many_languages_counts_once_and_by_each_of_its_languages(
    eight: tuple[Path, Path],
) -> None:
    compared = compare_mteb(*eight)
    amazon = next(s for s in compared.tasks if s.task == "AmazonCounterfactualClassification")

    assert (amazon.subsets, amazon.languages) == (3, ("deu-Latn", "eng-Latn", "jpn-Jpan"))
    assert compared.all_tasks is not None
    assert compared.all_tasks.n == 8
    (english,) = compared.languages
    assert (english.place, english.n) == ("eng-Latn", 8)
    # In English alone the task's score is that of its English subset.
    assert english.score_a == pytest.approx(compared.all_tasks.score_a + 10 / 8)
    assert any("deu-Latn" in note and "jpn-Jpan" in note for note in compared.notes)


@pytest.mark.parametrize(("few", "needed"), [(5, 7), (6, 7)])
def test_kinds_are_corrected_by_holm_and_those_too_small_to_show_anything_say_so(
    few: int, needed: int, tmp_path: Path
) -> None:
    draw = np.random.default_rng(0)
    kinds = {"scores_per_experiment": 9, "cosine_spearman": 8, "ndcg_at_10": few}
    for model, lead in (("a", 0.01), ("b", 0.0)):
        folder = tmp_path / model
        folder.mkdir()
        for measure, count in kinds.items():
            for number in range(count):
                score = 0.5 + lead + float(draw.normal(scale=0.008))
                entry = {
                    "hf_subset": "default",
                    "languages": ["eng-Latn"],
                    "main_score": score,
                    measure: 0,
                }
                name = f"{measure}{number}"
                content = {"task_name": name, "dataset_revision": "1", "scores": {"test": [entry]}}
                (folder / f"{name}.json").write_text(json.dumps(content))

    compared = {row.place: row for row in compare_mteb(tmp_path / "a", tmp_path / "b").kinds}

    small = compared.pop("retrieval, reranking")
    assert small.verdict == f"too few tasks to show a difference; {needed} are needed"
    assert small.detectable is None
    assert small.p_holm >= 0.05
    assert [row.p_holm for row in compared.values()] == holm([row.p for row in compared.values()])
    assert any(row.p_holm > row.p for row in compared.values())


# What differs


def test_other_data_and_lacking_scores_are_named_and_left_out(tmp_path: Path) -> None:
    a, b = tmp_path / "model_a/main", tmp_path / "model_b/main"
    for folder in (a, b):
        for task in ("SciFact", "STSBenchmark", "TwentyNewsgroupsClustering"):
            write_task(folder, task, 0.5)
    write_task(a, "Tatoeba", 0.9)
    write_task(a, "STS17", {"en-en": 0.8, "ko-ko": 0.7, "ar-ar": 0.6, "en-de": float("nan")})
    write_task(b, "STS17", {"en-en": 0.7, "ko-ko": 0.6, "en-de": 0.6, "en-tr": 0.5})
    change(b / "SciFact.json", dataset_revision="another")
    change(a / "STSBenchmark.json", mteb_version="1.38.0")
    change(a / "TwentyNewsgroupsClustering.json", dataset_revision="revision_not_applicable")

    compared = compare_mteb(a, b)

    assert [score.task for score in compared.tasks] == [
        "STS17", "STSBenchmark", "TwentyNewsgroupsClustering",
    ]  # fmt: skip
    assert compared.tasks[0].score_a == pytest.approx(75)
    said = "\n".join(compared.left_out)
    assert (
        "SciFact: other data, of revision d56462d0e63a for model_a and another for model_b" in said
    )
    assert "Tatoeba: no result of model_b" in said
    assert "STS17, test ar-ar: no result of model_b" in said
    assert "STS17, test en-tr: no result of model_a" in said
    assert "STS17, test en-de: no main score of model_a" in said
    noted = "\n".join(compared.notes)
    assert "scored by different versions of mteb (1.38.0 and 2." in noted
    assert "not stated, and may not be the same: TwentyNewsgroupsClustering" in noted


def test_an_old_file_is_compared_with_a_new_one_by_the_same_measure_alone(tmp_path: Path) -> None:
    old = {"mteb_dataset_name": "SciFact", "test": {"ndcg_at_10": 0.6, "map_at_1": 0.5}}
    new = {"hf_subset": "default", "languages": ["eng-Latn"], "ndcg_at_10": 0.7}
    folders = []
    for name, content in (
        ("old", old),
        ("same", {"task_name": "SciFact", "scores": {"test": [{**new, "main_score": 0.7}]}}),
        ("another", {"task_name": "SciFact", "scores": {"test": [{**new, "main_score": 0.4}]}}),
    ):
        folders.append(tmp_path / name)
        folders[-1].mkdir()
        (folders[-1] / "SciFact.json").write_text(json.dumps(content))

    (score,) = compare_mteb(folders[0], folders[1]).tasks

    assert (score.score_a, score.score_b) == (60, 70)
    with pytest.raises(XevalError, match="main scores by different measures"):
        compare_mteb(folders[0], folders[2])


def test_one_common_task_has_scores_but_no_interval(tmp_path: Path) -> None:
    a, b = (write_task(tmp_path / name / "r", "SciFact", 0.5) for name in "ab")

    compared = compare_mteb(a, b)

    assert compared.all_tasks is None
    assert compared.kinds == compared.languages == ()
    assert [score.score_a for score in compared.tasks] == [50]
    assert "one task in common, SciFact: no interval and no test can be had of it" in compared.notes


def test_no_common_task_and_the_same_folder_twice_are_refused(tmp_path: Path) -> None:
    a = write_task(tmp_path / "a", "SciFact", 0.5)
    b = write_task(tmp_path / "b", "STSBenchmark", 0.5)

    with pytest.raises(XevalError, match="no task with the same data in common"):
        compare_mteb(a, b)
    with pytest.raises(XevalError, match="the same folder twice"):
        compare_mteb(a, a / ".." / "a")
    with pytest.raises(XevalError, match="has no result of the task 'STS17'"):
        compare_mteb(a, b, tasks=["STS17"])


def test_copies_of_one_folder_do_not_differ(eight: tuple[Path, Path], tmp_path: Path) -> None:
    copy = tmp_path / "org__large/def456"
    copy.mkdir(parents=True)
    for path in (eight[0] / "abc123").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())

    compared = compare_mteb(eight[0], copy)

    assert (compared.a, compared.b) == ("org/large@abc123", "org/large@def456")
    assert compared.all_tasks is not None
    assert (compared.all_tasks.p, compared.all_tasks.low, compared.all_tasks.high) == (1, 0, 0)
    assert compared.all_tasks.verdict == "no difference: the same score on every item"


# The command line


def test_the_command_prints_a_table_or_json(eight: tuple[Path, Path]) -> None:
    shell, folders = CliRunner(), list(map(str, eight))

    table = shell.invoke(app, ["compare", "--mteb", *folders])
    machine = shell.invoke(app, ["compare", *folders, "--mteb", "--json"])

    assert table.exit_code == machine.exit_code == 0, table.output + machine.output
    content = json.loads(machine.stdout)
    assert content["all_tasks"]["n"] == len(content["tasks"]) == 8
    assert content["all_tasks"]["verdict"].partition(";")[0] in table.stdout
    for said in ("org/large", "all tasks", "classification", "eng-Latn", "bootstrap over tasks"):
        assert said in table.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["compare", "--mteb", "nowhere", "neither"], "nowhere: expected a folder with results"),
        (["compare", "--mteb", ".", "."], ".: the same folder twice"),
        (["compare", "--mteb", "a", "b", "results.jsonl"], "RESULTS does not go with --mteb"),
        (["compare", "--mteb", "a", "b", "--source", "en"], "--source does not go with --mteb"),
        (["compare", "a", "b"], "expected a results file after the two models, or --mteb"),
    ],
)
def test_misuse_of_the_command_is_refused(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    done = CliRunner().invoke(app, arguments)

    assert done.exit_code == 2
    assert said in done.stderr
    assert "Traceback" not in done.output
