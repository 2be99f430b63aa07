"""A headless Chromium, and pages of made-up records opened in it from disk."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from harness.record import RunRecord
from harness.reporting.page.build import page, payload
from harness.reporting.page.questions import Answers
from harness.reporting.published import Published

PATIENCE_S = 60
REQUIRED = "PRUNEBENCH_BROWSER"
"""Set where a browser must be there: a missing one then fails instead of skipping."""


@dataclass
class Browser:
    """What a test does with the page."""

    driver: webdriver.Chrome

    def open(self, address: str) -> None:
        """Open an address afresh, as somebody does who was sent a link."""
        self.driver.get("about:blank")
        self.driver.get(address)
        self.wait_for("#said, #view > *")

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        """The first match, which may take its time to come."""
        return self.wait_for(selector)

    def wait_for(self, selector: str) -> WebElement:
        WebDriverWait(self.driver, PATIENCE_S).until(lambda _: self.all(selector), f"no {selector}")
        return self.all(selector)[0]

    def until(self, holds: Callable[[], object], what: str) -> None:
        WebDriverWait(self.driver, PATIENCE_S).until(lambda _: holds(), what)

    def by_id(self, name: str) -> WebElement:
        WebDriverWait(self.driver, PATIENCE_S).until(lambda _: self.driver.find_elements(By.ID, name), f"no id {name}")
        return self.driver.find_element(By.ID, name)

    def click(self, name: str) -> None:
        """Click the element of this id where it is, also below the fold."""
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", self.by_id(name))
        self.by_id(name).click()

    def texts(self, selector: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map((found) => found.textContent.trim())"
        return list(self.driver.execute_script(script, selector))

    def column(self, key: str) -> list[str]:
        """What the table shows below the header of this key."""
        script = """const header = document.getElementById(`sort-${arguments[0]}`).closest("th");
            const rows = [...document.querySelectorAll(".jobs tbody tr")];
            return rows.map((row) => row.cells[header.cellIndex].textContent)"""
        return list(self.driver.execute_script(script, key))

    @contextmanager
    def sized(self, width: int, height: int) -> Iterator[None]:
        """A window of so many pixels; a narrow one is a phone's."""
        shape = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", shape)
        yield
        self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    @property
    def hash(self) -> str:
        return str(self.driver.execute_script("return decodeURIComponent(location.hash)"))

    def complaints(self) -> list[str]:
        """What the console says, and every request to anything but files and the page's own data."""
        said = [entry["message"] for entry in self.driver.get_log("browser")]
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [
            event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"
        ]
        return said + [url for url in asked if not url.startswith(("file:", "data:", "blob:", "about:"))]


@pytest.fixture(scope="session")
def chromium() -> Iterator[webdriver.Chrome]:
    """One browser for all tests."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        if os.environ.get(REQUIRED):
            pytest.fail(f"{REQUIRED} is set, but chromium and chromedriver are not on the PATH")
        pytest.skip("chromium and chromedriver are not on the PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    chrome.set_page_load_timeout(PATIENCE_S)
    yield chrome
    chrome.quit()


@pytest.fixture
def browser(chromium: webdriver.Chrome) -> Browser:
    """The browser, with nothing said before."""
    found = Browser(chromium)
    chromium.get("about:blank")
    found.complaints()
    return found


@pytest.fixture(scope="session")
def write_page(tmp_path_factory: pytest.TempPathFactory, published: Published) -> Callable[..., str]:
    """Write the page of some records; its address."""

    def write(records: Sequence[RunRecord], answers: Answers | None = None) -> str:
        path = tmp_path_factory.mktemp("page") / "page.html"
        content = payload(records, published, answers)
        path.write_text(page(*content), encoding="utf-8")
        return path.as_uri()

    return write


def focused(browser: Browser) -> dict[str, Any]:
    """Id, text and outline of the element that has the focus."""
    script = """const found = document.activeElement;
        return {id: found.id, text: found.textContent, outline: getComputedStyle(found).outlineStyle}"""
    return dict(browser.driver.execute_script(script))
