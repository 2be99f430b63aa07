"""How far a job's perplexity moves when only the machine does: the demo's jobs as other processors would round them.

    python experiments/machine_dependence/spread.py [METHOD] [DTYPE]

Every job is a process of its own, with one thing changed: the instructions that torch's kernels, oneDNN and MKL may
use, the number of threads, the tokens in one forward pass; other seeds are the yardstick.  A line of `spread.csv` a
job; jobs that have a line are not run again.  Perplexity is the demo's: 8 windows of 512 of wikipedia-sample.
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

OUTCOMES = Path(__file__).with_name("spread.csv")
COLUMNS = ("method", "dtype", "calibration", "setting", "perplexity")
MACHINES = {
    "as it is": {},
    "oneDNN without bfloat16 (AVX512_CORE)": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "oneDNN without AVX-512 (AVX2)": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "MKL of any processor (COMPATIBLE)": {"MKL_CBWR": "COMPATIBLE"},
    "torch without AVX": {"ATEN_CPU_CAPABILITY": "default"},
    "torch without AVX-512": {"ATEN_CPU_CAPABILITY": "avx2"},
    "2 threads": {"OMP_NUM_THREADS": "2"},
}
"""Environment of the process by what it stands for."""
OVERRIDES = {"one sequence a pass": ["batch_tokens=1"]} | {f"seed {seed}": [f"seed={seed}"] for seed in (1, 2, 3)}
MOST = tuple(MACHINES)[:5]
FEW = tuple(MACHINES)[0:5:2]
BOTH = ("bfloat16", "float32")
PLAN = (
    ("sparsegpt", BOTH, (16, 256), MOST),
    ("wanda", BOTH, (16, 256), FEW),
    ("sparsegpt", ("float32",), (64, 256), ("as it is", "torch without AVX", "MKL of any processor (COMPATIBLE)")),
    ("sparsegpt", BOTH, (16, 256), ("seed 1",)),
    ("wanda", BOTH, (16, 256), ("seed 1",)),
    ("magnitude", BOTH, (16, 256), FEW),
    ("sparsegpt", BOTH, (16, 256), (*tuple(MACHINES)[5:], *OVERRIDES)),
    ("sparsegpt", ("bfloat16",), (64, 256), FEW),
)
"""Method, types, calibration sequences and their tokens, settings."""


def jobs() -> Iterator[tuple[str, str, str, str]]:
    """The first four columns of every line, interleaved over the types."""
    for method, dtypes, (count, length), settings in PLAN:
        for setting in settings:
            for dtype in dtypes:
                yield method, dtype, f"{count} x {length}", setting


def perplexity(method: str, dtype: str, calibration: str, setting: str) -> float:
    """Of one job at 4:8, run by the command line in a fresh process."""
    count, _, length = calibration.split()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **MACHINES.get(setting, {})}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "harness", "run", f"method={method}", "pattern=4:8", f"dtype={dtype}"]
        command += ["evaluation=demo", "evaluation.tasks=[]", "calibration.source=embedded", f"results_dir={folder}"]
        command += [f"calibration.num_sequences={count}", f"calibration.seq_len={length}"]
        command += OVERRIDES.get(setting, [])
        subprocess.run(command, check=True, env=environment, capture_output=True)
        (record,) = Path(folder).glob("smollm2-135m/*.json")
        (result,) = json.loads(record.read_text())["results"]
        return float(result["value"])


def main(method: str | None = None, dtype: str | None = None) -> None:
    """Run what has no line yet, of one method and type if they are given."""
    if not OUTCOMES.exists():
        OUTCOMES.write_text(",".join(COLUMNS) + "\n")
    with OUTCOMES.open(newline="") as file:
        done = {tuple(line[:4]) for line in csv.reader(file)}
    for job in jobs():
        if job not in done and method in (None, job[0]) and dtype in (None, job[1]):
            value = perplexity(*job)
            with OUTCOMES.open("a", newline="") as file:
                csv.writer(file, lineterminator="\n").writerow((*job, f"{value:.4f}"))
            print(*job, f"{value:.4f}", sep=" | ", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
