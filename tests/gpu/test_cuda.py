"""Jobs on a CUDA device, whole, as users start them."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from harness.jobs.launch import launch
from harness.models.devices import resolve_device
from harness.pruning.methods.base import METHODS
from harness.record import RunRecord
from harness.tracking.store import RecordStore

DEVICE = "cuda"
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
JOB = (
    "model=tiny-llama",
    "dtype=float32",
    "calibration.source=embedded",
    "calibration.num_sequences=4",
    "calibration.seq_len=128",
    "evaluation.source=embedded",
    "evaluation.seq_len=128",
    "evaluation.max_windows=2",
    "evaluation.corpora=[wikipedia-sample]",
)
TRAINED = "lottery"
"""It trains the model for minutes."""


def record_of(results: Path) -> RunRecord:
    """The one record below a results folder."""
    (record,) = RecordStore(results).all()
    return record


def run(results: Path, *overrides: str) -> RunRecord:
    """Run one job in this process."""
    launch([*JOB, f"results_dir={results}", *overrides], multirun=False)
    return record_of(results)


def test_the_first_job_of_a_process_finds_the_device(tmp_path: Path) -> None:
    """device=auto is the first CUDA device, though nothing has initialised CUDA; the record names it and its peak."""
    command = [sys.executable, "-m", "harness", "run", *JOB, f"results_dir={tmp_path}", "pattern=2:4", "device=auto"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = record_of(tmp_path)
    accelerator = record.provenance.hardware["accelerator"]
    assert isinstance(accelerator, dict)
    assert record.provenance.device == f"{DEVICE}:0"
    assert accelerator["name"] == torch.cuda.get_device_name(0)
    assert record.peak_memory_bytes["accelerator"] > 0


@pytest.mark.parametrize("name", [name for name in METHODS.all() if name != TRAINED])
def test_every_method_prunes_on_the_device_as_on_the_cpu(name: str, tmp_path: Path) -> None:
    """The same sparsity in every layer, and a perplexity within two per cent."""
    pattern = "channel" if "channel" in name else "unstructured"
    cpu, here = (run(tmp_path / at, f"method={name}", f"pattern={pattern}", f"device={at}") for at in ("cpu", DEVICE))
    for one, other in zip(cpu.layers, here.layers, strict=True):
        assert other.achieved_sparsity == pytest.approx(one.achieved_sparsity, abs=0.01), one.name
    assert here.results[0].value == pytest.approx(cpu.results[0].value, rel=0.02)


def test_zero_shot_answers_are_those_of_the_cpu(tmp_path: Path) -> None:
    """Questions are scored alike, so that no accuracy moves by more than one question."""
    tasks = "evaluation=demo", "evaluation.limit=20", "evaluation.tasks=[piqa,arc_easy]", "method=dense"
    cpu, here = (run(tmp_path / at, *tasks, f"device={at}") for at in ("cpu", DEVICE))
    assert len(here.results) == len(cpu.results) > 2
    for one, other in zip(cpu.results, here.results, strict=True):
        assert other.value == pytest.approx(one.value, abs=0.051 if other.kind == "zero_shot" else 0.01 * one.value)


def test_a_model_that_was_pruned_on_the_device_is_saved(tmp_path: Path) -> None:
    """Loaded again and only measured, it has the perplexity of its record."""
    saved = tmp_path / "model"
    pruned = run(tmp_path / "pruned", "pattern=2:4", f"device={DEVICE}", f"save_model={saved}")
    again = run(tmp_path / "again", "model=local", f"model.path={saved}", "method=dense", f"device={DEVICE}")
    assert again.results[0].value == pytest.approx(pruned.results[0].value, rel=1e-5)


def test_float32_is_float32_and_not_tf32() -> None:
    """A product of large matrices keeps float32's digits; TF32 has ten bits of mantissa."""
    device = resolve_device(DEVICE)
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(512, 512, generator=generator, dtype=torch.float64) for _ in range(2))
    product = (left.float().to(device) @ right.float().to(device)).double().cpu()
    error = (product - left @ right).abs().max() / math.sqrt(512)
    assert error < 1e-5
