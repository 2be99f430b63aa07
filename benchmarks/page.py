"""How long the page of many jobs takes: to write, to open in a browser, to filter and to sort.

    python -m benchmarks page [--jobs 10000] [--layers 0]

Needs chromium and chromedriver.  Opening is measured by the browser itself, from navigation to the drawn leaderboard.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

from benchmarks.synthetic import records
from harness.reporting.page.build import page, payload
from harness.reporting.published import load

TIME = """const done = arguments[arguments.length - 1], start = performance.now();
{action};
requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));"""
MATRIX, JOBS = (f"document.getElementById('tab-{view}').click()" for view in ("matrix", "jobs"))
FILTER = "[...document.querySelectorAll('#facets label')].find((label) => label.title === 'wanda').click()"
SORT = "document.querySelector('.jobs th.number .sort[id*=wikitext2]').click()"
SEARCH = "const box = document.getElementById('search'); box.value = 'opt 70%'; box.dispatchEvent(new Event('input'))"


def main(arguments: list[str]) -> None:
    """Write the page, open it, and print the times."""
    parser = argparse.ArgumentParser(prog="benchmarks page")
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--layers", type=int, default=0, help="layers a job")
    options = parser.parse_args(arguments)
    jobs = records(options.jobs, options.layers)
    start = time.perf_counter()
    text = page(*payload(jobs, load()))
    print(f"{options.jobs} jobs of {options.layers} layers: written in {time.perf_counter() - start:.1f} s")
    print(f"size: {len(text.encode()) / 1e6:.1f} MB")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        path.write_text(text, encoding="utf-8")
        _measure(path.as_uri())


def _measure(address: str) -> None:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,900"):
        options.add_argument(argument)
    with webdriver.Chrome(options=options, service=Service(str(shutil.which("chromedriver")))) as browser:
        for attempt in range(3):
            browser.get("about:blank")
            browser.get(address)
            opened = browser.execute_script("return performance.getEntriesByName('prunebench-drawn')[0].startTime")
            print(f"opened, time {attempt + 1}: {opened:.0f} ms")
        actions = {"matrix": MATRIX, "filter": FILTER, "jobs": JOBS, "sort": SORT, "search": SEARCH}
        for name, action in actions.items():
            spent = browser.execute_async_script(TIME.replace("{action}", action))
            said = browser.execute_script("return document.getElementById('said').textContent")
            print(f"{name}: {spent:.0f} ms; {said}")
