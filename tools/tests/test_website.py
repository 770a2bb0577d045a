"""The site made of the house's Markdown: whole, of one piece, and readable at any width."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import website  # noqa: E402  (the path comes first)
from graph import WorkspaceError  # noqa: E402


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site") / "site"
    website.build(ROOT, out)
    return out


def a_house(folder: Path, readme: str) -> Path:
    """A house of one page, with the real program that writes the report."""
    for name in ("benchmarks", "tools"):
        shutil.copytree(ROOT / name, folder / name)
    (folder / "README.md").write_text(readme, encoding="utf-8")
    return folder


def test_every_link_of_the_site_leads_to_a_file_and_an_anchor(site: Path) -> None:
    assert website.dead_links(site) == []


def test_every_page_of_the_house_is_reached_from_the_first(site: Path) -> None:
    reached, open_ = set(), [site / "index.html"]
    while open_:
        page = open_.pop().resolve()
        if page not in reached and page.suffix == ".html":
            reached.add(page)
            links = re.findall(r'href="([^"#:]+)', page.read_text(encoding="utf-8"))
            open_ += [page.parent / link for link in links]

    assert reached == {file.resolve() for file in site.rglob("*.html")}
    for source in (*ROOT.glob("docs/*.md"), *ROOT.glob("packages/*/README.md")):
        assert site / website._place(source.relative_to(ROOT)) in reached


def test_no_page_runs_a_script_or_loads_from_elsewhere(site: Path) -> None:
    for file in site.rglob("*.html"):
        text = file.read_text(encoding="utf-8")
        assert "<script" not in text, file
        assert re.findall(r'src="(?:https?:)?//|url\(|<link[^>]+https?:', text) == [], file


@pytest.mark.parametrize(
    "link",
    ["docs/absent.md", "#no-such-heading", "benchmarks/README.md#nowhere", "../outside.md"],
)
def test_a_dead_link_is_named_and_nothing_is_written(link: str, tmp_path: Path) -> None:
    root = a_house(tmp_path / "house", f"# A house\n\n[here]({link})\n")

    with pytest.raises(WorkspaceError, match=r"index\.html: "):
        website.build(root, tmp_path / "site")

    assert not (tmp_path / "site").exists()


def test_a_heading_s_anchor_is_githubs(tmp_path: Path) -> None:
    readme = "# A house\n\n## Faster, slower, or `noise`?\n\n## Twice\n\n## Twice\n\n"
    links = "[1](#faster-slower-or-noise) [2](#twice) [3](#twice-1)\n"
    website.build(a_house(tmp_path / "house", readme + links), tmp_path / "site")

    text = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert [f'id="{name}"' in text for name in ("faster-slower-or-noise", "twice-1")] == [True] * 2


def test_the_same_house_makes_the_same_bytes(site: Path, tmp_path: Path) -> None:
    website.build(ROOT, tmp_path / "site")

    for file in site.rglob("*"):
        if file.is_file():
            assert (tmp_path / "site" / file.relative_to(site)).read_bytes() == file.read_bytes()


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_of_the_site_scrolls_sideways(width: int, site: Path, tmp_path: Path) -> None:
    from selenium import webdriver

    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    assert binary, "no Chromium on PATH: install Debian's packages chromium and chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--hide-scrollbars", f"--user-data-dir={tmp_path / 'profile'}",
    ):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser: Any = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    try:
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        widest = {}
        for file in site.rglob("*.html"):
            browser.get(file.as_uri())
            found = browser.execute_script("return document.documentElement.scrollWidth")
            widest[str(file.relative_to(site))] = found
        complaints = browser.get_log("browser")
    finally:
        browser.quit()

    assert {name: found for name, found in widest.items() if found != width} == {}
    assert json.dumps(complaints) == "[]"
