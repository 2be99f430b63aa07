"""One job from request to record: load, calibrate, prune, evaluate."""

import math
import time
from collections.abc import Hashable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from harness.data.corpora import calibration_sequences, load_tokens
from harness.data.digits import DIGITS, TRAINING_ROWS, digit_rows
from harness.data.texts import load_documents
from harness.errors import UserError
from harness.evaluation.accuracy import accuracy
from harness.evaluation.perplexity import perplexity_by_blocks
from harness.job import EvaluationProtocol
from harness.measurement import check_length, check_tokenizer, evaluate, prepare_windows
from harness.models.layers import prunable_shapes
from harness.models.loading import (
    LoadedModel,
    check_save_folder,
    load_from_disk,
    resolve_device,
    resolve_dtype,
    save_model,
)
from harness.models.residency import Residency
from harness.models.shelf import ModelShelf
from harness.outcomes import TaskOutcomes
from harness.progress import Reporter, Silent
from harness.pruning.allocations.base import UNIFORM
from harness.pruning.engine import (
    PruningOutcome,
    Walk,
    achieved_sparsity,
    check_patterns,
    prune_model,
    unreached_note,
    weights_fingerprint,
)
from harness.pruning.methods.base import LayerwiseMethod, ModelContext, ModelwiseMethod, StructuredMethod
from harness.pruning.modelwise import prune_modelwise
from harness.pruning.ranking import PrunableWeights
from harness.pruning.registry import build_allocation, build_method
from harness.pruning.structured import shrink_model
from harness.pruning.survey import HeldOutLoss, Survey
from harness.record import SCHEMA_VERSION, EvalResult, JsonValue, LayerReport, Provenance, RunRecord
from harness.recovery.recount import recounted
from harness.recovery.registry import build_recovery
from harness.request import JobRequest
from harness.tracking.provenance import collect, peak_memory, reset_peak_memory

HELD_OUT_SEQUENCES = 16
"""Sequences that an allocation may measure trials on, at most."""
PROCESS_SHELF = ModelShelf()
"""Of the jobs that one process runs after another."""


@dataclass(frozen=True, slots=True)
class FinishedJob:
    """The record of a job, and what this run of it answered to each question of the zero-shot tasks."""

    record: RunRecord
    outcomes: tuple[TaskOutcomes, ...]


