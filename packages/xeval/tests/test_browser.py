"""The report in a real browser: it sorts, fits a phone, prints, and complains of nothing."""

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xeval.report import write_report
from xeval.statistics.items import Items
from xeval.statistics.result import Result
from xeval.statistics.results_file import append_results, read_results

pytestmark = pytest.mark.browser

# Values are chosen so that sorting as text ("9.0" above "80.0") would show.
SCORES = {
    "middle-of-the-road-multilingual-cased": {"en": 90, "de": 80, "fr": 9, "yo": 50},
    "small": {"en": 70, "de": 60, "fr": 55, "yo": 20},
    "large/<b>bold</b>": {"en": 95, "de": 92, "fr": 91, "yo": 90},
}
COSTS = {
    "middle-of-the-road-multilingual-cased": 135_000_000,
    "small": 9_000_000,
    "large/<b>bold</b>": 278_000_000,
}
TASKS = ("pos", "ner", "topic")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    records = []
    for task in TASKS:
        for model, by_language in SCORES.items():
            for language, score in by_language.items():
                right = np.zeros((100, 2), int)
                right[:score, 0], right[:, 1] = 1, 1
                items = Items(metric="accuracy", rows=right, test_digest=f"{task} {language}")
                cost = {
                    "parameters": COSTS[model], "latency_ms": COSTS[model] / 1e7, "threads": 1,
                    "batch": 1, "length": 128, "device": "cpu", "dtype": "float32",
                }  # fmt: skip
                result = Result(
                    model=model, model_digest=model, task=task, dataset="d", split="test",
                    language=language, source_language="en", protocol={"epochs": 3}, seed=0,
                    metric="accuracy", value=items.value(), n=100, cost=cost,
                )  # fmt: skip
                records.append((result, items))
    append_results(folder / "results.jsonl", records)
    write_report(read_results(folder / "results.jsonl"), folder / "report.html")
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver

    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    assert binary, "no Chromium on PATH: install Debian's packages chromium and chromium-driver"
    assert driver, "no chromedriver on PATH: install Debian's package chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--lang=en", "--hide-scrollbars", f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


@pytest.fixture
def opened(chromium: Any, report: str) -> Any:
    """The report, opened afresh in a window 1280 wide."""
    resize(chromium, 1280, 900)
    chromium.get(report)
    return chromium


def resize(browser: Any, width: int, height: int) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def head(browser: Any, section: str, name: str, table: int = 0) -> Any:
    found = browser.find_elements("css selector", f"#{section} table")[table]
    return next(
        th for th in found.find_elements("css selector", "thead th") if th.text.startswith(name)
    )


def order(browser: Any, section: str, table: int = 0) -> list[str]:
    found = browser.find_elements("css selector", f"#{section} table")[table]
    heads = found.find_elements("css selector", "tbody th")
    return [str(th.get_attribute("data-v")) for th in heads]


def click(th: Any) -> None:
    th.find_element("css selector", "button").click()


def test_a_click_on_a_header_sorts_and_a_second_one_turns_round(opened: Any) -> None:
    middle, small, large = SCORES
    assert order(opened, "overview") == [large, middle, small]

    click(head(opened, "overview", "Parameters"))
    assert order(opened, "overview") == [small, middle, large]
    assert head(opened, "overview", "Parameters").get_attribute("aria-sort") == "ascending"
    assert head(opened, "overview", "pos").get_attribute("aria-sort") is None

    click(head(opened, "overview", "Parameters"))
    assert order(opened, "overview") == [large, middle, small]
    assert head(opened, "overview", "Parameters").get_attribute("aria-sort") == "descending"


def test_scores_sort_as_numbers_best_first(opened: Any) -> None:
    heads = opened.find_elements("css selector", "#task-0 table.heat thead th")

    click(heads[1])

    assert order(opened, "task-0", table=1) == ["en", "de", "yo", "fr"]
    click(heads[0])
    assert order(opened, "task-0", table=1) == ["de", "en", "fr", "yo"]


