"""Zero-shot tasks through stock lm-eval, on the model in memory.

The upstream task definitions keep their prompts, options and metrics; only where the rows come from is redirected,
so nothing is downloaded.  lm-eval's own caches stay off: their keys name neither the weights nor the task version.
"""

import copy
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import isnan
from pathlib import Path
from typing import Any

from harness.data.catalogue import DataRef
from harness.data.formats import Row
from harness.data.questions import load_rows, rows_identity
from harness.errors import UserError
from harness.evaluation.protocols import TASKS
from harness.job import ZeroShotProtocol
from harness.record import EvalResult, JsonValue

Progress = Callable[[str, int, int], None]
"""Called with the task, the requests answered so far, and all requests of the task."""

_LOGGER = "lm_eval"
_MODEL_LOGGER = "lm_eval.models.huggingface"


def evaluate_zero_shot(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[tuple[ZeroShotProtocol, DataRef]],
    *,
    batch_size: int,
    on_progress: Progress | None = None,
) -> list[EvalResult]:
    """Measure the tasks one after the other; `acc`, and `acc_norm` where the task has it.

    Args:
        model: a decoder-only transformers model on its device; neither its weights nor its mode are changed.
        tokenizer: its tokenizer; a copy is used.
        tasks: protocols with the rows to measure them on.
        batch_size: requests in one forward pass, >= 1.
        on_progress: told of every answered request.

    Raises:
        UserError: the model has no tokenizer, the rows cannot be read or have changed since the job was planned, or
            the installed lm-eval has another version of a task than the protocol says.
    """
    if tokenizer is None:
        names = ", ".join(protocol.task for protocol, _ in tasks)
        raise UserError(f"the model has no tokenizer, which the zero-shot tasks need ({names})")
    if batch_size < 1:
        raise UserError(f"zero_shot_batch_size={batch_size} is not a number of requests; allowed: >= 1")
    with _quiet() as truncations, _nothing_changed(model):
        from lm_eval.models.huggingface import HFLM

        lm = HFLM(
            pretrained=model,
            tokenizer=copy.deepcopy(tokenizer),  # lm-eval sets a padding token
            backend="causal",
            batch_size=batch_size,
            softmax_dtype="float32",
        )
        results: list[EvalResult] = []
        for protocol, ref in tasks:
            truncations.count = 0
            results += _evaluate(lm, protocol, ref, on_progress, truncations)
        return results


def _evaluate(
    lm: Any, protocol: ZeroShotProtocol, ref: DataRef, on_progress: Progress | None, truncations: "_Truncations"
) -> list[EvalResult]:
    import lm_eval
    from lm_eval.evaluator import evaluate

    rows = load_rows(ref)
    fingerprint = rows_identity(rows)
    if ref.source != "hub" and fingerprint != ref.identity:
        raise UserError(f"{ref.location} has changed since the job was planned; start it again")
    task = _load_task(protocol, rows[: protocol.limit])
    lm.set_cache_hook(_AnswerCounter(protocol.task, task, on_progress))
    outcome = evaluate(
        lm=lm,
        task_dict={"tasks": {protocol.task: task}, "groups": {}, "group_map": {}},
        cache_requests=False,
        log_samples=False,
    )
    measured = outcome["results"][protocol.task]
    count = outcome["n-samples"][protocol.task]["effective"]
    broken = sum(isnan(answer[0]) for request in task.instances for answer in request.resps)
    details: dict[str, JsonValue] = {
        "task_version": str(task.VERSION),
        "lm_eval": lm_eval.__version__,
        "num_fewshot": 0,
        "log_probabilities": "float32",
        "batching": f"{lm.batch_size} requests a pass, sorted by length, padded on the right; "
        "one-token continuations of one context share a pass",
        "max_length": lm.max_length,
        "requests_cut_to_max_length": truncations.count,
        "requests_without_a_number": broken,
    }
    return [
        EvalResult(
            protocol=protocol.key,
            kind="zero_shot",
            task=protocol.task,
            metric=metric,
            # An argmax over NaN would still name an option: that is not a measurement.
            value=None if broken else float(measured[f"{metric},none"]),
            stderr=None if broken else _number(measured[f"{metric}_stderr,none"]),
            num_samples=count,
            higher_is_better=True,
            subset=f"first {count} of {len(rows)} questions" if count < len(rows) else None,
            data_source=ref.location,
            data_fingerprint=fingerprint,
            details=details,
        )
        for metric in TASKS[protocol.task].metrics
    ]


def _number(value: object) -> float | None:
    """Lm-eval says "N/A" for the standard error of a single question."""
    return float(value) if isinstance(value, int | float) and not isnan(value) else None


def _load_task(protocol: ZeroShotProtocol, rows: list[Row]) -> Any:
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


class _AnswerCounter:
    """Stands where lm-eval would write its answer cache: it is told of each answer, stores none, reports progress."""

    def __init__(self, name: str, task: Any, on_progress: Progress | None) -> None:
        self._name = name
        self._task = task
        self._on_progress = on_progress
        self._answered = 0

    def add_partial(self, *_: object) -> None:
        self._answered += 1
        if self._on_progress is not None:
            self._on_progress(self._name, self._answered, len(self._task.instances))


class _Truncations(logging.Filter):
    """Counts lm-eval's warnings that a request was cut to the model's length, and keeps back all below an error."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def filter(self, record: logging.LogRecord) -> bool:
        self.count += "Truncating" in record.getMessage()
        return record.levelno >= logging.ERROR


@contextmanager
def _quiet() -> Iterator[_Truncations]:
    """Lm-eval and datasets without log lines and progress bars; all as before afterwards."""
    import datasets
    import lm_eval.api.model
    import lm_eval.api.task
    import lm_eval.models.huggingface

    modules = (lm_eval.api.model, lm_eval.api.task, lm_eval.models.huggingface)
    bar_classes = [module.tqdm for module in modules]
    logger, model_logger = logging.getLogger(_LOGGER), logging.getLogger(_MODEL_LOGGER)
    levels, bars = (logger.level, model_logger.level), not datasets.are_progress_bars_disabled()
    truncations = _Truncations()
    logger.setLevel(logging.ERROR)
    model_logger.setLevel(logging.WARNING)
    model_logger.addFilter(truncations)
    datasets.disable_progress_bars()
    for module, bar in zip(modules, bar_classes, strict=True):
        module.tqdm = partial(_no_bar, bar)
    try:
        yield truncations
    finally:
        for module, bar in zip(modules, bar_classes, strict=True):
            module.tqdm = bar
        if bars:
            datasets.enable_progress_bars()
        model_logger.removeFilter(truncations)
        logger.setLevel(levels[0])
        model_logger.setLevel(levels[1])


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
