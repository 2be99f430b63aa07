"""Measuring a loaded model: what a job's evaluation protocols ask for, as results for its record."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from harness.data.catalogue import DataRef
from harness.data.corpora import evaluation_ids, load_tokens, windows
from harness.data.texts import evaluation_text, text_identity
from harness.errors import UserError
from harness.evaluation.perplexity import perplexity, perplexity_by_blocks
from harness.evaluation.zero_shot import evaluate_zero_shot
from harness.job import EvaluationProtocol, PerplexityProtocol, ZeroShotProtocol
from harness.models.loading import LoadedModel
from harness.progress import Reporter
from harness.record import EvalResult
from harness.request import JobRequest


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


def prepare_windows(
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
    check_length("evaluation.seq_len", protocol.seq_len, loaded)
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


def evaluate(
    request: JobRequest,
    loaded: LoadedModel,
    protocols: Sequence[EvaluationProtocol],
    token_windows: Mapping[str, Windows],
    device: torch.device,
    reporter: Reporter,
) -> list[EvalResult]:
    """Measure `protocols` on the model as it is now, on `device`; `token_windows` are those of `prepare_windows`."""
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


def check_tokenizer(request: JobRequest, loaded: LoadedModel) -> None:
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


def check_length(field: str, seq_len: int, loaded: LoadedModel) -> None:
    """Raise `UserError` when sequences are longer than the model has positions."""
    if loaded.max_length is not None and seq_len > loaded.max_length:
        raise UserError(
            f"{field}={seq_len} is more than the model's {loaded.max_length} positions; allowed: up to that"
        )
