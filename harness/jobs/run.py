"""One job from request to record: load, calibrate, prune, evaluate."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import cast

import torch
from accelerate.utils.memory import should_reduce_batch_size  # type: ignore[import-untyped]

from harness.answers import TaskAnswers
from harness.blocks.changes import ModelChange
from harness.blocks.layers import matrices, prunable_shapes
from harness.config.request import JobRequest
from harness.data.sources import origin_note, sample_note
from harness.errors import UserError
from harness.evaluation.base import EVALUATIONS
from harness.job import EvaluationProtocol, JobSpec
from harness.jobs.calibrate import kept_calibration
from harness.jobs.evaluate import check_tokenizer, evaluate, prepare
from harness.jobs.pinning import VISIBLE
from harness.jobs.placement import Placement, out_of_memory, placed
from harness.jobs.preflight import warnings
from harness.jobs.prune import prune
from harness.jobs.workplace import MODEL, mark
from harness.models.devices import resolve_device, resolve_dtype
from harness.models.loading import LoadedModel, load_from_disk
from harness.models.model_cache import ModelCache
from harness.models.saving import save_model
from harness.progress import Clock, Reporter
from harness.pruning.allocations.base import ALLOCATIONS, UNIFORM
from harness.pruning.context import PruningOutcome
from harness.pruning.fingerprints import weights_fingerprint
from harness.pruning.layer_reports import achieved_sparsity, unpruned_note
from harness.pruning.methods.base import METHODS
from harness.record import SCHEMA_VERSION, Defaults, EvalResult, JobFields, JsonValue, Provenance, RunRecord
from harness.recovery.base import RECOVERIES, RecoveryContext
from harness.recovery.sparsity import recomputed_sparsity
from harness.tracking.provenance import collect, peak_memory, reset_peak_memory

PROCESS_CACHE = ModelCache()
"""Of the jobs that one process runs after another."""


def run_job(
    request: JobRequest, previous: RunRecord | None, reporter: Reporter, place: Path, cache: ModelCache | None = None
) -> tuple[RunRecord, list[TaskAnswers]]:
    """Run a job: its record, and what this run answered to each question of the zero-shot tasks.

    Of a `previous` record only what is missing is measured.

    Args:
        place: empty folder for what lies on disk while the job runs, and for its pruned model.
        cache: where the model is kept for the next job of the process; None = it is loaded and dropped.

    Raises:
        UserError: the request cannot be met; nothing was written.
    """
    device = resolve_device(request.options.device)
    _reset_peaks(device)
    request, placement = placed(request, device)
    cache = cache or ModelCache()
    try:
        record, answers = _run_placed(request, placement, previous, reporter, place, cache)
    except (RuntimeError, MemoryError) as error:
        if not (isinstance(error, MemoryError | torch.OutOfMemoryError) or should_reduce_batch_size(error)):
            raise
    else:
        return replace(record, provenance=replace(record.provenance, placement=placement.facts)), answers
    cache.clear()  # here the error is gone, and with it all that its traceback held
    raise out_of_memory(request, device)


def _run_placed(
    request: JobRequest,
    placement: Placement,
    previous: RunRecord | None,
    reporter: Reporter,
    place: Path,
    cache: ModelCache,
) -> tuple[RunRecord, list[TaskAnswers]]:
    spec, clock = request.spec, Clock()
    torch.manual_seed(spec.pruning.seed if spec.pruning else 0)
    reporter.start("load the model", 1)
    if placement.note is not None:
        reporter.note(placement.note)
    with ExitStack() as stack:
        with clock("load"):
            loaded = stack.enter_context(_loaded(request, placement, place, cache))
        record, answers, change = _run_loaded(request, previous, reporter, loaded, place, clock)
    cache.give_back(change)
    return record, answers


@contextmanager
def _loaded(request: JobRequest, placement: Placement, place: Path, cache: ModelCache) -> Iterator[LoadedModel]:
    dtype = resolve_dtype(request.spec.model.dtype, resolve_device(request.options.device))
    notes = () if placement.note is None else (placement.note,)
    if request.options.offload != "disk":
        taken = cache.take(request.checkpoint, request.spec.model.checkpoint, dtype)
        yield replace(taken, reserved=placement.reserved, notes=taken.notes + notes)
        return
    cache.clear()
    with load_from_disk(request.checkpoint, dtype, place, placement.reserved) as loaded:
        yield replace(loaded, notes=loaded.notes + notes)


def _run_loaded(
    request: JobRequest,
    previous: RunRecord | None,
    reporter: Reporter,
    loaded: LoadedModel,
    place: Path,
    clock: Clock,
) -> tuple[RunRecord, list[TaskAnswers], ModelChange]:
    spec, options = request.spec, request.options
    device = resolve_device(options.device)
    notes = [*loaded.notes, *_plugin_notes(spec)]
    with clock("load"):
        measured = () if previous is None else previous.results
        missing = request.missing({result.protocol for result in measured})
        check_tokenizer(request, loaded)
        prepared = prepare(request, loaded, missing)
    pruned, dense_weights = PruningOutcome(), sum(weight.numel() for _, weight in matrices(loaded.blocks))
    if spec.pruning is not None:
        pruned = _prune_and_recover(request, loaded, device, place, clock, reporter)
        notes += pruned.notes
    layers = tuple(pruned.layers)
    unpruned = dense_weights - sum(math.prod(report.shape) for report in layers)
    with clock("evaluate"):
        fingerprint = weights_fingerprint(loaded.model, loaded.offloading)  # of weights on the CPU, where they can be
        if options.offload == "none":
            loaded.model.to(device)  # type: ignore[arg-type]  # transformers annotates `to` with another signature
        if previous is not None and previous.weights_fingerprint != fingerprint:
            _check_none_lost(request, measured)
            notes.append("the weights came out otherwise than before on this machine: everything was measured again")
            reporter.note(notes[-1])
            measured, missing = (), list(spec.evaluation)
            prepared = prepare(request, loaded, spec.evaluation)
        results, answers = evaluate(request, loaded, missing, prepared, device, reporter)
    if options.save_model is not None:
        with clock("save"):
            save_model(loaded, place / MODEL)
            mark(place / MODEL, spec.job_id, fingerprint)
    clock.add("total", clock.total)
    provenance = _provenance(request, loaded, device)
    kept_dirty = previous is not None and bool(measured) and previous.provenance.dirty  # some numbers are its
    record = RunRecord(
        schema_version=SCHEMA_VERSION,
        job_id=spec.job_id,
        job=cast("JobFields", spec.identity()),
        defaults=_defaults(request),
        status="done",
        results=_in_order(spec.evaluation, [*measured, *results]),
        layers=layers,
        achieved_sparsity=_achieved(pruned, unpruned),
        weights_fingerprint=fingerprint,
        timings_s={phase: round(seconds, 4) for phase, seconds in clock.seconds.items()},
        peak_memory_bytes=_peak_memory(device),
        provenance=replace(provenance, dirty=provenance.dirty or kept_dirty),
        notes=tuple(notes),
        error=None,
        unreached_weights=unpruned if layers else None,
    )
    return record, answers, pruned.change


def _prune_and_recover(
    request: JobRequest, loaded: LoadedModel, device: torch.device, place: Path, clock: Clock, reporter: Reporter
) -> PruningOutcome:
    """What became of the model, with reports of the layers as they are after the recovery."""
    said = unpruned_note(loaded.model)
    assert request.calibration is not None, "calibration has data"
    notes = [note for note in (said, sample_note(request.calibration)) if note is not None]
    notes += warnings(request.pruning, prunable_shapes(loaded.model), device)
    for note in notes:
        reporter.note(note)
    recovery = RECOVERIES.build(request.pruning.recovery)
    with ExitStack() as stack:
        teacher = stack.enter_context(_teacher(request, device, place)) if recovery.needs_teacher else None
        outcome = PruningOutcome(notes=tuple(notes)).then(prune(request, loaded, device, clock, reporter))
        if not recovery.changes_model:
            return outcome
        rows_BL = kept_calibration(request, loaded)
        context = RecoveryContext(
            loaded.model, rows_BL, request.pruning.seed, device, reporter, request.options.batch_tokens, teacher
        )
        with clock("recover"):
            recovered = recovery.recover(context)
    outcome = outcome.then(PruningOutcome(change=recovered.change, notes=(recovered.note,)))
    return replace(outcome, layers=recomputed_sparsity(outcome.layers, loaded.model, outcome.change))


def _teacher(request: JobRequest, device: torch.device, place: Path) -> AbstractContextManager[LoadedModel]:
    """The dense model of the job, a block at a time from its checkpoint: there is one copy of the weights in memory."""
    dtype = resolve_dtype(request.spec.model.dtype, device)
    return load_from_disk(request.checkpoint, dtype, place)


def _achieved(pruned: PruningOutcome, unpruned: int) -> float:
    """What the pattern's `sparsity` is a fraction of, counted; 0 of the dense model."""
    if pruned.share_gone is not None:
        return pruned.share_gone
    return achieved_sparsity(pruned.layers, unpruned) if pruned.layers else 0.0


