"""A kit that checks this machine's CUDA device in minutes, without the hub, and writes one report that can be sent.

A check starts commands as users do, in processes of their own: a fault of the device ends one check and no other.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import harness
from harness.cli.machine import findings
from harness.errors import UserError
from harness.record import JsonValue, RunRecord
from harness.tracking.provenance import collect
from harness.tracking.redact import redacted
from harness.tracking.store import RecordStore

Facts = dict[str, JsonValue]
Verdict = tuple[bool, Facts]

BUDGET_S = 570.0
REPORT = "gpu-report.md"
LINES_KEPT = 30
"""Of what a process wrote that failed."""
JOB = (
    "dtype=float32", "calibration.source=embedded", "calibration.num_sequences=16", "calibration.seq_len=256",
    "evaluation.source=embedded", "evaluation.corpora=[wikipedia-sample]", "evaluation.seq_len=256",
    "evaluation.max_windows=8",
)  # fmt: skip
WANDA = ("method=wanda", "pattern=2:4")
SPARSEGPT = ("method=sparsegpt", "pattern=2:4")
TOLERANCES = {"dense": 1e-4, "magnitude": 1e-4, "wanda": 5e-3, "sparsegpt": 2e-2}
"""Relative differences of float32 perplexities between two devices: rounding flips masks near the threshold."""
TOLERANCE_DTYPE, TOLERANCE_SAME, TOLERANCE_SPARSE, TOLERANCE_PREFETCH = 0.05, 1e-5, 5e-3, 1.05
MEMORY_RATIOS = (0.5, 1.25)
"""Measured over estimated; an estimate that is too small lets a job die that plan promised."""


class NotTriedError(Exception):
    """The check does not apply to this machine."""


@dataclass(frozen=True, slots=True)
class Kit:
    """What checks share: the device, a folder that is thrown away, the monotonic time by which all ends, the model."""

    device: str
    folder: Path
    ends: float
    model: str = "smollm2-135m"

    def overrides(self, name: str, *more: str, device: str | None = None) -> list[str]:
        """A job of the kit: its records lie under `name`; the later of two values of one field counts."""
        fields = dict(text.split("=", 1) for text in (*JOB, *more))
        fields |= {"device": device or self.device, "model": self.model, "results_dir": str(self.folder / name)}
        return [f"{field}={value}" for field, value in fields.items()]

    def records(self, name: str, *more: str, device: str | None = None) -> list[RunRecord]:
        """Run jobs, those under `name` that are done already excepted; their records by job id."""
        store = RecordStore(self.folder / name)
        try:
            python(["-m", "harness", "run", "-m", *self.overrides(name, *more, device=device)], self.ends)
        except RuntimeError as error:  # the tracebacks would be thrown away with the folder
            raise RuntimeError("\n".join([*(str(record.error) for record in store.failures()), str(error)])) from error
        return sorted(store.all(), key=lambda record: record.job_id)

    def require_cuda(self, capability: tuple[int, int] = (0, 0)) -> None:
        """Raises NotTriedError on a device that cannot show what is asked."""
        import torch

        if not self.device.startswith("cuda") or torch.cuda.get_device_capability(self.device) < capability:
            raise NotTriedError(f"needs a CUDA device of capability {capability[0]}.{capability[1]} or more")


def python(arguments: Sequence[str], ends: float) -> str:
    """Standard output of a Python process without hub and W&B.

    Raises:
        NotTriedError: the time is over.
        RuntimeError: it failed; with the last of what it wrote.
    """
    seconds = ends - time.monotonic()
    if seconds <= 0:
        raise NotTriedError(f"the {BUDGET_S:.0f} s of the kit are over")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=seconds)
    if done.returncode:
        lines = [*done.stdout.splitlines(), *done.stderr.splitlines()]
        raise RuntimeError("\n".join([f"exit {done.returncode}", *lines[-LINES_KEPT:]]))
    return done.stdout


def device_tests(kit: Kit) -> Verdict:
    """The tests marked `gpu` pass, and none is skipped."""
    tests = Path(harness.__file__).parents[1] / "tests"
    if not tests.is_dir():
        raise NotTriedError("an installed package has no tests; run the kit in a checkout")
    command = ["-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", str(tests)]
    last = python(command, kit.ends).strip().splitlines()[-1]
    return "passed" in last and "skipped" not in last, {"pytest": last}


def sweep(kit: Kit) -> Verdict:
    """Perplexities of a small sweep agree with the CPU's, each method's within its tolerance."""
    jobs = "method=dense,magnitude,wanda,sparsegpt", "pattern=unstructured,2:4"
    facts: Facts = {}
    passed = True
    for cpu, here in zip(kit.records("cpu", *jobs, device="cpu"), kit.records("device", *jobs), strict=True):
        label, tolerance = cpu.job_id.rpartition("__")[0], TOLERANCES[cpu.job_id.split("__")[1]]
        difference = perplexity(here) / perplexity(cpu) - 1
        passed &= abs(difference) <= tolerance
        facts[label] = {
            "cpu": perplexity(cpu), "device": perplexity(here), "difference": difference, "tolerance": tolerance,
            "same_weights": cpu.weights_fingerprint == here.weights_fingerprint,
            "seconds": [cpu.timings_s["total"], here.timings_s["total"]],
        }  # fmt: skip
    return passed, facts


def offload(kit: Kit) -> Verdict:
    """Blocks from the device, main memory and disk give the same weights and the same perplexity."""
    modes = {mode: kit.records(mode, *SPARSEGPT, f"offload={mode}")[0] for mode in ("none", "cpu", "disk")}
    return _same(modes), {mode: _facts(record) for mode, record in modes.items()}


def two_processes(kit: Kit) -> Verdict:
    """Two processes that share the device at the same time get the same numbers."""
    with ThreadPoolExecutor(2) as pool:
        both = dict(zip("ab", pool.map(lambda name: kit.records(name, *WANDA)[0], "ab"), strict=True))
    return _same(both), {name: _facts(record) for name, record in both.items()}


def memory(kit: Kit) -> Verdict:
    """The peak on the device is what `plan` estimates, nearly."""
    kit.require_cuda()
    facts: Facts = {}
    passed = True
    for mode in ("none", "cpu"):
        job = *SPARSEGPT, f"offload={mode}"
        plan = python(["-m", "harness", "plan", "--json", *kit.overrides("plan", *job)], kit.ends)
        estimated = json.loads(plan)[0]["estimated_peak_bytes"]["on_accelerator"]
        measured = kit.records(mode, *job)[0].peak_memory_bytes["accelerator"]
        passed &= MEMORY_RATIOS[0] <= measured / estimated <= MEMORY_RATIOS[1]
        facts[mode] = {"estimated": estimated, "measured": measured, "allowed_ratios": list(MEMORY_RATIOS)}
    return passed, facts


def dtypes(kit: Kit) -> Verdict:
    """float16 and bfloat16 give float32's perplexity, nearly."""
    found = {each.provenance.dtype: each for each in kit.records("dtypes", *WANDA, "dtype=float32,bfloat16,float16")}
    exact = perplexity(found["float32"])
    passed = all(abs(perplexity(record) / exact - 1) <= TOLERANCE_DTYPE for record in found.values())
    return passed and len(found) == 3, {name: _facts(record) for name, record in found.items()}