class Clock:
    """Wall time in seconds by phase."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.add(phase, time.perf_counter() - start)

    def add(self, phase: str, seconds: float) -> None:
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds

    @property
    def total(self) -> float:
        return time.perf_counter() - self.started


def run_job(
    request: JobRequest, previous: RunRecord | None, reporter: Reporter, shelf: ModelShelf | None = None
) -> FinishedJob:
    """Run a job and return its record and its answers; of a `previous` record only what is missing is measured.

    Args:
        shelf: where the model is kept for the next job of the process; None = it is loaded and dropped.

    Raises:
        UserError: the request cannot be met; nothing was written.
    """
    spec, options = request.spec, request.options
    clock = Clock()
    torch.manual_seed(spec.seed)
    device = resolve_device(options.device)
    reset_peak_memory()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    reporter.start("load the model", 1)
    if options.save_model is not None:
        check_save_folder(options.save_model)
    with ExitStack() as stack:
        with clock("load"):
            loaded = stack.enter_context(_loaded(request, device, shelf or ModelShelf()))
        return _run_loaded(request, previous, reporter, loaded, clock)


@contextmanager
def _loaded(request: JobRequest, device: torch.device, shelf: ModelShelf) -> Iterator[LoadedModel]:
    dtype, options = resolve_dtype(request.spec.model.dtype, device), request.options
    if options.offload != "disk":
        try:
            yield shelf.take(request.checkpoint, request.spec.model.checkpoint, dtype)
        finally:
            if build_method(request.spec.method).changes_more:
                shelf.clear()  # it puts back the weights of prunable linears only
        return
    shelf.clear()
    # Blocks that will be saved are written beside the folder that they will be moved to.
    scratch = options.results_dir / "scratch" if options.save_model is None else options.save_model.absolute().parent
    with load_from_disk(request.checkpoint, dtype, scratch) as loaded:
        yield loaded


def _run_loaded(
    request: JobRequest, previous: RunRecord | None, reporter: Reporter, loaded: LoadedModel, clock: Clock
) -> FinishedJob:
    spec, options = request.spec, request.options
    device = resolve_device(options.device)
    notes = [loaded.note] if loaded.note else []
    with clock("load"):
        measured = () if previous is None else previous.results
        missing = request.missing({result.protocol for result in measured})
        check_tokenizer(request, loaded)
        token_windows = prepare_windows(request, loaded, spec.evaluation if previous is None else missing)
    layers: tuple[LayerReport, ...] = ()
    if spec.pattern is not None:
        warning = build_method(spec.method).warning(prunable_shapes(loaded.model), device)
        for note in filter(None, (unreached_note(loaded.model), warning)):
            notes.append(note)
            reporter.note(note)
        pruned = _prune(request, loaded, device, clock, reporter)
        layers = tuple(pruned.layers)
        notes += pruned.notes
        if recovery := build_recovery(spec.recovery):
            with clock("recover"):
                rows_BL = _kept_calibration(request, loaded)
                notes.append(recovery.recover(loaded.model, rows_BL, spec.seed, device, reporter))
            layers = recounted(layers, loaded.model)
    with clock("evaluate"):
        if options.offload == "none":
            loaded.model.to(device)  # type: ignore[arg-type]  # transformers annotates `to` with another signature
        fingerprint = weights_fingerprint(loaded.model, loaded.residency)
        if previous is not None and previous.weights_fingerprint != fingerprint:
            notes.append("the weights came out otherwise than before on this machine: everything was measured again")
            reporter.note(notes[-1])
            measured, missing = (), list(spec.evaluation)
            token_windows = prepare_windows(request, loaded, spec.evaluation)
        results, outcomes = evaluate(request, loaded, missing, token_windows, device, reporter)
    if options.save_model is not None:
        with clock("save"):
            save_model(loaded, options.save_model)
    clock.add("total", clock.total)
    record = RunRecord(
        schema_version=SCHEMA_VERSION,
        job_id=spec.job_id,
        job=cast("Mapping[str, JsonValue]", spec.identity()),
        status="done",
        results=_in_order(spec.evaluation, [*measured, *results]),
        layers=layers,
        achieved_sparsity=achieved_sparsity(layers) if layers else 0.0,
        weights_fingerprint=fingerprint,
        timings_s={phase: round(seconds, 4) for phase, seconds in clock.seconds.items()},
        peak_memory_bytes=_peak_memory(device),
        provenance=_provenance(request, loaded, device),
        notes=tuple(notes),
        error=None,
    )
    return FinishedJob(record, tuple(outcomes))


def failed_record(request: JobRequest, error: str) -> RunRecord:
    """The record of a job that ended with the traceback `error`."""
    spec = request.spec
    return RunRecord(
        schema_version=SCHEMA_VERSION,
        job_id=spec.job_id,
        job=cast("Mapping[str, JsonValue]", spec.identity()),
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


def _prune(
    request: JobRequest, loaded: LoadedModel, device: torch.device, clock: Clock, reporter: Reporter
) -> PruningOutcome:
    spec = request.spec
    assert spec.pattern is not None, "a job that prunes has a pattern"
    assert spec.calibration is not None, "a job that prunes has calibration"
    method = build_method(spec.method)
    allocation = build_allocation(spec.allocation)
    shapes = prunable_shapes(loaded.model)
    check_patterns(dict.fromkeys(shapes, spec.pattern), shapes)
    with clock("calibrate"):
        tokens_BL = _kept_calibration(request, loaded)
    batch_tokens = request.options.batch_tokens
    if isinstance(method, ModelwiseMethod):
        context = ModelContext(device, batch_tokens, spec.seed, reporter)
        outcome = prune_modelwise(loaded.model, method, tokens_BL, spec.pattern, context)
        clock.add("calibrate", outcome.calibrate_s)
        clock.add("prune", outcome.prune_s)
        return outcome
    if isinstance(method, StructuredMethod):
        walk = Walk(dict.fromkeys(shapes, spec.pattern), spec.calibration.propagation, device, batch_tokens)
        outcome = shrink_model(loaded.model, method, tokens_BL, walk, reporter, loaded.residency)
        clock.add("calibrate", outcome.calibrate_s)
        clock.add("prune", outcome.prune_s)
        return outcome
    assert isinstance(method, LayerwiseMethod), f"{spec.method.name} takes a pattern, so it prunes layers or models"
    held_out_loss = _held_out_loss(request, loaded, device)
    survey = Survey(
        loaded.model, method, spec.pattern, tokens_BL, device, batch_tokens, loaded.residency, reporter, held_out_loss
    )
    with clock("prune"):
        patterns = method.spread(PrunableWeights(loaded.model, loaded.residency), spec.pattern)
    start = time.perf_counter()
    if patterns is None:
        patterns = allocation.spread(survey)
    allocate_s = time.perf_counter() - start
    check_patterns(patterns, shapes)
    # Blocks that are not all in memory leave no room for statistics of other jobs.
    drawn = (spec.calibration, request.calibration, spec.seed)
    keep = None if request.options.offload != "none" else lambda key, observe: loaded.keep((*drawn, key), observe)
    findings = _findings(request, loaded, device)
    walk = Walk(patterns, spec.calibration.propagation, device, batch_tokens, allocation, keep, findings)
    outcome = prune_model(loaded.model, method, tokens_BL, walk, reporter, loaded.residency)
    if spec.allocation.name != UNIFORM:
        clock.add("allocate", allocate_s + outcome.allocate_s)
    clock.add("calibrate", outcome.calibrate_s)
    clock.add("prune", outcome.prune_s)
    return outcome


def _findings(
    request: JobRequest, loaded: LoadedModel, device: torch.device
) -> MutableMapping[str, dict[Hashable, Any]] | None:
    """What methods found from the dense model's statistics in earlier jobs; of the last calibration, being large."""
    calibration, options = request.spec.calibration, request.options
    assert calibration is not None, "a job that prunes has calibration"
    if calibration.propagation != "dense" or options.offload != "none":
        return None
    # Batches and the device decide the rounding, and with it the last bits of what is found.
    context = (calibration, request.calibration, request.spec.seed, options.batch_tokens, device)
    kept, found = loaded.keep("findings", lambda: (context, {}))
    if kept != context:
        found = {}
        loaded.kept["findings"] = (context, found)
    return cast("MutableMapping[str, dict[Hashable, Any]]", found)


