"""Zero-shot tasks asked of a model: all requests in one queue, accuracies, and the answer to each question."""

from collections.abc import Callable, Hashable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from math import isclose, isnan
from typing import TYPE_CHECKING, Any

from harness.answers import TaskAnswers, chosen, content_id, one_word
from harness.data.formats import Row
from harness.data.questions import rows_identity
from harness.data.tasks.base import TASKS
from harness.errors import UserError
from harness.evaluation.base import Estimate, Measured, Ready
from harness.evaluation.upstream import load_task, nothing_changed, quiet
from harness.record import EvalResult, JsonValue

if TYPE_CHECKING:
    from harness.evaluation.kinds.zero_shot import ZeroShotProtocol
    from harness.evaluation.scoring import PackedLM, PairEncoder

Progress = Callable[[int, int], None]
"""Called with the requests answered so far and all requests of all tasks; which of them is done is not told."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A task on its rows, ready to be asked.

    Args:
        rows: the questions that will be asked; total: how many the data have.
        task: lm-eval's.
    """

    asked: Ready["ZeroShotProtocol"]
    rows: list[Row]
    total: int
    fingerprint: str
    task: Any

    @property
    def protocol(self) -> "ZeroShotProtocol":
        return self.asked.protocol


def evaluate_zero_shot(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[Ready["ZeroShotProtocol"]],
    *,
    token_budget: int,
    on_progress: Progress | None = None,
    kept: MutableMapping[Hashable, Any] | None = None,
) -> Measured:
    """Measure all tasks with one queue of requests; `acc`, and `acc_norm` where the task has it.

    Args:
        model: a decoder-only transformers model on its device; neither its weights nor its mode are changed.
        tokenizer: its tokenizer.
        tasks: protocols with the rows to measure them on; no task twice.
        token_budget: padded tokens in one forward pass, >= 1.
        on_progress: told after every forward pass.
        kept: what earlier calls with this tokenizer tokenised; this call uses it and adds to it.

    Raises:
        UserError: the model has no tokenizer, the rows cannot be read or have changed since the job was planned, or
            the installed lm-eval has another version of a task than the protocol says, or token_budget < 1.
    """
    names = [each.protocol.task for each in tasks]
    assert len(set(names)) == len(names), f"a task twice in one queue: {names}"
    if tokenizer is None:
        raise UserError(f"the model has no tokenizer, which the zero-shot tasks need ({', '.join(names)})")
    with quiet(), nothing_changed(model):
        from lm_eval.evaluator import evaluate

        from harness.evaluation.scoring import PackedLM, PairEncoder

        kept = {} if kept is None else kept
        encoder = kept.setdefault(PairEncoder, PairEncoder(tokenizer))
        lm = PackedLM(model, tokenizer, token_budget=token_budget, encoder=encoder)
        prepared = [_prepare(each) for each in tasks]
        lm.progress = on_progress
        # All tasks in one call: lm-eval then hands all their requests to the model at once, to be packed together.
        evaluated = evaluate(
            lm=lm,
            task_dict={"tasks": {each.protocol.task: each.task for each in prepared}, "groups": {}, "group_map": {}},
            cache_requests=False,
            log_samples=False,
        )
        answers = tuple(_answers(each) for each in prepared)
        results = [
            result
            for each, answered in zip(prepared, answers, strict=True)
            for result in _results(each, answered, evaluated, _details(each, lm, encoder, names))
        ]
    return Measured(tuple(results), answers)


def _prepare(asked: Ready["ZeroShotProtocol"]) -> _Prepared:
    protocol, ref = asked.protocol, asked.source
    rows = TASKS.get(protocol.task).rows(ref)
    fingerprint = rows_identity(rows)
    if ref.source != "hub" and fingerprint != ref.identity:
        raise UserError(f"{ref.location} has changed since the job was planned; start it again")
    first = rows[: protocol.limit]
    return _Prepared(asked, first, len(rows), fingerprint, load_task(protocol.task, protocol.version, first))


def _answers(prepared: _Prepared) -> TaskAnswers:
    """What was answered to every question, in the order of the rows."""
    task, protocol = prepared.task, prepared.protocol
    requests_of: dict[int, list[Any]] = {}
    for request in task.instances:
        requests_of.setdefault(request.doc_id, []).append(request)
    per_character = "acc_norm" in TASKS.get(protocol.task).metrics
    questions = []
    for index, row in enumerate(prepared.rows):
        requests = sorted(requests_of[index], key=lambda request: int(request.idx))
        scores = [request.resps[0] for request in requests]
        content = content_id(row)
        if task.OUTPUT_TYPE == "loglikelihood":
            ((score, greedy),) = scores
            questions.append(one_word(index, content, float(score), bool(greedy)))
            continue
        document = requests[0].doc
        choices = task.doc_to_choice(document)
        gold = task.doc_to_text(document) if task.multiple_input else task.doc_to_target(document)
        questions.append(
            chosen(
                (index, content),
                [float(score) for score, _ in scores],
                choices.index(gold) if isinstance(gold, str) else int(gold),
                [len(choice) for choice in choices] if per_character else None,
            )
        )
    return TaskAnswers(protocol.key, protocol.task, tuple(questions))


def _details(
    prepared: _Prepared, lm: "PackedLM", encoder: "PairEncoder", together: Sequence[str]
) -> dict[str, JsonValue]:
    import lm_eval

    requests = prepared.task.instances
    # The scorer counts over the whole queue; the encodings that it remembered say which requests of this task it cut.
    pairs = [(str(context), str(continuation)) for context, continuation in (request.args for request in requests)]
    lengths = [len(context) + len(continuation) for context, continuation in encoder.encode(pairs)]
    return {
        "task_version": str(prepared.task.VERSION),
        "lm_eval": lm_eval.__version__,
        "num_fewshot": 0,
        "log_probabilities": "float32",
        "scoring": lm.details,
        "scored_together": list(together),
        "max_length": lm.max_length,
        "requests": len(requests),
        "requests_cut_to_max_length": sum(length > lm.max_length + 1 for length in lengths),
        "requests_without_a_number": sum(isnan(answer[0]) for request in requests for answer in request.resps),
    }


def _results(
    prepared: _Prepared, answered: TaskAnswers, evaluated: Mapping[str, Any], details: dict[str, JsonValue]
) -> Iterator[EvalResult]:
    protocol = prepared.protocol
    measured = evaluated["results"][protocol.task]
    count = evaluated["n-samples"][protocol.task]["effective"]
    answers = len(answered.questions)
    assert count == answers, f"{count} questions of {protocol.task}, answers to {answers}"
    broken = bool(details["requests_without_a_number"])
    subset = f"first {count} of {prepared.total} questions" if count < prepared.total else None
    for metric in TASKS.get(protocol.task).metrics:
        value = float(measured[f"{metric},none"])
        if not broken:
            right = [each.correct if metric == "acc" else each.correct_norm for each in answered.questions]
            assert isclose(value, sum(map(bool, right)) / count), f"{protocol.task} {metric} is not that of its answers"
        # An argmax over NaN would still name an option: that is not a measurement.
        stderr = None if broken else _number(measured[f"{metric}_stderr,none"])
        yield prepared.asked.result(
            metric,
            Estimate(None if broken else value, stderr, count, subset),
            details,
            fingerprint=prepared.fingerprint,
        )


def _number(value: object) -> float | None:
    """Lm-eval says "N/A" for the standard error of a single question."""
    return float(value) if isinstance(value, int | float) and not isnan(value) else None
