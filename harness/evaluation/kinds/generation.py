"""Generation tasks: answers in a model's own words, decoded greedily by lm-eval and held against the right ones.

Pruned models ramble: how long answers are, and how many the limit cut, stands beside every number.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, ClassVar

from harness.data.generation.base import GENERATED_TOGETHER, GENERATION_TASKS
from harness.data.places import DataRef
from harness.data.tasks.base import rows_identity
from harness.errors import UserError
from harness.evaluation.base import EVALUATIONS, Estimate, Evaluation, EvaluationContext, Measured, MemoryNeed, Ready
from harness.evaluation.kinds.zero_shot import TASK_LIBRARIES
from harness.evaluation.task_protocol import TaskProtocol
from harness.job import Count, Identity, RunOptions
from harness.record import EvalResult, JsonValue

if TYPE_CHECKING:
    from harness.models.loading import LoadedModel


@dataclass(frozen=True, slots=True)
class GenerationProtocol(TaskProtocol):
    """One generation task with its prompt, decoded greedily.

    Args:
        max_new_tokens: the most that an answer may have.
        limit: only the first so many questions, None = all.
    """

    kind: ClassVar[str] = "generation"

    max_new_tokens: int
    limit: int | None = None

    @property
    def first(self) -> int | None:
        return self.limit

    @property
    def further(self) -> tuple[str, ...]:
        return (f"new{self.max_new_tokens}",)


@EVALUATIONS.register(GenerationProtocol.kind)
@dataclass(frozen=True, slots=True)
class Generation(Evaluation[GenerationProtocol]):
    """Exact matches of generated answers.

    Args:
        generate: names of generation tasks.
        max_new_tokens: the most that an answer may have.
        limit: only the first so many questions of a task, None = all.
    """

    called: ClassVar[str] = "generation tasks"
    asks: ClassVar[str] = "generate"
    needs_whole_model: ClassVar[bool] = True

    generate: Identity[tuple[str, ...]] = ()
    max_new_tokens: Identity[Count] = 256
    limit: Identity[Count | None] = None

    @classmethod
    def choices(cls) -> dict[str, str]:
        return {name: f"generation task: {task.about}" for name, task in GENERATION_TASKS.all().items()}

    def ask(self, find: Callable[[str], DataRef]) -> list[tuple[GenerationProtocol, DataRef | None]]:
        found = ((ref, GENERATION_TASKS.get(ref.name).version) for ref in map(find, self.generate))
        return [
            (GenerationProtocol(ref.name, version, ref.unpublished, self.max_new_tokens, self.limit), ref)
            for ref, version in found
        ]

    @classmethod
    def prepare(cls, protocol: GenerationProtocol, data: DataRef | None, loaded: "LoadedModel") -> object:
        assert data is not None, "a task has rows"
        if loaded.max_length is not None and protocol.max_new_tokens >= loaded.max_length:
            raise UserError(
                f"evaluation.max_new_tokens={protocol.max_new_tokens} leaves none of the model's {loaded.max_length} "
                f"positions for a question; allowed: 1 to {loaded.max_length - 1}"
            )
        return bool(GENERATION_TASKS.get(protocol.task).rows(data))

    @classmethod
    def measure(cls, asked: Sequence[Ready[GenerationProtocol]], context: EvaluationContext) -> Measured:
        from harness.evaluation.upstream import nothing_changed, quiet

        with quiet(), nothing_changed(context.loaded.model):
            return Measured(tuple(result for each in asked for result in _measured(each, context)))

    @classmethod
    def needs(cls, protocol: GenerationProtocol, data: DataRef | None, options: RunOptions) -> MemoryNeed:
        longest = GENERATION_TASKS.get(protocol.task).prompt_tokens
        return MemoryNeed(
            tokens_at_once=GENERATED_TOGETHER * longest,
            libraries=TASK_LIBRARIES,
            tokens_cached=GENERATED_TOGETHER * (longest + protocol.max_new_tokens),
        )


def _measured(asked: Ready[GenerationProtocol], context: EvaluationContext) -> list[EvalResult]:
    from lm_eval.evaluator import evaluate

    from harness.evaluation.scoring.generating import GreedyLM
    from harness.evaluation.upstream import load_task

    protocol, ref, loaded, start = asked.protocol, asked.source, context.loaded, time.perf_counter()
    known = GENERATION_TASKS.get(protocol.task)
    rows = known.rows(ref)
    fingerprint, total = rows_identity(rows), len(rows)
    if ref.source != "hub" and fingerprint != ref.identity:
        raise UserError(f"{ref.location} has changed since the job was planned; start it again")
    task = load_task(protocol.task, protocol.version, rows[: protocol.limit])
    task.set_config("generation_kwargs", {"max_gen_toks": protocol.max_new_tokens}, update=True)
    assert loaded.tokenizer is not None, "tasks are text"
    lm = GreedyLM(loaded.model, loaded.tokenizer, loaded.max_length, context.reporter)
    count = len(rows[: protocol.limit])
    context.reporter.start(f"evaluate: answers to {protocol.task}", count)
    evaluated: dict[str, Any] = evaluate(
        lm=lm,
        task_dict={"tasks": {protocol.task: task}, "groups": {}, "group_map": {}},
        cache_requests=False,
        log_samples=False,
    )["results"][protocol.task]
    details: dict[str, JsonValue] = {
        "num_fewshot": known.shots,
        "task_version": protocol.version,
        "max_new_tokens": protocol.max_new_tokens,
        "mean_answer_tokens": fmean(lm.lengths),
        "median_answer_tokens": median(lm.lengths),
        "share_cut": lm.cut / count,
        "max_length": lm.max_length,
        "seconds": round(time.perf_counter() - start, 4),
    }
    subset = f"first {count} of {total} questions" if count < total else None
    found = []
    for metric, name in known.filters.items():
        stderr = evaluated[f"exact_match_stderr,{name}"]
        known_error = float(stderr) if isinstance(stderr, int | float) else None  # "N/A" of a single question
        estimate = Estimate(float(evaluated[f"exact_match,{name}"]), known_error, count, subset)
        found.append(asked.result(metric, estimate, details, fingerprint=fingerprint))
    return found
