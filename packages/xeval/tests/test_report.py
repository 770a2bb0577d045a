"""A report shows what the records say, names what is missing, and lets no name become markup."""

import dataclasses
import html.parser
import json
import re
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pytest
from markupsafe import Markup
from typer.testing import CliRunner

from xeval.cli.app import app
from xeval.errors import XevalError
from xeval.report import markdown, page, write_plots, write_report
from xeval.report.colour import MODEL_COLOURS, cividis, ink_on, ink_on_hex, luminance
from xeval.report.figures import interval, letter, megabytes, milliseconds, scaled
from xeval.report.page import _TEMPLATES
from xeval.report.pareto import Point, pareto_front
from xeval.report.render import environment, render
from xeval.statistics.items import Items
from xeval.statistics.metrics import metric_of
from xeval.statistics.result import Result
from xeval.statistics.results_file import append_results, read_results
from xeval.statistics.summary import Estimate, summarise

COST = {
    "parameters": 66_554_112,
    "embedding_parameters": 23_436_288,
    "bytes": 266_000_000,
    "flops": 11_174_805_504,
    "latency_ms": 20.5,
    "throughput": 48.8,
    "threads": 2,
    "batch": 1,
    "length": 128,
    "device": "cpu (one)",
    "dtype": "float32",
}
HOSTILE = "</script><img src=x onerror=alert(1)>\"'&\u202e\x00"


def record(rate: float, *, n: int = 200, **changes: Any) -> tuple[Result, Items]:
    fields: dict[str, Any] = {
        "model": "large",
        "task": "topic",
        "dataset": "sib200",
        "split": "test",
        "language": "de",
        "source_language": "en",
        "protocol": {"epochs": 3},
        "seed": 0,
        "metric": "accuracy",
        **changes,
    }
    fields.setdefault("model_digest", fields["model"][:4])
    content = [ord(c) for c in f"{fields['model']}{fields['language']}{fields['seed']}"]
    right = np.zeros(n)
    right[: round(rate * n)] = 1
    np.random.default_rng(content).shuffle(right)
    items = Items(
        metric=fields["metric"],
        rows=np.stack([right, np.ones(n)], axis=1),
        test_digest=f"items of {fields['language']}",
    )
    return Result(**fields, value=items.value(), n=n), items


