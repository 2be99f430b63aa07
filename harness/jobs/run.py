"""One job from request to record: load, calibrate, prune, recover, evaluate, save."""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from accelerate.utils.memory import should_reduce_batch_size  # type: ignore[import-untyped]

from harness.answers import TaskAnswers
from harness.blocks.changes import ModelChange
from harness.blocks.layers import matrices, prunable_shapes
from harness.config.request import JobRequest
from harness.data.sources import sample_note
from harness.errors import UserError
from harness.evaluation.base import EVALUATIONS
from harness.jobs.calibrate import kept_tokens, training_draw
from harness.jobs.context import JobContext
from harness.jobs.evaluate import check_tokenizer, evaluate, prepare
from harness.jobs.placement import out_of_memory, placed
from harness.jobs.preflight import warnings
from harness.jobs.prune import prune
from harness.jobs.recording import achieved, defaults, in_order, peaks, plugin_notes, provenance, reset_peaks
from harness.jobs.workplace import MODEL, mark, training_state
from harness.models.devices import resolve_device
from harness.models.loading import LoadedModel, load_from_disk
from harness.models.model_cache import ModelCache
from harness.models.saving import check_savable, save_model
from harness.progress import Reporter
from harness.pruning.context import PruningOutcome
from harness.pruning.fingerprints import weights_fingerprint
from harness.pruning.layer_reports import unpruned_note
from harness.record import SCHEMA_VERSION, EvalResult, JobFields, RunRecord
from harness.recovery.base import RECOVERIES, RecoveryContext
from harness.recovery.sparsity import recomputed_sparsity

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
    reset_peaks(device)
    reporter.start("load the model", 1)  # which is downloaded first, to choose where its blocks are
    request, placement = placed(request, device)
    job, cache = JobContext(request, placement, device, place, reporter), cache or ModelCache()
    try:
        return _run(job, previous, cache)
    except (RuntimeError, MemoryError) as error:
        if not (isinstance(error, MemoryError | torch.OutOfMemoryError) or should_reduce_batch_size(error)):
            raise
    cache.clear()  # here the error is gone, and with it all that its traceback held
    raise out_of_memory(request, device)


def _run(job: JobContext, previous: RunRecord | None, cache: ModelCache) -> tuple[RunRecord, list[TaskAnswers]]:
    pruning = job.request.spec.pruning
    torch.manual_seed(pruning.seed if pruning else 0)
    if job.placement.note is not None:
        job.reporter.note(job.placement.note)
    with ExitStack() as stack:
        with job.clock("load"):
            loaded = stack.enter_context(_loaded(job, cache))
            dense = stack.enter_context(_dense(job, loaded))
        record, answers, change = _run_loaded(job, loaded, dense, previous)
    cache.give_back(change)
    return record, answers


@contextmanager
def _loaded(job: JobContext, cache: ModelCache) -> Iterator[LoadedModel]:
    request, reserved = job.request, job.placement.reserved
    notes = () if job.placement.note is None else (job.placement.note,)
    if request.options.offload != "disk":
        taken = cache.take(request.checkpoint, request.spec.model.checkpoint, job.dtype)
        yield replace(taken, reserved=reserved, notes=taken.notes + notes)
        return
    cache.clear()
    with load_from_disk(request.checkpoint, job.dtype, job.place, reserved) as loaded:
        yield replace(loaded, notes=loaded.notes + notes)


def _dense(job: JobContext, loaded: LoadedModel) -> AbstractContextManager[LoadedModel | None]:
    """The dense model, where the recovery or an evaluation looks at it; opened before hours are spent.

    Of a job that prunes it comes a block at a time from its checkpoint: there is one copy of the weights in memory.
    """
    pruning = job.request.spec.pruning
    if pruning is None:
        return nullcontext(loaded)
    asked = RECOVERIES.build(pruning.recovery).needs_teacher
    asked = asked or any(EVALUATIONS.get(protocol.kind).needs_dense for protocol in job.request.spec.evaluation)
    return load_from_disk(job.request.checkpoint, job.dtype, job.place) if asked else nullcontext()


