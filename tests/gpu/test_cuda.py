"""Jobs on a CUDA device, whole, as users start them."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from harness.blocks.layers import decoder_blocks
from harness.blocks.offload import InMemory, Offloading
from harness.blocks.runner import BlockRunner
from harness.jobs import placement
from harness.jobs import run as jobs_run
from harness.jobs.launch import launch
from harness.models.devices import resolve_device
from harness.pruning.methods.base import METHODS
from harness.record import RunRecord
from harness.tracking.store import RecordStore
from tests.families import tiny_model

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


def test_what_comes_before_the_blocks_runs_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Embedding, and the first block on one sequence; hidden states stay there, and one stream brings the blocks."""
    model, device, made = tiny_model("llama"), resolve_device(DEVICE), []
    stream = torch.cuda.Stream
    monkeypatch.setattr(torch.cuda, "Stream", lambda *given: made.append(given) or stream(*given))
    seen: list[tuple[int, torch.device]] = []
    for part in (model.get_input_embeddings(), decoder_blocks(model)[1][0].get_submodule("mlp")):
        part.register_forward_pre_hook(lambda _, args: seen.append((len(args[0]), args[0].device)))
    tokens_BL = torch.randint(3, 64, (6, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        runner = BlockRunner(model, list(tokens_BL.split(2)), InMemory(model), device)
        assert seen == [(1, device), (1, device), *[(2, device)] * 3]
        assert all(hidden.device == device for hidden in runner.hidden)
        for step in runner.rest():
            step.hand_on()
    assert len(made) == 2, "one for blocks, one for hidden states"


@pytest.mark.parametrize("expected", ["none", "cpu"])
def test_where_blocks_are_is_chosen_by_the_devices_memory(
    expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With too little for the whole model one block at a time is there; the record says it, and the estimate holds."""
    job = "method=wanda", "pattern=2:4", f"device={DEVICE}", "model=smollm2-135m"
    if expected == "cpu":
        monkeypatch.setattr(placement, "memory_of", lambda device: 500_000_000)  # 135 million float32 take 540
    record = run(tmp_path, *job)
    assert record.provenance.placement["offload"] == expected
    assert record.provenance.placement["asked"] == "auto"
    assert record.peak_memory_bytes["accelerator"] <= 1.25 * float(
        str(record.provenance.placement["estimated_peak_bytes"])
    )


def test_weights_are_recognised_before_they_go_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No weight comes back only for its fingerprint."""
    devices: set[torch.device] = set()
    real = jobs_run.weights_fingerprint

    def fingerprint(model: nn.Module, offloading: Offloading) -> str:
        devices.update(weight.device for weight in model.parameters())
        return real(model, offloading)

    monkeypatch.setattr(jobs_run, "weights_fingerprint", fingerprint)
    run(tmp_path, "method=wanda", "pattern=2:4", f"device={DEVICE}")
    assert devices == {torch.device("cpu")}


def test_two_workers_take_two_devices(tmp_path: Path) -> None:
    """Where there are two; a single one is shared.  Each record says which its worker saw."""
    commands = [
        [sys.executable, "-m", "harness", "run", *JOB, f"results_dir={tmp_path / name}", "pattern=2:4", "device=auto"]
        for name in "ab"
    ]
    workers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    for worker in workers:
        _, said = worker.communicate()
        assert worker.returncode == 0, said
    hardware = [record_of(tmp_path / name).provenance.hardware["accelerator"] for name in "ab"]
    seen = {str(found["CUDA_VISIBLE_DEVICES"]) for found in hardware if isinstance(found, dict)}
    assert len(seen) == min(2, torch.cuda.device_count())