def skipped(why: str, **changes: Any) -> tuple[Result, None]:
    done, _ = record(0.5, **changes)
    return dataclasses.replace(done, value=None, n=0, skipped=why), None


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two models, four languages; the small one lacks Wolof, and Yoruba with one of two seeds."""
    scores = {
        "large": {"en": 0.95, "de": 0.90, "yo": 0.60, "wo": 0.50},
        "small": {"en": 0.90, "de": 0.80, "yo": 0.40},
    }
    records: list[tuple[Result, Items | None]] = []
    for model, by_language in scores.items():
        for language, rate in by_language.items():
            for seed in (0, 1):
                if (model, language, seed) != ("small", "yo", 1):
                    cost = (
                        COST if model == "small" else COST | {"parameters": 10**8, "latency_ms": 40}
                    )
                    records.append(
                        record(rate, model=model, language=language, seed=seed, cost=cost)
                    )
    records.append(skipped("no test split", model="small", language="wo"))
    path = tmp_path / "results.jsonl"
    append_results(path, records)
    return path


# Summary


def test_means_gap_and_worst_stand_on_the_languages_that_all_have(file: Path) -> None:
    (table,) = summarise(read_results(file)).tables

    large, small = table.rows

    assert table.common == ("de", "en", "yo")
    assert large.mean is not None
    assert large.mean.value == pytest.approx((95 + 90 + 60) / 3)
    assert small.mean is not None
    assert small.mean.value == pytest.approx((90 + 80 + 40) / 3)
    for row in (large, small):
        assert row.mean is not None
        assert row.mean.low is not None
        assert row.mean.high is not None
        assert row.mean.low < row.mean.value < row.mean.high < row.mean.low + 12
    assert (large.source, large.gap) == (pytest.approx(95), pytest.approx(95 - 75))
    assert small.worst == ("yo", pytest.approx(40))
    assert table.best() == ("large",)


def test_intervals_of_one_seed_are_those_of_the_items(tmp_path: Path) -> None:
    append_results(tmp_path / "r.jsonl", [record(0.75, n=204)])

    (table,) = summarise(read_results(tmp_path / "r.jsonl")).tables

    cell = table.cells["large", "de"]
    assert cell.low is not None
    assert cell.high is not None
    # 1.96 · √(0.75 · 0.25 / 204) is 5.9 points to either side.
    assert cell.high - cell.low == pytest.approx(2 * 5.94, rel=0.1)


def test_recorded_bootstraps_serve_where_items_are_lacking(tmp_path: Path) -> None:
    whole, items = record(0.75, n=204)
    draws = [
        (dataclasses.replace(whole, bootstrap=b, value=items.bootstrap_value(b)), None)
        for b in range(200)
    ]
    append_results(tmp_path / "r.jsonl", [(whole, None), *draws])

    (table,) = summarise(read_results(tmp_path / "r.jsonl")).tables

    cell = table.cells["large", "de"]
    assert cell.value == whole.value
    assert cell.high is not None
    assert cell.low is not None
    assert cell.high - cell.low == pytest.approx(2 * 5.94, rel=0.2)


def test_a_figure_without_items_and_with_one_seed_has_no_interval(tmp_path: Path) -> None:
    append_results(tmp_path / "r.jsonl", [(record(0.75)[0], None)])

    (table,) = summarise(read_results(tmp_path / "r.jsonl")).tables

    assert table.cells["large", "de"] == Estimate(value=75.0, low=None, high=None, seeds=1)
    assert table.rows[0].mean == Estimate(value=75.0, low=None, high=None, seeds=1)


def test_where_less_is_better_the_worst_is_the_highest(tmp_path: Path) -> None:
    records = [
        record(rate, metric="bits_per_byte", language=language)
        for language, rate in (("en", 0.2), ("de", 0.9))
    ]
    append_results(tmp_path / "r.jsonl", records)

    (table,) = summarise(read_results(tmp_path / "r.jsonl")).tables

    assert table.rows[0].worst == ("de", pytest.approx(0.9))
    assert table.rows[0].gap == pytest.approx(0.7)


def test_equal_means_share_the_star_and_perfect_ones_claim_no_certainty(tmp_path: Path) -> None:
    append_results(tmp_path / "r.jsonl", [record(1.0, model=name) for name in ("a", "b")])
    results = read_results(tmp_path / "r.jsonl")

    (table,) = summarise(results).tables

    assert table.best() == ("a", "b")
    assert table.cells["a", "de"] == Estimate(value=100.0, low=None, high=None, seeds=1)
    assert page(results).count("★</span>100.0") == 4
    assert "Best mean: 100.0, of a and b. Trained on en; scored on the test sets of 1 language." in page(results)  # fmt: skip


def test_where_nothing_is_learned_the_page_names_no_language_of_training(tmp_path: Path) -> None:
    append_results(tmp_path / "r.jsonl", [record(0.5, task="bitext", source_language="de")])

    assert "Best mean: large, 50.0" in (text := page(read_results(tmp_path / "r.jsonl")))
    assert "). Scored on the test sets of 1 language." in text


def test_what_was_not_run_is_named(file: Path) -> None:
    assert summarise(read_results(file)).missing == (
        "small, topic: no test split (wo)",
        "small, topic: 1 of 2 seeds (yo)",
    )


def test_a_task_that_a_model_lacks_altogether_is_named(file: Path) -> None:
    append_results(file, [record(0.7, task="nli", dataset="xnli")])

    assert "small, nli: not run" in summarise(read_results(file)).missing


@pytest.mark.parametrize(("low", "said"), [(0.0, "0.0–3.1"), (-2.24, "-2.2 to 3.1")])
def test_an_interval_from_below_zero_has_no_dash_beside_a_minus(low: float, said: str) -> None:
    estimate = Estimate(value=1.0, low=low, high=3.1, seeds=1)

    assert interval(estimate, metric_of("cosine_spearman")) == said


def test_two_models_of_one_name_are_told_apart(file: Path) -> None:
    append_results(file, [record(0.7, model_digest="0123456789abcdef")])

    assert summarise(read_results(file)).models == ("large@larg", "large@01234567", "small")


def test_other_test_items_in_one_column_are_refused(file: Path) -> None:
    result, items = record(0.7, model="third")
    append_results(file, [(result, dataclasses.replace(items, test_digest="others"))])

    with pytest.raises(XevalError, match="different test items"):
        page(read_results(file))


def test_nothing_to_report_is_said() -> None:
    with pytest.raises(XevalError, match="no results to report"):
        page([])


# Page


class Reader(html.parser.HTMLParser):
    """Counts elements, collects attributes, and checks that what is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in {"meta", "link", "wbr"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_is_whole_and_loads_nothing(file: Path) -> None:
    text = page(read_results(file))

    read = Reader(text)

    assert read.open == []
    assert not {"img", "iframe", "object", "audio", "video"} & set(read.tags)
    links = [value for name, value in read.attributes if name in {"src", "href"}]
    assert all(value is not None and re.match(r"#|data:,", value) for value in links)
    assert "http://" not in text
    assert "https://" not in text
    assert "url(" not in text


def test_every_figure_is_on_the_page(file: Path) -> None:
    words = " ".join(Reader(page(read_results(file))).text)

    for expected in ("95.0", "90.0", "60.0", "81.7", "20.0", "66.6 M", "266 MB", "20.5 ms"):
        assert expected in words
    assert "small, topic: no test split (wo)" in words
    assert "Not in the mean, because not every model has them: wo." in words


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    records = [
        record(
            0.8,
            model=HOSTILE,
            task=HOSTILE,
            language=language,
            protocol={HOSTILE: HOSTILE},
            cost=COST,
        )
        for language in ("en", HOSTILE)
    ]
    records.append(
        skipped(HOSTILE, model=HOSTILE, task=HOSTILE, language="fr", protocol={HOSTILE: HOSTILE})
    )  # type: ignore[arg-type]  # a list of either kind
    append_results(tmp_path / "r.jsonl", records)
    results = read_results(tmp_path / "r.jsonl")

    read = Reader(page(results, title=HOSTILE))

    assert read.tags.count("script") == 1
    assert "img" not in read.tags
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    assert "<img" in " ".join(read.text)
    assert not set("\x00\u202e") & set(page(results, title=HOSTILE))
    assert "<img" not in markdown(results, title=HOSTILE)


def test_the_policy_allows_the_pages_own_script_alone(file: Path) -> None:
    import base64
    import hashlib

    text = page(read_results(file))

    script = text.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy
    assert f"script-src &#x27;sha256-{digest}&#x27;" in policy[1]
    assert "default-src &#x27;none&#x27;" in policy[1]


def test_the_same_results_give_the_same_page(file: Path) -> None:
    assert page(read_results(file)) == page(read_results(file))


def test_latencies_of_different_conditions_are_not_set_side_by_side(
    file: Path, tmp_path: Path
) -> None:
    append_results(file, [record(0.7, model="third", language="de", cost=COST | {"threads": 8})])

    words = " ".join(Reader(page(read_results(file))).text)

    assert "Latencies were measured under different conditions" in words
    assert "8 threads" in words
    assert "Score and latency" not in words
    assert "Score and parameters" in words
    drawn = write_plots(read_results(file), tmp_path / "plots")
    assert not [path for path in drawn if "latency" in path.name]


def test_operations_of_different_lengths_are_not_set_side_by_side(file: Path) -> None:
    alike = " ".join(Reader(page(read_results(file))).text)
    assert "Operations per example of 128 sub-words" in alike
    longer = COST | {"length": 512, "flops": 9.9e10}
    append_results(file, [record(0.7, model="third", language="de", cost=longer)])

    words = " ".join(Reader(page(read_results(file))).text)

    assert "Operations per example" not in words
    assert "Operations were counted for examples of different lengths" in words
    assert "third: 99 G (512 sub-words)" in words


def test_without_costs_there_are_tables_and_no_pictures_of_them(tmp_path: Path) -> None:
    append_results(tmp_path / "r.jsonl", [record(0.75)])

    read = Reader(page(read_results(tmp_path / "r.jsonl")))

    assert "figure" not in read.tags
    assert "table" in read.tags


def test_a_task_that_nobody_could_run_has_a_page_all_the_same(tmp_path: Path) -> None:
    append_results(tmp_path / "r.jsonl", [skipped("no test split")])
    results = read_results(tmp_path / "r.jsonl")

    assert "No model has a figure." in page(results)
    assert "no test split" in markdown(results)
    assert write_plots(results, tmp_path / "plots") == []


def test_cells_are_readable_on_every_shade() -> None:
    def contrast(a: float, b: float) -> float:
        return (max(a, b) + 0.05) / (min(a, b) + 0.05)

    inks = {"#000000": 0.0, "#ffffff": 1.0}
    shades = [cividis(i / 200) for i in range(201)]

    assert min(contrast(luminance(s), inks[ink_on(s)]) for s in shades) >= 4.5
    assert [luminance(s) for s in shades] == sorted(luminance(s) for s in shades)
    for colour in MODEL_COLOURS:
        parts = tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
        assert contrast(luminance(parts), inks[ink_on_hex(colour)]) >= 4.5  # type: ignore[arg-type]  # three of them


def test_the_colours_are_those_of_matplotlib() -> None:
    import matplotlib

    theirs = matplotlib.colormaps["cividis"]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        assert np.abs(np.array(cividis(share)) / 255 - theirs(share)[:3]).max() < 0.02


def test_the_front_keeps_what_nothing_equals_for_less() -> None:
    def point(letter: str, cost: float, value: float) -> Point:
        score = Estimate(value=value, low=None, high=None, seeds=1)
        return Point(letter=letter, name=letter, colour="#000000", cost=cost, score=score)

    points = [
        point("A", 3, 90),
        point("B", 1, 70),
        point("C", 2, 65),
        point("D", 3, 80),
        point("E", 5, 90),
    ]

    assert [p.letter for p in pareto_front(points, higher_is_better=True)] == ["B", "A"]
    assert [p.letter for p in pareto_front(points, higher_is_better=False)] == ["B", "C"]


def test_letters_go_on_after_z() -> None:
    assert [letter(i) for i in (0, 25, 26, 27, 51, 52)] == ["A", "Z", "AA", "AB", "AZ", "BA"]


def test_counts_are_short() -> None:
    assert [scaled(n) for n in (950, 66_554_112, 1.2e9, None)] == ["950", "66.6 M", "1.2 G", "–"]
    assert [scaled(n) for n in (999.7, 999_700_000, 5e15)] == ["1 k", "1 G", "5000 T"]
    assert [megabytes(n) for n in (1.5e6, 999.6e6, 1.234e9)] == ["1.5 MB", "1,000 MB", "1,230 MB"]
    assert [milliseconds(n) for n in (0.01234, 12.3, 1234.5)] == [
        "0.0123 ms",
        "12.3 ms",
        "1,230 ms",
    ]


def test_templates_escape_strings_keep_markup_and_lose_their_own_lines() -> None:
    templates = environment(filters={})
    templates.loader = jinja2.DictLoader(
        {
            "t": '\n<p title="{{ quote }}">\n  <i>{{ text }}{{ markup }}{{ 3 }}{{ absent }}</i>\n</p>\n'
        }
    )

    made = render(
        templates, "t", quote='"', text="a<b\u202e", markup=Markup("<b>c</b>"), absent=None
    )

    assert made == '<p title="&#34;"><i>a&lt;b\ufffd<b>c</b>3</i></p>'


def test_every_template_compiles_and_names_no_filter_that_is_not_there() -> None:
    names = _TEMPLATES.list_templates(extensions=["jinja"])

    assert len(names) == 5
    for name in names:
        _TEMPLATES.get_template(name)


def test_a_template_that_asks_for_what_is_not_given_fails() -> None:
    with pytest.raises(jinja2.UndefinedError):
        render(_TEMPLATES, "document.html.jinja", title="t")


# Markdown and pictures


def test_markdown_has_the_figures_in_tables_of_equal_width(file: Path) -> None:
    text = markdown(read_results(file))

    assert "| **large** | 81.7 |" in text
    assert "- small, topic: no test split (wo)" in text
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({line.count(" | ") for line in block.splitlines()}) == 1


def test_markdown_lets_no_name_open_a_cell(tmp_path: Path) -> None:
    append_results(tmp_path / "r.jsonl", [record(0.5, model="a|b\n# c")])

    assert "a\\|b \\# c" in markdown(read_results(tmp_path / "r.jsonl"))


def test_pictures_are_drawn_twice_alike(file: Path, tmp_path: Path) -> None:
    first = write_plots(read_results(file), tmp_path / "a")
    second = write_plots(read_results(file), tmp_path / "b")

    assert sorted(path.name for path in first) == [
        f"topic-accuracy-{what}.{kind}"
        for what in ("languages", "latency", "parameters")
        for kind in ("png", "svg")
    ]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_page_is_written_whole(file: Path, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "report.html"

    write_report(read_results(file), target)

    assert target.read_text(encoding="utf-8") == page(read_results(file))
    assert [path.name for path in target.parent.iterdir()] == ["report.html"]


# Command line


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_report_writes_what_is_asked_for(file: Path, tmp_path: Path) -> None:
    done = invoke(
        "report", file, "-o", tmp_path / "r.html", "--plots", tmp_path / "p", "--title", "Mine"
    )

    assert done.exit_code == 0
    assert "<h1>Mine</h1>" in (tmp_path / "r.html").read_text()
    assert len(list((tmp_path / "p").iterdir())) == 6
    assert invoke("report", file, "--markdown").stdout == markdown(read_results(file))


def test_report_speaks_json(file: Path) -> None:
    answer = json.loads(invoke("report", file, "--json").stdout)

    assert [row["mean"]["value"] for row in answer["means"]] == pytest.approx([245 / 3, 70])
    assert {(s["model"], s["place"]) for s in answer["scores"]} >= {
        ("large", "wo"),
        ("small", "de"),
    }
    assert answer["missing"][0] == "small, topic: no test split (wo)"


def test_report_takes_costs_from_their_own_file(file: Path, tmp_path: Path) -> None:
    costs = tmp_path / "costs.jsonl"
    line = {"schema": 1, "model": "small", "model_digest": "smal", **COST, "parameters": 5_000_000}
    costs.write_text(json.dumps(line) + "\n")

    answer = json.loads(invoke("report", file, "--costs", costs, "--json").stdout)

    assert answer["costs"]["small"]["parameters"] == 5_000_000
    assert answer["costs"]["large"]["parameters"] == 10**8


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{}", "c.jsonl:1: not a line that `xeval cost --out` writes"),
        ('{"schema": 3, "model_digest": "x"}', "c.jsonl:1: expected a cost of schema 1, got 3"),
        (
            '{"schema": 1, "model_digest": "x", "parameters": 5}',
            "no model of the results is among the costs",
        ),
    ],
)
def test_costs_of_no_use_are_refused(file: Path, tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "c.jsonl").write_text(line + "\n")

    done = invoke("report", file, "--costs", tmp_path / "c.jsonl", "--json")

    assert done.exit_code == 2
    assert message in done.stderr


