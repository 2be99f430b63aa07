"""Zero-shot tasks: questions of lm-eval's definitions, scored on the model in memory by our own `LM`."""

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from math import isclose, isnan
from typing import TYPE_CHECKING, Any, ClassVar

from harness.answers import TaskAnswers, chosen, content_id, one_word
from harness.data.catalogue import DataRef
from harness.data.formats import Row
from harness.data.questions import load_rows, rows_identity
from harness.errors import UserError, unknown
from harness.evaluation.base import EVALUATIONS, Evaluation, EvaluationContext, FindData, Measured, MemoryNeed, Ready
from harness.evaluation.protocols import TASKS
from harness.evaluation.upstream import load_task, nothing_changed, quiet
from harness.job import Count, EvaluationProtocol, Identity, RunOptions, protocol_key
from harness.record import EvalResult, JsonValue

if TYPE_CHECKING:
    from harness.evaluation.scoring import PackedLM, PairEncoder
    from harness.models.loading import LoadedModel

Progress = Callable[[int, int], None]
"""Called with the requests answered so far and all requests of all tasks; which of them is done is not told."""

TASK_LIBRARIES = 85 * 2**20
"""Bytes that lm-eval, its task definitions and the questions add."""
NAMED_TASKS = 3
"""More tasks than these are counted on the progress line, not named."""


@dataclass(frozen=True, slots=True)
class ZeroShotProtocol(EvaluationProtocol):
    """One lm-eval multiple-choice task, zero-shot, upstream prompt.

    Args:
        task: lm-eval's task name.
        version: lm-eval's version of the task.
        data: identity of the rows when they are not the published ones, else None.
        limit: only the first so many questions, None = all.
    """

    kind: ClassVar[str] = "zero_shot"

    task: str
    version: str
    data: str | None
    limit: int | None = None

    @property
    def name(self) -> str:
        return self.task

    @property
    def key(self) -> str:
        first = [] if self.limit is None else [f"first{self.limit}"]
        return protocol_key([self.kind, self.task, *first, f"v{self.version}"], self.data)


def zero_shot_protocol(task: str, ref: DataRef, limit: int | None) -> ZeroShotProtocol:
    """The protocol of a zero-shot task on the rows that `ref` found; `limit` = first questions only, None = all.

    Raises:
        UserError: unknown task, or limit < 1.
    """
    if task not in TASKS:
        raise unknown("zero-shot task", task, TASKS)
    if limit is not None and limit < 1:
        raise UserError(f"evaluation.limit={limit} measures nothing; allowed: limit >= 1, or null for all questions")
    assert ref.name == task, f"protocol of {task} on data of {ref.name}"
    return ZeroShotProtocol(task, TASKS[task].version, None if ref.official else ref.identity, limit)


@EVALUATIONS.register(ZeroShotProtocol.kind)
@dataclass(frozen=True, slots=True)
class ZeroShot(Evaluation[ZeroShotProtocol]):
    """Accuracies of zero-shot tasks.

    Args:
        tasks: lm-eval's names.
        limit: only the first so many questions of a task, None = all.
    """

    called: ClassVar[str] = "zero-shot tasks"
    needs_whole_model: ClassVar[bool] = True

    tasks: Identity[tuple[str, ...]] = ()
    limit: Identity[Count | None] = None

    @classmethod
    def choices(cls) -> dict[str, str]:
        return {name: f"lm-eval task: {task.description}" for name, task in TASKS.items()}

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        return {"evaluation.tasks": self.tasks}

    def ask(self, find: FindData) -> list[tuple[ZeroShotProtocol, DataRef | None]]:
        found = [find(task) for task in self.tasks]
        return [(zero_shot_protocol(ref.name, ref, self.limit), ref) for ref in found]

    @classmethod
    def prepare(cls, protocol: ZeroShotProtocol, data: DataRef | None, loaded: "LoadedModel") -> object:
        assert data is not None, "a task has rows"
        return bool(load_rows(data))  # they are read again when they are asked: a job keeps no text in memory

    @classmethod
    def measure(cls, asked: Sequence[Ready[ZeroShotProtocol]], context: EvaluationContext) -> Measured:
        measured = [_ask_queue(queue, context) for queue in _queues(asked)]
        return Measured(
            tuple(result for each in measured for result in each.results),
            tuple(answers for each in measured for answers in each.answers),
        )

    @classmethod
    def needs(cls, protocol: ZeroShotProtocol, data: DataRef | None, options: RunOptions) -> MemoryNeed:
        return MemoryNeed(tokens_at_once=options.zero_shot_token_budget, libraries=TASK_LIBRARIES)