def semi_structured(kit: Kit) -> Verdict:
    """The sparse kernels of torch take every 2:4 weight, and their product is the dense one."""
    kit.require_cuda((8, 0))
    import torch
    from safetensors.torch import load_file
    from torch.sparse import to_sparse_semi_structured

    (record,) = kit.records("saved", *WANDA, "dtype=float16", f"save_model={kit.folder / 'model'}")
    weights = load_file(kit.folder / "model" / "model.safetensors", device=kit.device)
    errors = []
    for layer in record.layers:
        weight_OI = weights[f"{layer.name}.weight"]
        x_TI = torch.randn(128, weight_OI.shape[1], dtype=weight_OI.dtype, device=weight_OI.device)
        dense_TO = x_TI @ weight_OI.T
        sparse_TO = torch.nn.functional.linear(x_TI, to_sparse_semi_structured(weight_OI))
        errors.append(float((sparse_TO - dense_TO).abs().max() / dense_TO.abs().max()))
    return max(errors) <= TOLERANCE_SPARSE, {"layers": len(errors), "largest_relative_error": max(errors)}


def prefetch(kit: Kit) -> Verdict:
    """Blocks that are read ahead of their use are not slower than those that are copied when they are needed."""
    kit.require_cuda()
    import torch

    from harness.blocks.prefetch import Prefetcher

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
    return ahead <= TOLERANCE_PREFETCH * at_need, {"seconds_ahead": ahead, "seconds_at_need": at_need}