def test_results_are_no_costs_and_a_folder_is_no_page(file: Path, tmp_path: Path) -> None:
    results = invoke("report", file, "--costs", file, "--json")
    before = sorted(tmp_path.iterdir())
    folder = invoke("report", file, "-o", tmp_path)

    assert (results.exit_code, folder.exit_code) == (2, 2)
    assert f"{file.name}:1: no cost, perhaps a result; --costs takes a file that" in results.stderr
    assert f"{tmp_path}: is a folder; name a file for the page, such as" in folder.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_protocols_are_refused_together_and_taken_one_by_one(file: Path, tmp_path: Path) -> None:
    other, items = record(0.99, model="third", protocol={"epochs": 30})
    append_results(file, [(other, items)])

    mixed = invoke("report", file, "-o", tmp_path / "r.html")
    chosen = invoke("report", file, "--json", "--protocol", other.protocol_digest)

    assert mixed.exit_code == 2
    assert "epochs: 3 and 30" in mixed.stderr
    assert other.protocol_digest in mixed.stderr
    assert not (tmp_path / "r.html").exists()
    assert [row["model"] for row in json.loads(chosen.stdout)["means"]] == ["third"]


def test_compare_speaks_words_and_json(file: Path) -> None:
    words = invoke("compare", "large", "small", file, "--resamples", 200)
    answer = json.loads(
        invoke("compare", "large", "small", file, "--resamples", 200, "--json").stdout
    )

    assert words.exit_code == 0
    assert "not compared: wo: no result of small" in words.stdout
    assert [row["place"] for row in answer[0]["languages"]] == ["de", "en", "yo"]
    assert answer[0]["mean"]["place"] == "mean of 3"


def test_of_a_task_that_one_model_lacks_no_empty_table_is_shown(file: Path) -> None:
    append_results(file, [record(0.7, task="nli", dataset="xnli")])

    said = invoke("compare", "large", "small", file, "--resamples", 200).stdout

    assert "\nnli, accuracy (%)\nnot compared: de: no result of small\n" in said
    assert "topic, accuracy (%)" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("report", "absent.jsonl"), "absent.jsonl: no such results file"),
        (("compare", "large", "tiny", "FILE"), "no results of a model 'tiny'; there are results of 'large', 'small'"),
        (("report", "FILE", "--task", "ner"), "no result has the task 'ner' (there are topic)"),
        (("report", "FILE", "--protocol", "zz"), "no result has the protocol 'zz'"),
        (("cost", "absent"), "absent: expected a model folder, found no config.json"),
    ],
)  # fmt: skip
def test_misuse_exits_with_two_and_one_sentence(
    file: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = invoke(*(file if argument == "FILE" else argument for argument in arguments))

    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1
