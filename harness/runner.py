"""One job from request to record: load, calibrate, prune, evaluate."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import cast

import numpy as np
import torch
from torch import Tensor

from harness.data.corpora import calibration_sequences, load_tokens
from harness.data.texts import load_documents
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
from harness.models.shelf import ModelShelf
from harness.progress import Reporter
from harness.pruning.allocation import allocate
from harness.pruning.engine import (
    Walk,
    achieved_sparsity,
    check_patterns,
    prune_model,
    unreached_note,
    weights_fingerprint,
)
from harness.pruning.methods.base import LayerwiseMethod
from harness.pruning.registry import build_method
from harness.record import SCHEMA_VERSION, EvalResult, JsonValue, LayerReport, Provenance, RunRecord
from harness.request import JobRequest
from harness.tracking.provenance import collect, peak_memory

PROCESS_SHELF = ModelShelf()
"""Of the jobs that one process runs after another."""


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
) -> RunRecord:
    """Run a job and return its record; of a `previous` record only what is missing is measured.

    Args:
        shelf: where the model is kept for the next job of the process; None = it is loaded and dropped.

    Raises:
        UserError: the request cannot be met; nothing was written.
    """
    spec, options = request.spec, request.options
    clock = Clock()
    torch.manual_seed(spec.seed)
    device = resolve_device(options.device)
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
        yield shelf.take(request.checkpoint, request.spec.model.checkpoint, dtype)
        return
    shelf.clear()
    # Blocks that will be saved are written beside the folder that they will be moved to.
    scratch = options.results_dir / "scratch" if options.save_model is None else options.save_model.absolute().parent
    with load_from_disk(request.checkpoint, dtype, scratch) as loaded:
        yield loaded


def _run_loaded(
    request: JobRequest, previous: RunRecord | None, reporter: Reporter, loaded: LoadedModel, clock: Clock
) -> RunRecord:
    spec, options = request.spec, request.options
    device = resolve_device(options.device)
    notes = []
    with clock("load"):
        measured = () if previous is None else previous.results
        missing = request.missing({result.protocol for result in measured})
        check_tokenizer(request, loaded)
        token_windows = prepare_windows(request, loaded, spec.evaluation if previous is None else missing)
    layers: tuple[LayerReport, ...] = ()
    if spec.pattern is not None:
        note = unreached_note(loaded.model)
        if note:
            notes.append(note)
            reporter.note(note)
        layers = _prune(request, loaded, device, clock, reporter)
    with clock("evaluate"):
        if options.offload == "none":
            loaded.model.to(device)  # type: ignore[arg-type]  # transformers annotates `to` with another signature
        fingerprint = weights_fingerprint(loaded.model, loaded.residency)
        if previous is not None and previous.weights_fingerprint != fingerprint:
            notes.append("the weights came out otherwise than before on this machine: everything was measured again")
            reporter.note(notes[-1])
            measured, missing = (), list(spec.evaluation)
            token_windows = prepare_windows(request, loaded, spec.evaluation)
        results = evaluate(request, loaded, missing, token_windows, device, reporter)
    if options.save_model is not None:
        with clock("save"):
            save_model(loaded, options.save_model)
    clock.add("total", clock.total)
    return RunRecord(
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
) -> tuple[LayerReport, ...]:
    spec = request.spec
    assert spec.pattern is not None, "a job that prunes has a pattern"
    assert spec.calibration is not None, "a job that prunes has calibration"
    method = build_method(spec.method)
    assert isinstance(method, LayerwiseMethod), f"{spec.method.name} takes a pattern, so it prunes layers"
    shapes = prunable_shapes(loaded.model)
    patterns = allocate(spec.allocation, spec.pattern, shapes)
    check_patterns(patterns, shapes)
    with clock("calibrate"):
        key = (spec.calibration, request.calibration, spec.seed)
        tokens_BL = loaded.keep(key, lambda: _calibration_tokens(request, loaded))
    walk = Walk(patterns, spec.calibration.propagation, device, request.options.batch_tokens)
    outcome = prune_model(loaded.model, method, tokens_BL, walk, reporter, loaded.residency)
    clock.add("calibrate", outcome.calibrate_s)
    clock.add("prune", outcome.prune_s)
    return tuple(outcome.layers)


def _calibration_tokens(request: JobRequest, loaded: LoadedModel) -> Tensor:
    calibration, data = request.spec.calibration, request.calibration
    assert calibration is not None, "a job that prunes has calibration"
    assert data is not None, "calibration has data"
    check_length("calibration.seq_len", calibration.seq_len, loaded)
    if calibration.sampling == "given":
        ids = load_tokens(data.path, loaded.vocab_size)[: calibration.num_sequences, : calibration.seq_len]
    else:
        ids = calibration_sequences(
            load_documents(data),
            loaded.tokenizer,
            num_sequences=calibration.num_sequences,
            seq_len=calibration.seq_len,
            seed=request.spec.seed,
            sampling=calibration.sampling,
        )
    return torch.from_numpy(np.ascontiguousarray(ids))


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
