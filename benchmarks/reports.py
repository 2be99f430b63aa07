"""How long all tables and all figures of many records take, from their files to the finished pages.

python -m benchmarks reports [--jobs 10000] [--layers 0]
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from benchmarks.synthetic import records
from harness.reporting.figures.base import Picture, draw_all
from harness.reporting.formats.base import write
from harness.reporting.papers import paper_table
from harness.reporting.published import load
from harness.reporting.tables import comparison
from harness.tracking.store import RecordStore

T = TypeVar("T")
FORMATS = ("md", "csv", "latex", "html", "json")


def main(arguments: list[str]) -> None:
    """Make the records, then print the time of each step."""
    parser = argparse.ArgumentParser(prog="benchmarks reports")
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--layers", type=int, default=0, help="layers a job")
    options = parser.parse_args(arguments)
    published = load()
    with tempfile.TemporaryDirectory() as folder:
        store = RecordStore(Path(folder) / "results")
        for record in records(options.jobs, options.layers):
            store.save(record)
        start = time.perf_counter(), time.process_time()
        found = _timed("records read", store.all)
        table = _timed("table of all jobs", lambda: comparison(found, published))
        _timed(f"in {len(FORMATS)} formats", lambda: [write(table, name) for name in FORMATS])
        ids = published.table_ids()
        tables = _timed(f"{len(ids)} tables of papers", lambda: [paper_table(each, found, published) for each in ids])
        _timed(f"each in {len(FORMATS)} formats", lambda: [write(each, name) for each in tables for name in FORMATS])
        drawn = _timed("figures", lambda: list(draw_all(found, published, Path(folder) / "figures")))
        print(f"{sum(isinstance(each, Picture) for each in drawn)} figures, each as PNG and PDF")
        print(f"all: {time.perf_counter() - start[0]:.1f} s, processor {time.process_time() - start[1]:.1f} s")


def _timed(name: str, work: Callable[[], T]) -> T:
    start = time.perf_counter(), time.process_time()
    outcome = work()
    print(
        f"{name}: {time.perf_counter() - start[0]:.1f} s, processor {time.process_time() - start[1]:.1f} s", flush=True
    )
    return outcome
