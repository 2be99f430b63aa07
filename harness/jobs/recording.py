"""What the record of a job says, done or failed, beside its numbers."""

import os
from collections.abc import Sequence
from dataclasses import MISSING, fields, replace
from typing import cast

import torch

from harness.config.request import JobRequest
from harness.data.sources import origin_note
from harness.evaluation.base import EVALUATIONS
from harness.job import EvaluationProtocol, JobSpec
from harness.jobs.context import JobContext
from harness.jobs.pinning import VISIBLE
from harness.models.loading import LoadedModel
from harness.pruning.allocations.base import ALLOCATIONS, UNIFORM
from harness.pruning.context import PruningOutcome
from harness.pruning.layer_reports import achieved_sparsity
from harness.pruning.methods.base import METHODS
from harness.record import SCHEMA_VERSION, Defaults, EvalResult, JobFields, JsonValue, Provenance, RunRecord
from harness.recovery.base import RECOVERIES
from harness.tracking.provenance import collect, peak_memory, reset_peak_memory


def achieved(pruned: PruningOutcome, unpruned: int) -> float:
    """What the pattern's `sparsity` is a fraction of, counted; 0 of the dense model."""
    if pruned.share_gone is not None:
        return pruned.share_gone
    return achieved_sparsity(pruned.layers, unpruned) if pruned.layers else 0.0


def plugin_notes(spec: JobSpec) -> list[str]:
    """Which choices, kinds of evaluation, corpora and tasks of the job are of plug-ins, and of which."""
    notes: list[str | None] = []
    names = [protocol.name for protocol in spec.evaluation]
    if (pruning := spec.pruning) is not None:
        chosen = ((METHODS, pruning.method), (ALLOCATIONS, pruning.allocation), (RECOVERIES, pruning.recovery))
        notes += [table.origin_note(choice.name) for table, choice in chosen]
        names = [each.corpus for each in (pruning.calibration, pruning.training) if each is not None] + names
    notes += [EVALUATIONS.origin_note(protocol.kind) for protocol in spec.evaluation]
    notes += map(origin_note, names)
    return list(dict.fromkeys(note for note in notes if note is not None))


def failed_record(request: JobRequest, error: str) -> RunRecord:
    """The record of a job that ended with the traceback `error`."""
    spec = request.spec
    return RunRecord(
        schema_version=SCHEMA_VERSION,
        job_id=spec.job_id,
        job=cast("JobFields", spec.identity()),
        defaults=defaults(request),
        status="failed",
        results=(),
        layers=(),
        achieved_sparsity=None,
        weights_fingerprint=None,
        timings_s={},
        peak_memory_bytes={"cpu": peak_memory()},
        provenance=collect(request.options.device, spec.model.dtype, request.command, None),
        notes=(),
        error=error,
    )


def defaults(request: JobRequest) -> Defaults:
    """What the record is to be judged by, as the code has it now."""
    pruning = request.spec.pruning
    method = METHODS.get(request.spec.method)
    allocation = ALLOCATIONS.get(pruning.allocation.name if pruning else UNIFORM)
    of_method, of_allocation = (
        {field.name: field.default for field in fields(entry) if field.default is not MISSING}
        for entry in (method, allocation)
    )
    return Defaults(request.paper_name, of_method, of_allocation, method.propagation, method.has_published_numbers)


def in_order(protocols: Sequence[EvaluationProtocol], results: Sequence[EvalResult]) -> tuple[EvalResult, ...]:
    """Results in the order asked for; those of earlier runs that were not asked for this time come last."""
    order = [protocol.key for protocol in protocols]
    rank = {key: place for place, key in enumerate(order)}
    return tuple(sorted(results, key=lambda result: rank.get(result.protocol, len(order))))


def reset_peaks(device: torch.device) -> None:
    """Forget the peak memory of earlier jobs; CUDA has no statistics of a device before it is initialised."""
    reset_peak_memory()
    if device.type == "cuda":
        torch.cuda.init()
        torch.cuda.reset_peak_memory_stats(device)


def peaks(device: torch.device) -> dict[str, int]:
    """Bytes at the peak, by what memory it is of."""
    peak = {"cpu": peak_memory()}
    if device.type == "cuda":
        peak["accelerator"] = torch.cuda.max_memory_allocated(device)
    return peak


def provenance(job: JobContext, loaded: LoadedModel) -> Provenance:
    """Of a job that ran: with what, where, and where its blocks were."""
    device, dtype = job.device, str(loaded.model.dtype).removeprefix("torch.")
    accelerator: dict[str, JsonValue] | None = None
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        accelerator = {
            "name": properties.name,
            "memory_bytes": properties.total_memory,
            VISIBLE: os.environ.get(VISIBLE),
        }
    found = collect(str(device), dtype, job.request.command, accelerator)
    return replace(found, placement=job.placement.facts)
