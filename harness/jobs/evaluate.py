"""Measuring a loaded model: what a job's evaluation protocols ask for, as results for its record."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from harness.answers import TaskAnswers
from harness.config.request import JobRequest
from harness.data.catalogue import DataRef
from harness.data.corpora import evaluation_ids, load_tokens, windows
from harness.data.digits import DIGITS, digit_rows
from harness.data.questions import load_rows
from harness.data.texts import evaluation_text, text_identity
from harness.errors import UserError
from harness.evaluation.accuracy import accuracy
from harness.evaluation.perplexity import perplexity, perplexity_by_blocks
from harness.evaluation.zero_shot import ZeroShotMeasured, evaluate_zero_shot
from harness.job import AccuracyProtocol, EvaluationProtocol, PerplexityProtocol, ZeroShotProtocol
from harness.models.loading import LoadedModel
from harness.progress import Reporter
from harness.record import EvalResult

NAMED_TASKS = 3
"""More tasks than these are counted on the progress line, not named."""


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
        protocol.key: loaded.cache.of(
            (protocol, request.evaluation[protocol.key]), partial(_windows_of, protocol, request, loaded)
        )
        for protocol in protocols
        if isinstance(protocol, PerplexityProtocol)
    }


def check_questions(request: JobRequest, loaded: LoadedModel, protocols: Sequence[EvaluationProtocol]) -> None:
    """Read the questions of every task, before pruning: data that cannot be had must not cost a pruned model.

    Raises:
        UserError: they cannot be had.
    """
    for protocol in protocols:
        if isinstance(protocol, ZeroShotProtocol):
            data = request.evaluation[protocol.key]
            loaded.cache.of(("questions", data), partial(_has_rows, data))


def _has_rows(data: DataRef) -> bool:
    return bool(load_rows(data))


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
) -> tuple[list[EvalResult], list[TaskAnswers]]:
    """Measure `protocols` on the model as it is now, on `device`; `token_windows` are those of `prepare_windows`.

    Returns:
        The numbers, and what was answered to each question of the zero-shot tasks.
    """
    results: list[EvalResult] = []
    answers: list[TaskAnswers] = []
    tasks = []
    for protocol in protocols:
        if isinstance(protocol, ZeroShotProtocol):
            tasks.append((protocol, request.evaluation[protocol.key]))
        elif isinstance(protocol, AccuracyProtocol):
            results.append(_measure_accuracy(protocol, request.evaluation[protocol.key], loaded, device, reporter))
        else:
            results.append(
                _measure_perplexity(request, protocol, loaded, token_windows[protocol.key], device, reporter)
            )
    for queue in _queues(tasks):
        measured = _measure_zero_shot(request, loaded, queue, reporter)
        results += measured.results
        answers += measured.answers
    return results, answers


def _queues(tasks: Sequence[tuple[ZeroShotProtocol, DataRef]]) -> list[list[tuple[ZeroShotProtocol, DataRef]]]:
    """The tasks, so that none is twice in a queue: one that is asked for under several protocols is in several."""
    queues: list[dict[str, tuple[ZeroShotProtocol, DataRef]]] = []
    for protocol, data in tasks:
        free = next((queue for queue in queues if protocol.task not in queue), None)
        if free is None:
            queues.append(free := {})
        free[protocol.task] = protocol, data
    return [list(queue.values()) for queue in queues]


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
        measured = perplexity(
            loaded.model,
            windows_NL,
            batch_tokens=batch_tokens,
            device=device,
            reporter=reporter,
            compiled=request.options.compile,
        )
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
        data_source=request.evaluation[protocol.key].origin,
        data_fingerprint=prepared.fingerprint,
        details={
            "seq_len": protocol.seq_len,
            "predicted_tokens": count * (protocol.seq_len - 1),
            "compiled": request.options.compile,
            "unk_tokens": prepared.num_unk,
            "seconds": round(time.perf_counter() - start, 4),
        },
    )


def _measure_accuracy(
    protocol: AccuracyProtocol, data: DataRef, loaded: LoadedModel, device: torch.device, reporter: Reporter
) -> EvalResult:
    assert protocol.task == DIGITS, f"no rows of {protocol.task}"
    start = time.perf_counter()
    reporter.start(f"evaluate: accuracy on {protocol.task}", 1)
    rows_NR = torch.from_numpy(digit_rows("evaluation").copy())
    measured = accuracy(loaded.model, loaded.residency, rows_NR, device)
    reporter.advance()
    return EvalResult(
        protocol=protocol.key,
        kind="accuracy",
        task=protocol.task,
        metric="acc",
        value=measured.value,
        stderr=measured.stderr,
        num_samples=measured.num_images,
        higher_is_better=True,
        subset=None,
        data_source=data.origin,
        data_fingerprint=data.identity,
        details={"seconds": round(time.perf_counter() - start, 4)},
    )


def _measure_zero_shot(
    request: JobRequest, loaded: LoadedModel, tasks: Sequence[tuple[ZeroShotProtocol, DataRef]], reporter: Reporter
) -> ZeroShotMeasured:
    shown: int | None = None
    names = [protocol.task for protocol, _ in tasks]
    step = f"evaluate: {', '.join(names) if len(names) <= NAMED_TASKS else f'{len(names)} tasks'}, requests"

    def on_progress(answered: int, total: int) -> None:
        nonlocal shown
        if shown is None:
            reporter.start(step, total)
        reporter.advance(answered - (shown or 0))
        shown = answered

    start = time.perf_counter()
    measured = evaluate_zero_shot(
        loaded.model,
        loaded.tokenizer,
        tasks,
        token_budget=request.options.zero_shot_token_budget,
        kept=loaded.cache,
        on_progress=on_progress,
    )
    seconds = round(time.perf_counter() - start, 4)
    timed = [
        replace(result, details={**result.details, "seconds_of_all_tasks": seconds}) for result in measured.results
    ]
    return replace(measured, results=tuple(timed))


def check_tokenizer(request: JobRequest, loaded: LoadedModel) -> None:
    """A model without a tokenizer takes token arrays only; said before any text is fetched."""
    if loaded.tokenizer is not None:
        return
    spec = request.spec
    texts = []
    if spec.calibration and spec.calibration.corpus not in ("tokens", DIGITS):
        texts.append(f"calibration={spec.calibration.corpus}")
    for protocol in spec.evaluation:
        name = protocol.corpus if isinstance(protocol, PerplexityProtocol) else protocol.task
        texts += [f"evaluation of {name}"] if name not in ("tokens", DIGITS) else []
    if texts:
        raise UserError(f"{texts[0]} needs a tokenizer, and the model has none; allowed: token arrays (tokens)")


def check_length(field: str, seq_len: int, loaded: LoadedModel) -> None:
    """Raise `UserError` when sequences are longer than the model has positions."""
    if loaded.max_length is not None and seq_len > loaded.max_length:
        raise UserError(
            f"{field}={seq_len} is more than the model's {loaded.max_length} positions; allowed: up to that"
        )