def _plugin_notes(spec: JobSpec) -> list[str]:
    """Which choices, kinds of evaluation, corpora and tasks of the job are of plug-ins, and of which."""
    notes: list[str | None] = []
    names = [protocol.name for protocol in spec.evaluation]
    if (pruning := spec.pruning) is not None:
        chosen = ((METHODS, pruning.method), (ALLOCATIONS, pruning.allocation), (RECOVERIES, pruning.recovery))
        notes += [table.origin_note(choice.name) for table, choice in chosen]
        names.insert(0, pruning.calibration.corpus)
    notes += [EVALUATIONS.origin_note(protocol.kind) for protocol in spec.evaluation]
    notes += map(origin_note, names)
    return list(dict.fromkeys(note for note in notes if note is not None))


def _check_none_lost(request: JobRequest, measured: Sequence[EvalResult]) -> None:
    """Numbers of other weights cannot stay in the record; those that are not asked for now would be gone."""
    lost = {result.protocol for result in measured} - {protocol.key for protocol in request.spec.evaluation}
    if lost:
        raise UserError(
            f"{request.spec.job_id}: the weights came out otherwise than in its record, which would lose "
            f"{', '.join(sorted(lost))}; ask for these too, or give another results_dir, or force=true"
        )


def failed_record(request: JobRequest, error: str) -> RunRecord:
    """The record of a job that ended with the traceback `error`."""
    spec = request.spec
    return RunRecord(
        schema_version=SCHEMA_VERSION,
        job_id=spec.job_id,
        job=cast("JobFields", spec.identity()),
        defaults=_defaults(request),
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


def _defaults(request: JobRequest) -> Defaults:
    """What the record is to be judged by, as the code has it now."""
    pruning = request.spec.pruning
    method = METHODS.get(request.spec.method)
    allocation = ALLOCATIONS.get(pruning.allocation.name if pruning else UNIFORM)
    of_method, of_allocation = (
        {field.name: field.default for field in fields(entry) if field.default is not MISSING}
        for entry in (method, allocation)
    )
    return Defaults(request.paper_name, of_method, of_allocation, method.propagation, method.has_published_numbers)


def _in_order(protocols: Sequence[EvaluationProtocol], results: Sequence[EvalResult]) -> tuple[EvalResult, ...]:
    """Results in the order asked for; those of earlier runs that were not asked for this time come last."""
    order = [protocol.key for protocol in protocols]
    rank = {key: place for place, key in enumerate(order)}
    return tuple(sorted(results, key=lambda result: rank.get(result.protocol, len(order))))


def _reset_peaks(device: torch.device) -> None:
    """Forget the peak memory of earlier jobs; CUDA has no statistics of a device before it is initialised."""
    reset_peak_memory()
    if device.type == "cuda":
        torch.cuda.init()
        torch.cuda.reset_peak_memory_stats(device)


def _peak_memory(device: torch.device) -> dict[str, int]:
    peak = {"cpu": peak_memory()}
    if device.type == "cuda":
        peak["accelerator"] = torch.cuda.max_memory_allocated(device)
    return peak


def _provenance(request: JobRequest, loaded: LoadedModel, device: torch.device) -> Provenance:
    dtype = str(loaded.model.dtype).removeprefix("torch.")
    accelerator: dict[str, JsonValue] | None = None
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        accelerator = {
            "name": properties.name,
            "memory_bytes": properties.total_memory,
            VISIBLE: os.environ.get(VISIBLE),
        }
    return collect(str(device), dtype, request.command, accelerator)
