"""Zero-shot tasks: questions with lm-eval's prompts, scored on the model in memory by our own `LM`."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness.data.places import DataRef
from harness.data.tasks.base import TASKS
from harness.errors import UserError
from harness.evaluation.base import EVALUATIONS, Evaluation, EvaluationContext, Measured, MemoryNeed, Ready
from harness.evaluation.task_protocol import TaskProtocol
from harness.job import Count, Identity, RunOptions
from harness.record import JsonValue

if TYPE_CHECKING:
    from harness.models.loading import LoadedModel

TASK_LIBRARIES = 85 * 2**20
"""Bytes that lm-eval, its task definitions and the questions add."""
NAMED_TASKS = 3
"""More tasks than these are counted on the progress line, not named."""


@dataclass(frozen=True, slots=True)
class ZeroShotProtocol(TaskProtocol):
    """One zero-shot task with its prompt.

    Args:
        limit: only the first so many questions (of every part, where a task has parts), None = all.
    """

    kind: ClassVar[str] = "zero_shot"

    limit: int | None = None

    @property
    def first(self) -> int | None:
        return self.limit


@EVALUATIONS.register(ZeroShotProtocol.kind)
@dataclass(frozen=True, slots=True)
class ZeroShot(Evaluation[ZeroShotProtocol]):
    """Accuracies of zero-shot tasks.

    Args:
        tasks: names of tasks.
        limit: only the first so many questions of a task, None = all.
        subject_limit: the same of each subject of a task that has subjects, None = as many as of a task.
    """

    called: ClassVar[str] = "zero-shot tasks"
    asks: ClassVar[str] = "tasks"
    needs_whole_model: ClassVar[bool] = True

    tasks: Identity[tuple[str, ...]] = ()
    limit: Identity[Count | None] = None
    subject_limit: Identity[Count | None] = None

    @classmethod
    def choices(cls) -> dict[str, str]:
        return {name: f"zero-shot task: {task.about}" for name, task in TASKS.all().items()}

    def ask(self, find: Callable[[str], DataRef]) -> list[tuple[ZeroShotProtocol, DataRef | None]]:
        asked: list[tuple[ZeroShotProtocol, DataRef | None]] = []
        for ref in map(find, self.tasks):
            task, limit = TASKS.get(ref.name), self.limit
            if task.part is not None:
                limit = self.subject_limit or limit
            asked.append((ZeroShotProtocol(ref.name, task.version, ref.unpublished, limit), ref))
        return asked

    @classmethod
    def prepare(cls, protocol: ZeroShotProtocol, data: DataRef | None, loaded: "LoadedModel") -> object:
        assert data is not None, "a task has rows"
        # Rows are read again when they are asked: a job keeps no text in memory.
        rows = TASKS.get(protocol.task).rows(data)
        spelt = next((token for token in loaded.not_embedded for row in rows if token in str(row)), None)
        if spelt is not None:
            raise UserError(f"{protocol.task} has the token {spelt} in its text, which the model has no embedding of")
        return bool(rows)

    @classmethod
    def measure(cls, asked: Sequence[Ready[ZeroShotProtocol]], context: EvaluationContext) -> Measured:
        from harness.evaluation.upstream import nothing_changed, quiet

        loaded, start = context.loaded, time.perf_counter()
        names = list(dict.fromkeys(each.protocol.task for each in asked))
        with quiet(), nothing_changed(loaded.model):
            from lm_eval.evaluator import evaluate

            from harness.evaluation.questions import Questions
            from harness.evaluation.scoring.lm import packed

            called = ", ".join(names) if len(names) <= NAMED_TASKS else f"{len(names)} tasks"
            lm = packed(context, f"evaluate: {called}, requests")
            tasks = {each.protocol.key: Questions(each) for each in asked}
            parts = {key: part for each in tasks.values() for key, part in each.parts.items()}
            # All in one call: lm-eval then hands all their requests to the model at once, to be packed together.
            evaluated = evaluate(
                lm=lm,
                task_dict={"tasks": parts, "groups": {}, "group_map": {}},
                cache_requests=False,
                log_samples=False,
            )
        together: dict[str, JsonValue] = {
            "log_probabilities": "float32",
            "scoring": lm.details,
            "scored_together": list(names),
            "max_length": lm.max_length,
            "seconds_of_all_tasks": round(time.perf_counter() - start, 4),
        }
        answers = {key: each.answers() for key, each in tasks.items()}
        results = (
            result
            for key, each in tasks.items()
            for result in each.results(answers[key], evaluated["results"], together | each.counts(lm.cut))
        )
        return Measured(tuple(results), tuple(answers.values()))

    @classmethod
    def needs(cls, protocol: ZeroShotProtocol, data: DataRef | None, options: RunOptions) -> MemoryNeed:
        return MemoryNeed(tokens_at_once=options.zero_shot_token_budget, libraries=TASK_LIBRARIES)
