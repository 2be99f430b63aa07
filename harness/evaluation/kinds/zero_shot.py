"""Zero-shot tasks: questions with lm-eval's prompts, scored on the model in memory by our own `LM`."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from harness.data.places import DataRef
from harness.data.tasks.base import TASKS
from harness.evaluation.base import EVALUATIONS, Evaluation, EvaluationContext, FindData, Measured, MemoryNeed, Ready
from harness.job import Count, EvaluationProtocol, Identity, RunOptions, protocol_key
from harness.record import JsonValue

if TYPE_CHECKING:
    from harness.models.loading import LoadedModel

TASK_LIBRARIES = 85 * 2**20
"""Bytes that lm-eval, its task definitions and the questions add."""
NAMED_TASKS = 3
"""More tasks than these are counted on the progress line, not named."""


@dataclass(frozen=True, slots=True)
class ZeroShotProtocol(EvaluationProtocol):
    """One zero-shot task with its prompt.

    Args:
        task: its name.
        version: of the definition that makes the prompts.
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


@EVALUATIONS.register(ZeroShotProtocol.kind)
@dataclass(frozen=True, slots=True)
class ZeroShot(Evaluation[ZeroShotProtocol]):
    """Accuracies of zero-shot tasks.

    Args:
        tasks: names of tasks.
        limit: only the first so many questions of a task, None = all.
    """

    called: ClassVar[str] = "zero-shot tasks"
    needs_whole_model: ClassVar[bool] = True

    tasks: Identity[tuple[str, ...]] = ()
    limit: Identity[Count | None] = None

    @classmethod
    def choices(cls) -> dict[str, str]:
        return {name: f"zero-shot task: {task.about}" for name, task in TASKS.all().items()}

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        return {"evaluation.tasks": self.tasks}

    def ask(self, find: FindData) -> list[tuple[ZeroShotProtocol, DataRef | None]]:
        found = map(find, self.tasks)
        return [
            (ZeroShotProtocol(ref.name, TASKS.get(ref.name).version, ref.unpublished, self.limit), ref) for ref in found
        ]

    @classmethod
    def prepare(cls, protocol: ZeroShotProtocol, data: DataRef | None, loaded: "LoadedModel") -> object:
        assert data is not None, "a task has rows"
        # Rows are read again when they are asked: a job keeps no text in memory.
        return bool(TASKS.get(protocol.task).rows(data))

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
    from harness.evaluation.zero_shot import evaluate_zero_shot

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
        asked,
        token_budget=context.options.zero_shot_token_budget,
        kept=context.loaded.cache,
        on_progress=on_progress,
    )
    taken: dict[str, JsonValue] = {"seconds_of_all_tasks": round(time.perf_counter() - start, 4)}
    timed = (replace(result, details={**result.details, **taken}) for result in measured.results)
    return replace(measured, results=tuple(timed))
