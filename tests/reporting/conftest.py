"""Records as the runner would write them, made without a model."""

import io
from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
from rich.console import Console, RenderableType

from harness import record_v1
from harness.evaluation.kinds.perplexity import PerplexityProtocol
from harness.evaluation.kinds.zero_shot import ZeroShotProtocol
from harness.job import (
    CalibrationSpec,
    Choice,
    JobSpec,
    ModelSpec,
    PruningSpec,
    TrainingSpec,
)
from harness.patterns import Pattern, Unstructured
from harness.record import SCHEMA_VERSION, Defaults, EvalResult, JsonValue, LayerReport, Provenance, RunRecord
from harness.reporting.published import Published, load

C4 = CalibrationSpec("c4", "c4-shard-0", 128, 2048, "documents", "pruned")


@pytest.fixture
def perplexity() -> Callable[..., EvalResult]:
    """A factory of perplexity results."""
    return make_perplexity


@pytest.fixture
def accuracy() -> Callable[..., EvalResult]:
    """A factory of accuracies."""
    return make_accuracy


def make_perplexity(
    value: float | None, corpus: str = "wikitext2", seq_len: int = 2048, **options: object
) -> EvalResult:
    """A perplexity result under the key that the protocol itself makes."""
    protocol = PerplexityProtocol(corpus, options.pop("data", None), seq_len, **options)  # type: ignore[arg-type]
    subset = f"first {protocol.max_windows} of 334 windows" if protocol.max_windows else None
    return EvalResult(
        protocol.key, "perplexity", corpus, "perplexity", value, None, 166, False, subset, "folder/wt2", "aa"
    )


def make_accuracy(value: float, task: str = "boolq", metric: str = "acc", limit: int | None = None) -> EvalResult:
    """An accuracy result, as a fraction."""
    protocol = ZeroShotProtocol(task, "2.0", None, limit)
    subset = f"first {limit} of 3270 questions" if limit else None
    return EvalResult(protocol.key, "zero_shot", task, metric, value, 0.01, 3270, True, subset, "folder/boolq", "bb")


@pytest.fixture(scope="session")
def published() -> Published:
    """The published numbers of the checkout."""
    return load()


@pytest.fixture
def record() -> Callable[..., RunRecord]:
    """A factory of records."""
    return make_record


def make_record(
    method: str = "wanda",
    pattern: Pattern | None = Unstructured(0.5),  # noqa: B008  (frozen)
    results: tuple[EvalResult, ...] = (),
    model: str = "opt-125m",
    params: dict[str, float] | None = None,
    calibration: CalibrationSpec | None = C4,
    allocation: str = "uniform",
    recovery: str = "none",
    seed: int = 0,
    dirty: bool = False,
    error: str | None = None,
    achieved: float | None = None,
    dtype: str = "auto",
    layers: tuple[LayerReport, ...] = (),
    training: TrainingSpec | None = None,
) -> RunRecord:
    """A record; what is not given is a plain Wanda job on OPT-125M."""
    dense = method == "dense" or pattern is None
    pruning = PruningSpec(
        Choice(method, params or {}), pattern, Choice(allocation), calibration, Choice(recovery), seed, training
    )
    spec = JobSpec(
        model=ModelSpec(model, f"hub:facebook/{model}@abc", dtype),  # type: ignore[arg-type]
        pruning=None if dense else pruning,
        evaluation=(),
    )
    return RunRecord(
        schema_version=SCHEMA_VERSION,
        job_id=spec.job_id,
        job=spec.identity(),  # type: ignore[arg-type]
        defaults=Defaults(**record_v1.defaults(spec.identity())),
        status="failed" if error else "done",
        results=results,
        layers=layers,
        achieved_sparsity=spec.requested_sparsity if achieved is None else achieved,
        weights_fingerprint=None,
        timings_s={"load": 1.0, "prune": 2.0, "total": 3.0},
        peak_memory_bytes={"cpu": 2**30},
        provenance=PROVENANCE if not dirty else replace(PROVENANCE, dirty=True),
        notes=(),
        error=error,
    )


def measured_often(jobs: int = 12, tasks: int = 18) -> list[RunRecord]:
    """Pruned jobs with a perplexity and many accuracies, each task slower and less like the perplexity than the last.

    Half of the jobs are no language models any more; every third lacks the fourth task.
    """
    chance, records = Random(0), []
    for number in range(jobs):
        loss = number / jobs
        results = [replace(make_perplexity(20 * 1000**loss), details={"seconds": 30.0})]
        for task in range(tasks):
            if task != 3 or number % 3:
                accuracy = 0.9 - 0.5 * loss + 0.01 * task * chance.uniform(-1, 1)
                timed: dict[str, JsonValue] = {"seconds_of_all_tasks": 20.0 * task + 10, "scored_together": ["a", "b"]}
                results.append(replace(make_accuracy(accuracy, f"task{task}"), details=timed))
        records.append(make_record("wanda", Unstructured(0.2 + 0.03 * number), tuple(results)))
    return records


def printed(content: RenderableType, width: int) -> str:
    """What a console of this width without colours would print, without trailing blanks."""
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None, force_terminal=False, legacy_windows=False).print(content)
    return "\n".join(line.rstrip() for line in stream.getvalue().split("\n"))


def contrast(one: str, other: str) -> float:
    """Ratio of relative luminances, WCAG 2.1."""

    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


PROVENANCE = Provenance(
    created="2026-01-02T03:04:05+00:00",
    prunebench_version="0.1.0",
    commit="abc123",
    dirty=False,
    packages={"torch": "2.13.0"},
    python="3.11.2",
    platform="Linux x86_64",
    hardware={"cpu": "a processor", "cores": 2},
    device="cpu",
    dtype="float32",
    command=("method=wanda",),
)
