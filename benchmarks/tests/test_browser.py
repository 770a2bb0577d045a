"""The report in a real browser: nothing sticks out of a phone, and nothing is complained of."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

import latest
import report

pytestmark = pytest.mark.browser
RESULTS = Path(__file__).parent.parent / "results"


@pytest.mark.parametrize("width", [360, 700, 1280])
def test_no_width_makes_the_page_scroll_sideways(width: int, tmp_path: Path) -> None:
    from selenium import webdriver

    runs = latest.read(sorted(RESULTS.glob("*.jsonl")))
    (tmp_path / "report.html").write_text(report.page(runs), encoding="utf-8")
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    assert binary, "no Chromium on PATH: install Debian's packages chromium and chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--hide-scrollbars", f"--user-data-dir={tmp_path / 'profile'}",
    ):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser: Any = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get((tmp_path / "report.html").as_uri())
        widest = browser.execute_script("return document.documentElement.scrollWidth")
        shown = browser.execute_script("return document.querySelectorAll('figure').length")
        complaints = browser.get_log("browser")
    finally:
        browser.quit()

    assert widest == width
    assert shown == len(latest.newest(runs))
    assert json.dumps(complaints) == "[]"
