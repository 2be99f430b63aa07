"""Zero-shot tasks through lm-eval, on the model in memory, scored by our own `LM`.

The upstream task definitions keep their prompts, options and metrics; only where the rows come from is redirected,
so nothing is downloaded.  lm-eval's own caches stay off: their keys name neither the weights nor the task version.
"""

import logging
import random
from collections.abc import Callable, Hashable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import isclose, isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.answers import TaskAnswers, chosen, content_id, one_word
from harness.data.catalogue import DataRef
from harness.data.formats import Row
from harness.data.questions import load_rows, rows_identity
from harness.errors import UserError
from harness.evaluation.protocols import TASKS
from harness.job import ZeroShotProtocol
from harness.record import EvalResult, JsonValue

if TYPE_CHECKING:
    from harness.evaluation.scoring import PackedLM, PairEncoder

Progress = Callable[[int, int], None]
"""Called with the requests answered so far and all requests of all tasks; which of them is done is not told."""

_LOGGER = "lm_eval"


@dataclass(frozen=True, slots=True)
class ZeroShotMeasured:
    """The metrics of every task, and what was answered to each of its questions."""

    results: tuple[EvalResult, ...]
    answers: tuple[TaskAnswers, ...]


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
) -> ZeroShotMeasured:
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
    with quiet(), _nothing_changed(model):
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
    return ZeroShotMeasured(tuple(results), answers)


def _prepare(protocol: ZeroShotProtocol, ref: DataRef) -> _Prepared:
    rows = load_rows(ref)
    fingerprint = rows_identity(rows)
    if ref.source != "hub" and fingerprint != ref.identity:
        raise UserError(f"{ref.location} has changed since the job was planned; start it again")
    asked = rows[: protocol.limit]
    return _Prepared(protocol, ref, asked, len(rows), fingerprint, load_task(protocol, asked))


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
            kind="zero_shot",
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


def load_task(protocol: ZeroShotProtocol, rows: list[Row]) -> Any:
    """The upstream task on the given rows.

    Only the folder of the task's definition is indexed: all of lm-eval's definitions take eleven seconds.
    """
    import datasets
    import lm_eval
    from lm_eval.tasks import TaskManager

    known = TASKS[protocol.task]
    manager = TaskManager(
        include_defaults=False, include_path=str(Path(lm_eval.__file__).parent / "tasks" / known.definition)
    )
    override = {
        "task": protocol.task,
        "custom_dataset": lambda **_: {known.split: datasets.Dataset.from_list(rows)},
        "training_split": None,
        "validation_split": known.split if known.split == "validation" else None,
        "num_fewshot": 0,
    }
    if protocol.task == "lambada_openai":  # its perplexity, of one word, is not recorded, and bootstraps for minutes
        override["metric_list"] = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
    # A member of a group takes its definition from the index and the override on top.
    task = manager.load([{"group": "prunebench", "task": [override]}])["tasks"][protocol.task]
    if str(task.VERSION) != protocol.version:
        raise UserError(
            f"lm-eval {lm_eval.__version__} has version {task.VERSION} of {protocol.task}; "
            f"the protocol says {protocol.version} (install lm-eval 0.4.13)"
        )
    return task


@contextmanager
def quiet() -> Iterator[None]:
    """Lm-eval and datasets without log lines and progress bars; all as before afterwards."""
    import datasets
    import lm_eval.api.model
    import lm_eval.api.task

    modules = (lm_eval.api.model, lm_eval.api.task)
    bar_classes = [module.tqdm for module in modules]
    logger = logging.getLogger(_LOGGER)
    level, bars = logger.level, not datasets.are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    for module, bar in zip(modules, bar_classes, strict=True):
        module.tqdm = partial(_no_bar, bar)
    try:
        yield
    finally:
        for module, bar in zip(modules, bar_classes, strict=True):
            module.tqdm = bar
        if bars:
            datasets.enable_progress_bars()
        logger.setLevel(level)


def _no_bar(bar: Any, *args: Any, **options: Any) -> Any:
    """A disabled progress bar, whatever its caller asks for."""
    return bar(*args, **options | {"disable": True})


@contextmanager
def _nothing_changed(model: Any) -> Iterator[None]:
    """Lm-eval puts the model into evaluation mode and draws from Python's random numbers; put both back."""
    training, drawn = model.training, random.getstate()
    try:
        yield
    finally:
        random.setstate(drawn)
        model.train(training)
