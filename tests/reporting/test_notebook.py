"""The notebook runs on whatever records there are, keeps no output, and has no logic of its own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.reporting.published import experiments_folder
from harness.tracking.store import RecordStore

NOTEBOOK = experiments_folder().parent / "notebooks" / "explore.ipynb"

EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": sys.argv[2]}}).execute()
nbformat.write(notebook, sys.argv[3])
"""


def _code() -> list[dict]:
    return [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def test_no_output_is_kept() -> None:
    """Numbers in a committed notebook would be stale the day after."""
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in _code())


def test_it_reads_reporting_only() -> None:
    """And records: no model, no configuration; what a notebook shows, the command line can make."""
    text = "".join(line for cell in _code() for line in cell["source"])
    imported = re.findall(r"(?:from|import) (harness[\w.]*)", text)
    assert imported
    assert all(name.startswith("harness.reporting.") for name in set(imported) - {"harness.tracking.store"})
    assert not re.search(r"\bdef |\bclass |lambda", text)


@pytest.mark.slow
def test_it_runs(record, perplexity, accuracy, tmp_path: Path) -> None:
    """On a sweep with seeds: both tables and a paper's are there, and figures."""
    store = RecordStore(tmp_path / "results")
    for method in ("dense", "magnitude", "wanda", "sparsegpt"):
        for seed in (0, 1) if method != "dense" else (0,):
            results = (perplexity(30.0 + len(method) + seed), accuracy(0.5))
            store.save(record(method, results=results, seed=seed))
    outputs = _run(tmp_path, "results")
    text = json.dumps(outputs)
    assert "7 records" in text
    assert "Measured results" in text
    assert "(n=2)" in text
    assert "SGPT-T1" in text
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 1


@pytest.mark.slow
def test_it_runs_without_records(tmp_path: Path) -> None:
    """A fresh checkout has none; nothing breaks."""
    assert "0 records" in json.dumps(_run(tmp_path, "nothing"))


def _run(folder: Path, results: str) -> list[dict]:
    done = folder / "done.ipynb"
    environment = os.environ | {
        "PRUNEBENCH_RESULTS": str(folder / results),
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
    }
    command = [sys.executable, "-W", "ignore", "-c", EXECUTE, str(NOTEBOOK), str(folder), str(done)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    cells = json.loads(done.read_text(encoding="utf-8"))["cells"]
    return [output for cell in cells for output in cell.get("outputs", [])]