CHECKS: tuple[Callable[[Kit], Verdict], ...] = (
    sweep, offload, memory, dtypes, two_processes, semi_structured, prefetch, device_tests,
)  # fmt: skip


def check_gpu(results_dir: Path, device: str) -> bool:
    """Run every check, write the report, and say whether none failed.

    Raises:
        UserError: there is no CUDA device, or the report cannot be written.
    """
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("no CUDA device for this torch on this machine; `prunebench doctor` says why")
    try:
        (results_dir / "scratch").mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix="gpu-", dir=results_dir.absolute() / "scratch") as folder:
            kit = Kit(device, Path(folder), time.monotonic() + BUDGET_S)
            rows = [_row(check, kit) for check in CHECKS]
        (results_dir / REPORT).write_text(_report(rows, device), encoding="utf-8")
    except OSError as error:
        raise UserError(f"results_dir={results_dir} cannot be written: {error.strerror or error}") from error
    print(f"report: {results_dir / REPORT}")
    return all(row["verdict"] != "FAILED" for row in rows)


def _row(check: Callable[[Kit], Verdict], kit: Kit) -> Facts:
    """A check's outcome; one that raises has failed, with its error as the fact."""
    started = time.monotonic()
    try:
        passed, facts = check(kit)
        verdict = "passed" if passed else "FAILED"
    except NotTriedError as reason:
        verdict, facts = "not tried", {"reason": str(reason)}
    except Exception as error:  # whatever a device does, the other checks are still wanted
        verdict, facts = "FAILED", {"error": f"{type(error).__name__}: {error}".replace(str(kit.folder), "SCRATCH")}
    seconds = round(time.monotonic() - started, 1)
    said = str(facts.get("error", "")).strip().rpartition("\n")[2]
    print(redacted(f"{check.__name__}: {verdict} in {seconds} s {said}").rstrip(), flush=True)
    row: Facts = {"check": check.__name__, "says": (check.__doc__ or "").strip(), "verdict": verdict}
    return row | {"seconds": seconds, "facts": facts}


def _report(rows: list[Facts], device: str) -> str:
    """Markdown with a table for people and all facts as JSON; without secrets and the path of the home folder."""
    about = "python", "packages", "torch", "memory", "processor", "CUDA"
    machine = {finding.name: finding.found for finding in findings(about, Path())}
    lines = [f"# The GPU kit on {machine['CUDA']} (device={device})", "", "| check | verdict | s | what it shows |"]
    lines += ["|---|---|---|---|"]
    lines += [f"| {row['check']} | {row['verdict']} | {row['seconds']} | {row['says']} |" for row in rows]
    facts = {"machine": machine, "provenance": asdict(collect(device, "", (), None)), "checks": rows}
    return redacted("\n".join([*lines, "", "```json", json.dumps(facts, indent=1), "```", ""]))


def perplexity(record: RunRecord) -> float:
    """The one number that a job of the kit measures."""
    (result,) = record.results
    assert result.value is not None, f"{record.job_id} has no perplexity"
    return result.value


def _facts(record: RunRecord) -> Facts:
    peak = dict(record.peak_memory_bytes)
    return {"perplexity": perplexity(record), "seconds": record.timings_s["total"], "peak_memory_bytes": {**peak}}


def _same(records: dict[str, RunRecord]) -> bool:
    first, *others = records.values()
    return all(
        other.weights_fingerprint == first.weights_fingerprint
        and abs(perplexity(other) / perplexity(first) - 1) <= TOLERANCE_SAME
        for other in others
    )