def _kept_calibration(request: JobRequest, loaded: LoadedModel) -> Tensor:
    """The job's calibration sequences, made once for all jobs of the model that share them."""
    key = (request.spec.calibration, request.calibration, request.spec.seed)
    return loaded.keep(key, lambda: _calibration_tokens(request, loaded))


def _calibration_tokens(request: JobRequest, loaded: LoadedModel, *, more: int = 0) -> Tensor:
    """The job's sequences, and up to `more` that follow them in the array or in the random draw."""
    calibration, data = request.spec.calibration, request.calibration
    assert calibration is not None, "a job that prunes has calibration"
    assert data is not None, "calibration has data"
    check_length("calibration.seq_len", calibration.seq_len, loaded)
    count = calibration.num_sequences + more
    if calibration.corpus == DIGITS:
        ids = digit_rows("calibration")[:count].copy()
    elif calibration.sampling == "given":
        ids = load_tokens(data.path, loaded.vocab_size)[:count, : calibration.seq_len]
    else:
        ids = calibration_sequences(
            load_documents(data),
            loaded.tokenizer,
            num_sequences=count,
            seq_len=calibration.seq_len,
            seed=request.spec.seed,
            sampling=calibration.sampling,
        )
    return torch.from_numpy(np.ascontiguousarray(ids))


def _held_out_loss(request: JobRequest, loaded: LoadedModel, device: torch.device) -> HeldOutLoss:
    """Measures on the sequences that come after the job's own; they are drawn when the first trial is measured."""
    calibration = request.spec.calibration
    assert calibration is not None, "a job that prunes has calibration"
    used, batch_tokens = calibration.num_sequences, request.options.batch_tokens
    is_classifier = request.checkpoint.kind == "image classifier"

    def loss(residency: Residency) -> float:
        key = ("held out", calibration, request.calibration, request.spec.seed)
        more = TRAINING_ROWS if is_classifier else HELD_OUT_SEQUENCES
        tokens_BL = loaded.keep(key, lambda: _calibration_tokens(request, loaded, more=more)[used:])
        if not len(tokens_BL):
            raise UserError(
                f"allocation={request.spec.allocation.name} measures on sequences that calibration leaves over, and "
                f"calibration.num_sequences={used} leaves none; allowed: fewer"
            )
        if is_classifier:
            right = accuracy(loaded.model, residency, tokens_BL, device).value
            return math.inf if right is None else 1.0 - right
        measured = perplexity_by_blocks(
            loaded.model, residency, tokens_BL, batch_tokens=batch_tokens, device=device, reporter=Silent()
        )
        return math.inf if measured.value is None else math.log(measured.value)

    return loss


def _in_order(protocols: Sequence[EvaluationProtocol], results: Sequence[EvalResult]) -> tuple[EvalResult, ...]:
    """Results in the order asked for; those of earlier runs that were not asked for this time come last."""
    order = [protocol.key for protocol in protocols]
    rank = {key: place for place, key in enumerate(order)}
    return tuple(sorted(results, key=lambda result: rank.get(result.protocol, len(order))))


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
        accelerator = {"name": properties.name, "memory_bytes": properties.total_memory}
    return collect(str(device), dtype, request.command, accelerator)
