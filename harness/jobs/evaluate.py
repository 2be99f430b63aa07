"""Measuring a loaded model: what a job's evaluation protocols ask for, as results for its record."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from harness.answers import TaskAnswers
from harness.config.request import JobRequest
from harness.data.corpora.base import CORPORA
from harness.errors import UserError
from harness.evaluation.base import EVALUATIONS, EvaluationContext, Ready
from harness.job import EvaluationProtocol
from harness.jobs.context import JobContext
from harness.models.loading import LoadedModel
from harness.record import EvalResult


def prepare(request: JobRequest, loaded: LoadedModel, protocols: Sequence[EvaluationProtocol]) -> dict[str, Any]:
    """What every protocol is measured on, by its key: before pruning, so that bad input costs nothing.

    Raises:
        UserError: data cannot be had, or do not fit the model.
    """
    found = {}
    for protocol in protocols:
        data = request.evaluation.get(protocol.key)
        make = partial(EVALUATIONS.get(protocol.kind).prepare, protocol, data, loaded)
        found[protocol.key] = loaded.cache.of((protocol, data), make)
    return found


def evaluate(
    job: JobContext,
    loaded: LoadedModel,
    dense: LoadedModel | None,
    protocols: Sequence[EvaluationProtocol],
    prepared: Mapping[str, Any],
) -> tuple[list[EvalResult], list[TaskAnswers]]:
    """Measure `protocols` on the model as it is now, on the device; all of one kind at once.

    Args:
        dense: the dense model, where one of their kinds needs it.
        prepared: what `prepare` made for them.

    Returns:
        The numbers, and what was answered to each question of tasks.
    """
    results: list[EvalResult] = []
    answers: list[TaskAnswers] = []
    context = EvaluationContext(loaded, job.device, job.reporter, job.request.options, dense)
    for kind in dict.fromkeys(protocol.kind for protocol in protocols):
        asked = [
            Ready(protocol, job.request.evaluation.get(protocol.key), prepared[protocol.key])
            for protocol in protocols
            if protocol.kind == kind
        ]
        measured = EVALUATIONS.get(kind).measure(asked, context)
        results += measured.results
        answers += measured.answers
    return results, answers


def check_tokenizer(request: JobRequest, loaded: LoadedModel) -> None:
    """A model without a tokenizer takes token arrays only; said before any text is fetched."""
    if loaded.tokenizer is not None:
        return
    texts = [f"{data.role}={data.name}" for data in request.sequences if CORPORA.get(data.name).needs_tokenizer]
    texts += [
        f"evaluation of {protocol.name}"
        for protocol in request.spec.evaluation
        if EVALUATIONS.get(protocol.kind).needs_tokenizer(protocol)
    ]
    if texts:
        raise UserError(f"{texts[0]} needs a tokenizer, and the model has none; allowed: token arrays (tokens)")