def test_the_keyboard_sorts_too_and_the_change_is_announced(opened: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    button = head(opened, "overview", "Latency").find_element("css selector", "button")
    button.send_keys(Keys.ENTER)

    assert order(opened, "overview")[0] == "small"
    said = opened.find_element("css selector", "#overview [aria-live]")
    assert said.get_attribute("textContent") == "Sorted by Latency, ascending."


def test_languages_get_their_names(opened: Any) -> None:
    names = opened.find_elements("css selector", "#task-0 .long")

    assert [name.text for name in names] == ["German", "English", "French", "Yoruba"]


def test_hostile_names_are_text_in_the_browser_too(opened: Any) -> None:
    assert "large/<b>bold</b>" in opened.find_element("css selector", "#overview").text
    assert opened.find_elements("css selector", "b") == []


def test_the_console_is_empty_and_nothing_is_fetched(chromium: Any, report: str) -> None:
    import json

    chromium.get("about:blank")
    chromium.get_log("performance")
    chromium.get(report)
    click(head(chromium, "overview", "Parameters"))

    messages = [
        json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")
    ]
    asked = [
        m["params"]["request"]["url"]
        for m in messages
        if m["method"] == "Network.requestWillBeSent"
    ]
    assert chromium.get_log("browser") == []
    assert report in asked
    assert {url for url in asked if not url.startswith("data:")} == {report}


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_nothing_runs_out_of_the_page(opened: Any, width: int) -> None:
    resize(opened, width, 800)
    for details in opened.find_elements("css selector", "details"):
        opened.execute_script("arguments[0].open = true", details)

    inner, scroll = opened.execute_script(
        "return [innerWidth, document.documentElement.scrollWidth]"
    )

    assert inner == width
    assert scroll <= width


def test_a_wide_table_scrolls_to_its_end(opened: Any) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    resize(opened, 360, 800)
    frame = opened.find_element("css selector", "#overview .frame")
    # The page learns of its new width a moment after the browser has it.
    WebDriverWait(opened, 30).until(lambda _: frame.get_attribute("data-more") is not None)

    opened.execute_script("arguments[0].firstChild.scrollLeft = 9999", frame)

    last = frame.find_elements("css selector", "thead th")[-1]
    assert opened.execute_script("return arguments[0].getBoundingClientRect().right", last) <= 360
    model = frame.find_element("css selector", "tbody th")
    assert opened.execute_script("return arguments[0].getBoundingClientRect().left", model) >= 0


def test_text_is_large_enough_on_a_phone(opened: Any) -> None:
    resize(opened, 360, 800)

    smallest = opened.execute_script(
        "return Math.min(...Array.from(document.querySelectorAll('svg text')).map("
        "t => parseFloat(getComputedStyle(t).fontSize) * t.ownerSVGElement.getBoundingClientRect().width / 420))"
    )

    assert smallest >= 8.5


def test_dark_and_light_have_papers_of_their_own(opened: Any) -> None:
    papers = {}
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        papers[scheme] = opened.execute_script(
            "return getComputedStyle(document.body).backgroundColor"
        )
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})

    assert papers["light"] == "rgb(255, 255, 255)"
    assert papers["dark"] != papers["light"]


def test_pictures_of_screen_and_paper_are_not_blank(opened: Any, tmp_path: Path) -> None:
    for width in (1280, 390):
        resize(opened, width, 900)
        shot = opened.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
        (tmp_path / f"report-{width}.png").write_bytes(base64.b64decode(shot["data"]))
    paper = base64.b64decode(opened.execute_cdp_cmd("Page.printToPDF", {})["data"])

    from matplotlib.image import imread

    for width in (1280, 390):
        picture = imread(tmp_path / f"report-{width}.png")
        assert picture.shape[1] == width
        assert len(np.unique(picture[::4, ::4, :3].reshape(-1, 3), axis=0)) > 50
    assert paper.startswith(b"%PDF")