def _queues(asked: Sequence[Ready[ZeroShotProtocol]]) -> list[list[Ready[ZeroShotProtocol]]]:
    """The tasks, so that none is twice in a queue: one that is asked for under several protocols is in several."""
    queues: list[dict[str, Ready[ZeroShotProtocol]]] = []
    for each in asked:
        free = next((queue for queue in queues if each.protocol.task not in queue), None)
        if free is None:
            queues.append(free := {})
        free[each.protocol.task] = each
    return [list(queue.values()) for queue in queues]


def _ask_queue(asked: Sequence[Ready[ZeroShotProtocol]], context: EvaluationContext) -> Measured:
    shown: int | None = None
    names = [each.protocol.task for each in asked]
    step = f"evaluate: {', '.join(names) if len(names) <= NAMED_TASKS else f'{len(names)} tasks'}, requests"

    def on_progress(answered: int, total: int) -> None:
        nonlocal shown
        if shown is None:
            context.reporter.start(step, total)
        context.reporter.advance(answered - (shown or 0))
        shown = answered

    start = time.perf_counter()
    measured = evaluate_zero_shot(
        context.loaded.model,
        context.loaded.tokenizer,
        [(each.protocol, each.source) for each in asked],
        token_budget=context.options.zero_shot_token_budget,
        kept=context.loaded.cache,
        on_progress=on_progress,
    )
    taken: dict[str, JsonValue] = {"seconds_of_all_tasks": round(time.perf_counter() - start, 4)}
    timed = (replace(result, details={**result.details, **taken}) for result in measured.results)
    return replace(measured, results=tuple(timed))


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A task on its rows, ready to be asked.

    Args:
        rows: the questions that will be asked; total: how many the data have.
        task: lm-eval's.
    """

    protocol: ZeroShotProtocol
    ref: DataRef
    rows: list[Row]
    total: int
    fingerprint: str
    task: Any


def evaluate_zero_shot(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[tuple[ZeroShotProtocol, DataRef]],
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
    names = [protocol.task for protocol, _ in tasks]
    assert len(set(names)) == len(names), f"a task twice in one queue: {names}"
    if tokenizer is None:
        raise UserError(f"the model has no tokenizer, which the zero-shot tasks need ({', '.join(names)})")
    with quiet(), nothing_changed(model):
        from lm_eval.evaluator import evaluate

        from harness.evaluation.scoring import PackedLM, PairEncoder

        kept = {} if kept is None else kept
        encoder = kept.setdefault(PairEncoder, PairEncoder(tokenizer))
        lm = PackedLM(model, tokenizer, token_budget=token_budget, encoder=encoder)
        prepared = [_prepare(protocol, ref) for protocol, ref in tasks]
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


def _prepare(protocol: ZeroShotProtocol, ref: DataRef) -> _Prepared:
    rows = load_rows(ref)
    fingerprint = rows_identity(rows)
    if ref.source != "hub" and fingerprint != ref.identity:
        raise UserError(f"{ref.location} has changed since the job was planned; start it again")
    asked = rows[: protocol.limit]
    return _Prepared(protocol, ref, asked, len(rows), fingerprint, load_task(protocol.task, protocol.version, asked))


def _answers(prepared: _Prepared) -> TaskAnswers:
    """What was answered to every question, in the order of the rows."""
    task, protocol = prepared.task, prepared.protocol
    requests_of: dict[int, list[Any]] = {}
    for request in task.instances:
        requests_of.setdefault(request.doc_id, []).append(request)
    per_character = "acc_norm" in TASKS[protocol.task].metrics
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
    for metric in TASKS[protocol.task].metrics:
        value = float(measured[f"{metric},none"])
        if not broken:
            right = [each.correct if metric == "acc" else each.correct_norm for each in answered.questions]
            assert isclose(value, sum(map(bool, right)) / count), f"{protocol.task} {metric} is not that of its answers"
        yield EvalResult(
            protocol=protocol.key,
            kind=protocol.kind,
            task=protocol.task,
            metric=metric,
            # An argmax over NaN would still name an option: that is not a measurement.
            value=None if broken else value,
            stderr=None if broken else _number(measured[f"{metric}_stderr,none"]),
            num_samples=count,
            higher_is_better=True,
            subset=f"first {count} of {prepared.total} questions" if count < prepared.total else None,
            data_source=prepared.ref.origin,
            data_fingerprint=prepared.fingerprint,
            details=details,
        )


def _number(value: object) -> float | None:
    """Lm-eval says "N/A" for the standard error of a single question."""
    return float(value) if isinstance(value, int | float) and not isnan(value) else None
