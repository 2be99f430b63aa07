"""Zero-shot tasks through lm-eval, on the model in memory, scored by our own `LM`.

The upstream task definitions keep their prompts, options and metrics; only where the rows come from is redirected,
so nothing is downloaded.  lm-eval's own caches stay off: their keys name neither the weights nor the task version.
"""

import logging
import random
from collections.abc import Callable, Hashable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from functools import partial
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.data.catalogue import DataRef
from harness.data.formats import Row
from harness.data.questions import load_rows, rows_identity
from harness.errors import UserError
from harness.evaluation.protocols import TASKS
from harness.job import ZeroShotProtocol
from harness.record import EvalResult, JsonValue

if TYPE_CHECKING:
    from harness.evaluation.scoring import PackedLM

Progress = Callable[[str, int, int], None]
"""Called with the task, the requests answered so far, and all requests of the task."""

_LOGGER = "lm_eval"


def evaluate_zero_shot(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[tuple[ZeroShotProtocol, DataRef]],
    *,
    token_budget: int,
    on_progress: Progress | None = None,
    kept: MutableMapping[Hashable, Any] | None = None,
) -> list[EvalResult]:
    """Measure the tasks one after the other; `acc`, and `acc_norm` where the task has it.

    Args:
        model: a decoder-only transformers model on its device; neither its weights nor its mode are changed.
        tokenizer: its tokenizer.
        tasks: protocols with the rows to measure them on.
        token_budget: padded tokens in one forward pass, >= 1.
        on_progress: told after every forward pass.
        kept: what earlier calls with this tokenizer tokenised; this call uses it and adds to it.

    Raises:
        UserError: the model has no tokenizer, the rows cannot be read or have changed since the job was planned, or
            the installed lm-eval has another version of a task than the protocol says, or token_budget < 1.
    """
    if tokenizer is None:
        names = ", ".join(protocol.task for protocol, _ in tasks)
        raise UserError(f"the model has no tokenizer, which the zero-shot tasks need ({names})")
    with quiet(), _nothing_changed(model):
        from harness.evaluation.scoring import PackedLM, PairEncoder

        kept = {} if kept is None else kept
        encoder = kept.setdefault(PairEncoder, PairEncoder(tokenizer))
        lm = PackedLM(model, tokenizer, token_budget=token_budget, encoder=encoder)
        return [result for protocol, ref in tasks for result in _evaluate(lm, protocol, ref, on_progress)]


def _evaluate(
    lm: "PackedLM", protocol: ZeroShotProtocol, ref: DataRef, on_progress: Progress | None
) -> list[EvalResult]:
    import lm_eval
    from lm_eval.evaluator import evaluate

    rows = load_rows(ref)
    fingerprint = rows_identity(rows)
    if ref.source != "hub" and fingerprint != ref.identity:
        raise UserError(f"{ref.location} has changed since the job was planned; start it again")
    task = load_task(protocol, rows[: protocol.limit])
    lm.progress = partial(on_progress, protocol.task) if on_progress else None
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
        "scoring": lm.details,
        "max_length": lm.max_length,
        "requests_cut_to_max_length": lm.counts["cut"],
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
