"""How long the page of many jobs takes: to write, to open in a browser, to filter and to sort.

    python -m benchmarks page [--jobs 10000] [--layers 0]

Needs chromium and chromedriver.  Opening is measured by the browser itself, from navigation to the drawn table.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

from harness.job import CalibrationSpec, Choice, JobSpec, ModelSpec, PerplexityProtocol, ZeroShotProtocol
from harness.patterns import SemiStructured, Unstructured
from harness.record import SCHEMA_VERSION, EvalResult, LayerReport, Provenance, RunRecord
from harness.reporting.page.build import page, payload
from harness.reporting.published import load

TIME = """const done = arguments[arguments.length - 1], start = performance.now();
{action};
requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));"""
FILTER = "[...document.querySelectorAll('#facets label')].find((label) => label.title === 'wanda').click()"
SORT = "document.querySelector('.jobs th.number .sort[id*=wikitext2]').click()"
SEARCH = "const box = document.getElementById('search'); box.value = 'opt 70%'; box.dispatchEvent(new Event('input'))"


def main(arguments: list[str]) -> None:
    """Write the page, open it, and print the times."""
    parser = argparse.ArgumentParser(prog="benchmarks page")
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--layers", type=int, default=0, help="layers a job")
    options = parser.parse_args(arguments)
    records = [_record(number, options.layers) for number in range(options.jobs)]
    start = time.perf_counter()
    text = page(*payload(records, load(), {}))
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
        for name, action in (("filter", FILTER), ("sort", SORT), ("search", SEARCH)):
            spent = browser.execute_async_script(TIME.replace("{action}", action))
            said = browser.execute_script("return document.getElementById('said').textContent")
            print(f"{name}: {spent:.0f} ms; {said}")


def _record(number: int, layers: int) -> RunRecord:
    """One of many jobs: models × methods × patterns × seeds, with four results."""
    model = f"opt-{number % 5}b"
    method = ("magnitude", "wanda", "sparsegpt", "ria")[number // 5 % 4]
    pattern = [*(Unstructured(step / 10) for step in range(1, 9)), SemiStructured(2, 4), SemiStructured(4, 8)]
    spec = JobSpec(
        ModelSpec(model, f"hub:facebook/{model}@abc", "auto"),
        Choice(method),
        pattern[number // 20 % 10],
        Choice("uniform"),
        CalibrationSpec("c4", "c4-shard-0", 128, 2048, "documents", "pruned"),
        Choice("none"),
        number // 200,
        (),
    )
    value = 10 + (number * 7919 % 10_007) / 100
    return RunRecord(
        SCHEMA_VERSION,
        spec.job_id,
        spec.identity(),  # type: ignore[arg-type]
        "done",
        (
            _result(PerplexityProtocol("wikitext2", None, 2048).key, "wikitext2", "perplexity", value),
            _result(PerplexityProtocol("c4", None, 2048).key, "c4", "perplexity", 1.2 * value),
            _result(ZeroShotProtocol("boolq", "2.0", None).key, "boolq", "acc", 0.5 + value / 1000),
            _result(ZeroShotProtocol("piqa", "1.0", None).key, "piqa", "acc", 0.6 + value / 1000),
        ),
        tuple(
            LayerReport(f"layers.{layer // 7}.{layer % 7}", (512, 512), 0.5, 0.5, (layer * number) % 997 / 1e3, 64)
            for layer in range(layers)
        ),
        spec.requested_sparsity,
        None,
        {"load": 1.0, "calibrate": 2.0, "prune": 3.0 + number % 50, "evaluate": 9.0, "total": 15.0 + number % 50},
        {"cpu": 2**30},
        Provenance(
            f"2026-01-{1 + number % 28:02d}T00:00:00+00:00", "0.1.0", "abc", False, {"torch": "2.13.0"}, "3.11",
            "Linux", {"cpu": "a processor"}, "cpu", "float32", ("method=wanda",),
        ),
        (),
        None,
    )  # fmt: skip


def _result(protocol: str, task: str, metric: str, value: float) -> EvalResult:
    kind = "perplexity" if metric == "perplexity" else "zero_shot"
    return EvalResult(protocol, kind, task, metric, value, 0.01, 166, metric != "perplexity", None, "folder/x", "aa")