def _run_loaded(
    job: JobContext, loaded: LoadedModel, dense: LoadedModel | None, previous: RunRecord | None
) -> tuple[RunRecord, list[TaskAnswers], ModelChange]:
    spec, options, clock = job.request.spec, job.request.options, job.clock
    notes = [*loaded.notes, *plugin_notes(spec)]
    with clock("load"):
        measured = () if previous is None else previous.results
        missing = job.request.missing({result.protocol for result in measured})
        check_tokenizer(job.request, loaded)
        if options.save_model is not None:
            check_savable(loaded.model)
        prepared = prepare(job.request, loaded, missing)
    dense_weights = sum(weight.numel() for _, weight in matrices(loaded.blocks))
    pruned = PruningOutcome() if spec.pruning is None else _prune_and_recover(job, loaded, dense)
    notes += pruned.notes
    layers = tuple(pruned.layers)
    unpruned = dense_weights - sum(math.prod(report.shape) for report in layers)
    with clock("evaluate"):
        fingerprint = weights_fingerprint(loaded.model, loaded.offloading)  # of weights on the CPU, where they can be
        if options.offload == "none":
            loaded.model.to(job.device)  # type: ignore[arg-type]  # transformers annotates `to` with another signature
        if previous is not None and previous.weights_fingerprint != fingerprint:
            _check_none_lost(job.request, measured)
            notes.append(
                job.note("the weights came out otherwise than before on this machine: everything was measured again")
            )
            measured, missing = (), list(spec.evaluation)
            prepared = prepare(job.request, loaded, spec.evaluation)
        results, answers = evaluate(job, loaded, dense, missing, prepared)
    if options.save_model is not None:
        with clock("save"):
            save_model(loaded, job.place / MODEL)
            mark(job.place / MODEL, spec.job_id, fingerprint)
    clock.add("total", clock.total)
    made = provenance(job, loaded)
    kept_dirty = previous is not None and bool(measured) and previous.provenance.dirty  # some numbers are its
    record = RunRecord(
        schema_version=SCHEMA_VERSION,
        job_id=spec.job_id,
        job=cast("JobFields", spec.identity()),
        defaults=defaults(job.request),
        status="done",
        results=in_order(spec.evaluation, [*measured, *results]),
        layers=layers,
        achieved_sparsity=achieved(pruned, unpruned),
        weights_fingerprint=fingerprint,
        timings_s={phase: round(seconds, 4) for phase, seconds in clock.seconds.items()},
        peak_memory_bytes=peaks(job.device),
        provenance=replace(made, dirty=made.dirty or kept_dirty),
        notes=tuple(notes),
        error=None,
        unreached_weights=unpruned if layers else None,
    )
    return record, answers, pruned.change


def _prune_and_recover(job: JobContext, loaded: LoadedModel, dense: LoadedModel | None) -> PruningOutcome:
    """What became of the model, with reports of the layers as they are after the recovery."""
    request = job.request
    said = (unpruned_note(loaded.model), *map(sample_note, request.sequences))
    notes = [note for note in said if note is not None]
    notes += warnings(request.pruning, prunable_shapes(loaded.model), job.device)
    outcome = PruningOutcome(notes=tuple(map(job.note, notes)))
    recovery = RECOVERIES.build(request.pruning.recovery)
    if not recovery.changes_model:
        return outcome.then(prune(job, loaded))
    with job.clock("calibrate"):  # before the pruning: what cannot be had costs nothing
        rows_BL = kept_tokens(training_draw(request), loaded, job)
    outcome = outcome.then(prune(job, loaded))
    training = request.pruning.training
    context = RecoveryContext(
        loaded.model,
        rows_BL,
        request.pruning.seed,
        job.device,
        job.reporter,
        request.options.batch_tokens,
        dense if recovery.needs_teacher else None,
        None if training is None else training.tokens,
        training_state(job.place),
    )
    with job.clock("recover"):
        recovered = recovery.recover(context)
    outcome = outcome.then(PruningOutcome(change=recovered.change, notes=(recovered.note,)))
    return replace(outcome, layers=recomputed_sparsity(outcome.layers, loaded.model, outcome.change))


def _check_none_lost(request: JobRequest, measured: Sequence[EvalResult]) -> None:
    """Numbers of other weights cannot stay in the record; those that are not asked for now would be gone."""
    lost = {result.protocol for result in measured} - {protocol.key for protocol in request.spec.evaluation}
    if lost:
        raise UserError(
            f"{request.spec.job_id}: the weights came out otherwise than in its record, which would lose "
            f"{', '.join(sorted(lost))}; ask for these too, or give another results_dir, or force=true"
        )
