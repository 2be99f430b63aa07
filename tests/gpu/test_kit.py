"""The embedded model on a CUDA device: numbers, times and memory, for the report of `make gpu`.

Jobs are started as users start them, in processes of their own.  What needs no CUDA is tried on the CPU, too, with a
tiny model and in this process.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from threading import Lock

import pytest
import torch
from safetensors.torch import load_file
from torch.sparse import to_sparse_semi_structured

from harness.blocks.prefetch import Prefetcher
from harness.cli.main import main
from harness.jobs.run import PROCESS_CACHE
from harness.record import RunRecord
from harness.tracking.store import RecordStore

JOB = (
    "dtype=float32", "calibration.source=embedded", "calibration.num_sequences=16", "calibration.seq_len=256",
    "evaluation.source=embedded", "evaluation.corpora=[wikipedia-sample]", "evaluation.seq_len=256",
    "evaluation.max_windows=8",
)  # fmt: skip
SMALL = ("model=tiny-llama", "calibration.num_sequences=2", "evaluation.max_windows=1")
WANDA = ("method=wanda", "pattern=2:4")
SPARSEGPT = ("method=sparsegpt", "pattern=2:4")
TOLERANCES = {"dense": 1e-4, "magnitude": 1e-4, "wanda": 5e-3, "sparsegpt": 2e-2}
"""Relative differences of float32 perplexities between two devices: rounding flips masks near the threshold."""
TOLERANCE_DTYPE, TOLERANCE_SAME, TOLERANCE_SPARSE, TOLERANCE_PREFETCH = 0.05, 1e-5, 5e-3, 1.05
MEMORY_RATIOS = (0.5, 1.25)
"""Measured over estimated; an estimate that is too small lets a job die that plan promised."""
Facts = Callable[[dict[str, object]], None]
ALONE = Lock()


@dataclass(frozen=True)
class Kit:
    """The device and a folder for the results; on the CPU the model is tiny."""

    device: str
    folder: Path

    def overrides(self, name: str, *more: str) -> list[str]:
        """A job whose records lie under `name`; the later of two values of one field counts."""
        given = (f"device={self.device}", f"results_dir={self.folder / name}", *JOB)
        given += SMALL if self.device == "cpu" else ("model=smollm2-135m",)
        return [f"{field}={value}" for field, value in dict(text.split("=", 1) for text in (*given, *more)).items()]

    def prunebench(self, *arguments: str) -> str:
        """What the command line prints."""
        if self.device != "cpu":
            command = [sys.executable, "-m", "harness", *arguments]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            return done.stdout
        with ALONE, redirect_stdout(StringIO()) as out, pytest.raises(SystemExit) as ended:
            main(arguments)
        PROCESS_CACHE.clear()
        assert not ended.value.code
        return out.getvalue()

    def records(self, name: str, *more: str) -> list[RunRecord]:
        """Run jobs, those under `name` that are done already excepted; their records by job id."""
        self.prunebench("run", "-m", *self.overrides(name, *more))
        return RecordStore(self.folder / name).all()


CUDA = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
)
on_cuda_only = pytest.mark.parametrize("kit", [CUDA], indirect=True)


@pytest.fixture(scope="module", params=["cpu", CUDA])
def kit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """The device; what one test has run the next one finds done."""
    return Kit(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def facts(record_property) -> Facts:
    """Puts numbers into the report."""
    return lambda told: record_property("facts", json.dumps(told))


def perplexity(record: RunRecord) -> float:
    """The one number that a job of the kit measures."""
    (result,) = record.results
    assert result.value is not None
    return result.value


def told(record: RunRecord) -> dict[str, object]:
    """What the report has of a job."""
    return {
        "perplexity": perplexity(record),
        "weights": record.weights_fingerprint,
        "seconds": record.timings_s["total"],
        "peak_memory_bytes": dict(record.peak_memory_bytes),
    }


def assert_same(records: dict[str, RunRecord]) -> None:
    """The same weights, and the same perplexity but for rounding."""
    first, *others = records.values()
    for other in others:
        assert other.weights_fingerprint == first.weights_fingerprint
        assert perplexity(other) == pytest.approx(perplexity(first), rel=TOLERANCE_SAME)


def test_perplexities_of_a_small_sweep_agree_with_the_cpu_s(kit: Kit, facts: Facts) -> None:
    """Each method's within its tolerance."""
    jobs = "method=dense,magnitude,wanda,sparsegpt", "pattern=unstructured,2:4"
    pairs = list(zip(kit.records("sweep-cpu", *jobs, "device=cpu"), kit.records("sweep", *jobs), strict=True))
    facts({cpu.job_id.rpartition("__")[0]: {"cpu": told(cpu), "device": told(here)} for cpu, here in pairs})
    assert len(pairs) == 7
    for cpu, here in pairs:
        tolerance = TOLERANCES[cpu.job["method"]["name"]]
        assert perplexity(here) == pytest.approx(perplexity(cpu), rel=tolerance), cpu.job_id


