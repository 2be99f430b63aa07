"""Task definitions of lm-eval: prompts, options and metrics stay as they are; where the rows come from is redirected.
A task that lm-eval does not have brings its own definition, in the same form.

So nothing is downloaded.  lm-eval's own caches stay off: their keys name neither the weights nor the task version.
"""

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

from harness.data.formats import Row
from harness.data.sources import entries
from harness.data.tasks.base import Task
from harness.errors import UserError

_LOGGER = "lm_eval"
EXAMPLES = "dev"
"""The split that examples before a question are taken from."""


def load_task(name: str, version: str, rows: list[Row]) -> Any:
    """The upstream task on the given rows, of a task with parts all of one part.

    Raises:
        UserError: the installed lm-eval has another version of the task.
    """
    import datasets
    import lm_eval

    known = entries("evaluation")[name]
    assert isinstance(known, Task), f"{name} is asked by no task"
    part = known.part_of(rows[0])
    splits = {known.split: datasets.Dataset.from_list(rows)}
    if known.examples is not None:
        splits[EXAMPLES] = datasets.Dataset.from_list([row for row in known.examples() if known.part_of(row) == part])
    override = {
        **known.prompt,
        "task": name if known.part is None else known.part[1].format(part),
        "custom_dataset": lambda **_: splits,
        "training_split": None,
        "validation_split": known.split if known.split == "validation" else None,
        "test_split": None if known.split == "validation" else known.split,
        "fewshot_split": None if known.examples is None else EXAMPLES,
        "num_fewshot": known.shots,
    }
    task = _own(known, override) if known.definition is None else _changed(known.definition, override)
    if str(task.VERSION) != version:
        raise UserError(
            f"lm-eval {lm_eval.__version__} has version {task.VERSION} of {name}; "
            f"the protocol says {version} (install lm-eval 0.4.13)"
        )
    return task


def _changed(definition: str, override: dict[str, Any]) -> Any:
    """A task of lm-eval's, with the override on top of its definition.

    Only the folder of the definition is indexed: all of lm-eval's definitions take eleven seconds.
    """
    # A member of a group takes its definition from the index and the override on top.
    loaded = _definitions(definition).load([{"group": "prunebench", "task": [override]}])
    return loaded["tasks"][override["task"]]


@cache
def _definitions(folder: str) -> Any:
    """Lm-eval's index of the definitions in one of its folders."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=False, include_path=str(Path(lm_eval.__file__).parent / "tasks" / folder))


def _own(known: Task, override: dict[str, Any]) -> Any:
    """A task that lm-eval does not have: its prompt is the whole definition."""
    from lm_eval.api.task import ConfigurableTask

    whole = {
        "output_type": "multiple_choice",
        "dataset_path": "given",
        "test_split": known.split,
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in known.metrics
        ],
        "metadata": {"version": known.version},
    }
    return ConfigurableTask(config=whole | override)


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
def nothing_changed(model: Any) -> Iterator[None]:
    """Lm-eval puts the model into evaluation mode and draws from Python's random numbers; put both back."""
    training, drawn = model.training, random.getstate()
    try:
        yield
    finally:
        random.setstate(drawn)
        model.train(training)
