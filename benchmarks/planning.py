"""What it takes to plan: processor time of composing and checking sweeps in a new process, imports included.

python -m benchmarks planning [--rounds 3]
"""

import argparse
import json
import os
import resource
import subprocess
import sys

SWEEPS = {
    "200 compositions": (
        "model=smollm2-135m",
        "method=magnitude,wanda,sparsegpt,ria,random",
        "pattern=unstructured,2:4,4:8,1:4,2:8",
        "sparsity=0.5,0.6,0.7,0.8",
        "seed=0,1",
        "evaluation=none",
        "calibration.source=embedded",
    ),
    "sparsegpt_table1": ("+experiment=sparsegpt_table1",),
}


def main(arguments: list[str]) -> None:
    """Print the least processor time of each sweep, and its jobs."""
    parser = argparse.ArgumentParser(prog="benchmarks planning")
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args(arguments).rounds
    for name, overrides in SWEEPS.items():
        measured = [_plan(*overrides) for _ in range(rounds)]
        print(f"{name}: {min(measured)[0]:.2f} s of a processor, {measured[0][1]} jobs")


def _plan(*overrides: str) -> tuple[float, int]:
    """Seconds that a process of its own computed, and the jobs that it planned."""
    command = [sys.executable, "-m", "harness", "plan", "-m", *overrides, "--json"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, len(json.loads(done.stdout))