def test_blocks_from_anywhere_give_the_same_weights(kit: Kit, facts: Facts) -> None:
    """From the device, main memory and disk, and the same perplexity."""
    modes = {mode: kit.records(mode, *SPARSEGPT, f"offload={mode}")[0] for mode in ("none", "cpu", "disk")}
    facts({mode: told(record) for mode, record in modes.items()})
    assert_same(modes)


@on_cuda_only
def test_two_processes_that_share_the_device_get_the_same_numbers(kit: Kit, facts: Facts) -> None:
    """At the same time."""
    with ThreadPoolExecutor(2) as pool:
        both = dict(zip("ab", pool.map(lambda name: kit.records(name, *WANDA)[0], "ab"), strict=True))
    facts({name: told(record) for name, record in both.items()})
    assert_same(both)


@on_cuda_only
def test_the_peak_on_the_device_is_what_plan_estimates(kit: Kit, facts: Facts) -> None:
    """Nearly, with the blocks on the device and in main memory."""
    found: dict[str, dict[str, float]] = {}
    for mode in ("none", "cpu"):
        job = *SPARSEGPT, f"offload={mode}"
        (plan,) = json.loads(kit.prunebench("plan", "--json", *kit.overrides("plan", *job)))
        (record,) = kit.records(mode, *job)
        estimated = plan["estimated_peak_bytes"]["on_accelerator"]
        found[mode] = {"estimated": estimated, "measured": record.peak_memory_bytes["accelerator"]}
    facts({"allowed_ratios": MEMORY_RATIOS, **found})
    for mode, peak in found.items():
        assert MEMORY_RATIOS[0] <= peak["measured"] / peak["estimated"] <= MEMORY_RATIOS[1], mode


@on_cuda_only
def test_half_precision_gives_float32_s_perplexity(kit: Kit, facts: Facts) -> None:
    """Nearly, in float16 and bfloat16."""
    found = {each.provenance.dtype: each for each in kit.records("dtypes", *WANDA, "dtype=float32,bfloat16,float16")}
    facts({name: told(record) for name, record in found.items()})
    assert set(found) == {"float32", "bfloat16", "float16"}
    for record in found.values():
        assert perplexity(record) == pytest.approx(perplexity(found["float32"]), rel=TOLERANCE_DTYPE)


@on_cuda_only
@pytest.mark.filterwarnings("ignore:The PyTorch API of SparseSemiStructuredTensor is in prototype")
def test_sparse_kernels_take_every_2_4_weight(kit: Kit, facts: Facts) -> None:
    """Those of torch, and their product is the dense one."""
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.xfail("needs a device of capability 8.0 or more")
    (record,) = kit.records("saved", *WANDA, "dtype=float16", f"save_model={kit.folder / 'model'}")
    weights = load_file(kit.folder / "model" / "model.safetensors", device=kit.device)
    errors = []
    for layer in record.layers:
        weight_OI = weights[f"{layer.name}.weight"]
        x_TI = torch.randn(128, weight_OI.shape[1], dtype=weight_OI.dtype, device=weight_OI.device)
        dense_TO = x_TI @ weight_OI.T
        sparse_TO = torch.nn.functional.linear(x_TI, to_sparse_semi_structured(weight_OI))
        errors.append(float((sparse_TO - dense_TO).abs().max() / dense_TO.abs().max()))
    facts({"layers": len(errors), "largest_relative_error": max(errors)})
    assert max(errors) <= TOLERANCE_SPARSE


@on_cuda_only
def test_blocks_read_ahead_are_not_slower(kit: Kit, facts: Facts) -> None:
    """Than those that are copied when they are needed."""
    device, blocks = torch.device(kit.device), [torch.randn(4096, 4096) for _ in range(8)]
    x_TI = torch.randn(8192, 4096, device=device)
    prefetcher = Prefetcher(lambda index: {"weight": blocks[index]}, len(blocks))

    def seconds(take: Callable[[int], torch.Tensor]) -> float:
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        for index in range(len(blocks)):
            weight_IO = take(index)
            for _ in range(4):
                x_TI @ weight_IO
        torch.cuda.synchronize(device)
        return time.perf_counter() - started

    ahead = min(seconds(lambda index: prefetcher.take(index, device)["weight"]) for _ in range(3))
    at_need = min(seconds(lambda index: blocks[index].to(device)) for _ in range(3))
    facts({"seconds_ahead": ahead, "seconds_at_need": at_need})
    assert ahead <= TOLERANCE_PREFETCH * at_need
