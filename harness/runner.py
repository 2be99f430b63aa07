"""One job from request to record: load, calibrate, prune, evaluate."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor

from harness.data.catalogue import DataRef
from harness.data.corpora import calibration_sequences, evaluation_ids, load_tokens, windows
from harness.data.texts import evaluation_text, load_documents, text_identity
from harness.errors import UserError
from harness.evaluation.perplexity import perplexity, perplexity_by_blocks
from harness.evaluation.zero_shot import evaluate_zero_shot
from harness.job import EvaluationProtocol, PerplexityProtocol, ZeroShotProtocol
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


@dataclass(frozen=True, slots=True)
class Windows:
    """Token windows of one perplexity protocol.

    Args:
        tokens_NL: [windows, seq_len].
        total: windows that the whole corpus has.
        fingerprint: of the text or array they come from.
        num_unk: unknown tokens among them.
    """

    tokens_NL: Tensor
    total: int
    fingerprint: str
    num_unk: int


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
        _check_tokenizer(request, loaded)
        token_windows = _prepare_windows(request, loaded, spec.evaluation if previous is None else missing)
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
            token_windows = _prepare_windows(request, loaded, spec.evaluation)
        results = _evaluate(request, loaded, missing, token_windows, device, reporter)
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
    _check_length("calibration.seq_len", calibration.seq_len, loaded)
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


def _prepare_windows(
    request: JobRequest, loaded: LoadedModel, protocols: Sequence[EvaluationProtocol]
) -> dict[str, Windows]:
    """Token windows of every perplexity protocol by its key: before pruning, so that bad input costs nothing."""
    return {
        protocol.key: loaded.keep(
            (protocol, request.evaluation[protocol.key]), partial(_windows_of, protocol, request, loaded)
        )
        for protocol in protocols
        if isinstance(protocol, PerplexityProtocol)
    }


def _windows_of(protocol: PerplexityProtocol, request: JobRequest, loaded: LoadedModel) -> Windows:
    _check_length("evaluation.seq_len", protocol.seq_len, loaded)
    data = request.evaluation[protocol.key]
    num_unk, text_len = 0, protocol.seq_len
    if protocol.bos_every_window:
        text_len -= 1
    if protocol.corpus == "tokens":
        ids, fingerprint = load_tokens(data.path, loaded.vocab_size).reshape(-1), data.identity
    else:
        text = evaluation_text(data)
        tokens = evaluation_ids(text, protocol.corpus, loaded.tokenizer, text_len)
        ids, num_unk, fingerprint = tokens.ids, tokens.num_unk, text_identity(text)
    tokens_NL = torch.from_numpy(windows(ids, text_len, protocol.max_windows))
    if protocol.bos_every_window:
        bos = getattr(loaded.tokenizer, "bos_token_id", None)
        if bos is None:
            raise UserError("evaluation.bos_every_window=true needs a tokenizer with a BOS token; allowed: false")
        tokens_NL = torch.cat([torch.full((len(tokens_NL), 1), bos), tokens_NL], dim=1)
    return Windows(tokens_NL, len(ids) // text_len, fingerprint, num_unk)


def _evaluate(
    request: JobRequest,
    loaded: LoadedModel,
    protocols: Sequence[EvaluationProtocol],
    token_windows: Mapping[str, Windows],
    device: torch.device,
    reporter: Reporter,
) -> list[EvalResult]:
    results = []
    tasks = []
    for protocol in protocols:
        if isinstance(protocol, ZeroShotProtocol):
            tasks.append((protocol, request.evaluation[protocol.key]))
        else:
            results.append(
                _measure_perplexity(request, protocol, loaded, token_windows[protocol.key], device, reporter)
            )
    if tasks:
        results += _measure_zero_shot(request, loaded, tasks, reporter)
    return results


def _measure_perplexity(
    request: JobRequest,
    protocol: PerplexityProtocol,
    loaded: LoadedModel,
    prepared: Windows,
    device: torch.device,
    reporter: Reporter,
) -> EvalResult:
    start = time.perf_counter()
    count, windows_NL, batch_tokens = len(prepared.tokens_NL), prepared.tokens_NL, request.options.batch_tokens
    step = f"evaluate: perplexity on {protocol.corpus}"
    if request.options.offload == "none":
        reporter.start(step, count)
        measured = perplexity(loaded.model, windows_NL, batch_tokens=batch_tokens, device=device, reporter=reporter)
    else:
        reporter.start(f"{step}, block by block", loaded.num_blocks)
        measured = perplexity_by_blocks(
            loaded.model, loaded.residency, windows_NL, batch_tokens=batch_tokens, device=device, reporter=reporter
        )
    return EvalResult(
        protocol=protocol.key,
        kind="perplexity",
        task=protocol.corpus,
        metric="perplexity",
        value=measured.value,
        stderr=measured.stderr,
        num_samples=measured.num_windows,
        higher_is_better=False,
        subset=None if count == prepared.total else f"first {count} of {prepared.total} windows",
        data_source=request.evaluation[protocol.key].location,
        data_fingerprint=prepared.fingerprint,
        details={
            "seq_len": protocol.seq_len,
            "predicted_tokens": count * (protocol.seq_len - 1),
            "unk_tokens": prepared.num_unk,
            "seconds": round(time.perf_counter() - start, 4),
        },
    )


def _measure_zero_shot(
    request: JobRequest, loaded: LoadedModel, tasks: Sequence[tuple[ZeroShotProtocol, DataRef]], reporter: Reporter
) -> list[EvalResult]:
    shown = ("", 0)

    def on_progress(task: str, answered: int, total: int) -> None:
        nonlocal shown
        if task != shown[0]:
            shown = (task, 0)
            reporter.start(f"evaluate: {task}", total)
        reporter.advance(answered - shown[1])
        shown = (task, answered)

    start = time.perf_counter()
    results = evaluate_zero_shot(
        loaded.model,
        loaded.tokenizer,
        tasks,
        token_budget=request.options.zero_shot_token_budget,
        kept=loaded.kept,
        on_progress=on_progress,
    )
    seconds = round(time.perf_counter() - start, 4)
    return [replace(result, details={**result.details, "seconds_of_all_tasks": seconds}) for result in results]


def _check_tokenizer(request: JobRequest, loaded: LoadedModel) -> None:
    """A model without a tokenizer takes token arrays only; said before any text is fetched."""
    if loaded.tokenizer is not None:
        return
    spec = request.spec
    texts = (
        [f"calibration={spec.calibration.corpus}"] if spec.calibration and spec.calibration.corpus != "tokens" else []
    )
    for protocol in spec.evaluation:
        name = protocol.task if isinstance(protocol, ZeroShotProtocol) else protocol.corpus
        texts += [f"evaluation of {name}"] if name != "tokens" else []
    if texts:
        raise UserError(f"{texts[0]} needs a tokenizer, and the model has none; allowed: token arrays (tokens)")


def _check_length(field: str, seq_len: int, loaded: LoadedModel) -> None:
    if loaded.max_length is not None and seq_len > loaded.max_length:
        raise UserError(
            f"{field}={seq_len} is more than the model's {loaded.max_length} positions; allowed: up to that"
        )


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
