"""The report in a real Chromium: it opens without errors, sorts, fits a phone, follows the colour scheme."""

import base64
import os
import shutil
from pathlib import Path

import pytest
from test_report import write_page, write_sweep

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no chromium and chromedriver; apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_sweep(folder / "toy", methods=("ERM", "PCL", "CORAL"), draws=2)
    write_page([folder / "toy"], folder / "report.html")
    return (folder / "report.html").as_uri()


def show(browser, url, width=1280, dark=False):
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(url)


def column(browser, at):
    rows = browser.find_elements("css selector", "table.sortable tbody")[0].find_elements(
        "css selector", "tr"
    )
    return [row.find_elements("css selector", "th, td")[at].text for row in rows]


def test_it_opens_without_errors(browser, url):
    show(browser, url)
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    assert browser.find_element("tag name", "h1").text == "dgbench: toy"
    assert len(browser.find_elements("css selector", "figure svg")) >= 3


def test_it_asks_for_nothing_else(browser, url):
    show(browser, url)
    names = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in names if not name.startswith("data:")] == []


def test_sorting_by_click_and_by_key(browser, url):
    show(browser, url)
    head = browser.find_element("css selector", "table.sortable thead tr")
    average = [button.text.split()[0] for button in head.find_elements("tag name", "button")].index("Avg")
    button = head.find_elements("tag name", "button")[average]
    numbers = sorted((float(text) for text in column(browser, average)), reverse=True)
    button.click()
    assert [float(text) for text in column(browser, average)] == numbers
    heading = head.find_elements("tag name", "th")[average]
    assert heading.get_attribute("aria-sort") == "descending"
    button.send_keys("\n")
    assert [float(text) for text in column(browser, average)] == numbers[::-1]
    assert heading.get_attribute("aria-sort") == "ascending"
    head.find_elements("tag name", "button")[0].click()
    assert column(browser, 0) == sorted(column(browser, 0))
    assert heading.get_attribute("aria-sort") is None


def test_missing_numbers_stay_below(browser, url):
    show(browser, url)
    head = browser.find_element("css selector", "table.sortable thead tr")
    versus = [button.text for button in head.find_elements("tag name", "button")]
    at = next(i for i, text in enumerate(versus) if text.startswith("vs ERM"))
    for _ in range(2):
        head.find_elements("tag name", "button")[at].click()
        assert column(browser, at)[-1] == ""  # ERM itself


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_and_is_seen(browser, url, tmp_path, width, dark):
    show(browser, url, width, dark)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    light = browser.execute_script(
        "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    )
    assert (max(light) < 60) is dark
    data = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})["data"]
    folder = Path(os.environ.get("DGBENCH_SCREENSHOTS") or tmp_path)
    path = folder / f"report-{width}-{'dark' if dark else 'light'}.png"
    path.write_bytes(base64.b64decode(data))
    assert path.stat().st_size > 10_000


def test_the_keyboard_reaches_it_all(browser, url):
    show(browser, url)
    script = (
        "return [...document.querySelectorAll('button, a, summary, .scroll')].every(e => e.tabIndex >= 0)"
    )
    assert browser.execute_script(script)


def test_it_prints(browser, url):
    show(browser, url, dark=True)
    data = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"]
    assert base64.b64decode(data).startswith(b"%PDF")
