"""A sweep in one process against the same jobs run cold, one process each.

    python -m benchmarks sweep [--methods magnitude wanda sparsegpt] [--patterns unstructured 2:4 4:8 1:4]

Both go through the command line, on the embedded model and data, with the same overrides; the sum of the cold jobs'
wall times is what a loop over `prunebench run` would take.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OVERRIDES = (
    "evaluation=demo",
    "evaluation.max_windows=4",
    "evaluation.limit=10",
    "calibration.source=embedded",
    "calibration.num_sequences=8",
    "calibration.seq_len=256",
)


def main(arguments: list[str]) -> None:
    """Run both and print the ratio."""
    parser = argparse.ArgumentParser(prog="benchmarks sweep")
    parser.add_argument("--methods", nargs="+", default=["magnitude", "wanda", "sparsegpt"])
    parser.add_argument("--patterns", nargs="+", default=["unstructured", "2:4", "4:8", "1:4"])
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        _run(Path(folder) / "warm", "method=magnitude", "pattern=2:4")  # wheels, conversion, the disk's cache
        methods, patterns = ",".join(options.methods), ",".join(options.patterns)
        sweep = _run(Path(folder) / "sweep", "-m", f"method={methods}", f"pattern={patterns}")
        cold = [
            _run(Path(folder) / "cold", f"method={method}", f"pattern={pattern}")
            for method in options.methods
            for pattern in options.patterns
        ]
    print(f"{len(cold)} jobs: sweep {sweep:.0f} s, cold jobs {sum(cold):.0f} s: {sweep / sum(cold):.2f} x")


def _run(results_dir: Path, *overrides: str) -> float:
    """Wall time in seconds of one call of the command line."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "harness", "run", *overrides, *OVERRIDES, f"results_dir={results_dir}"]
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start
