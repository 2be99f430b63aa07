"""Zero-shot tasks: questions with lm-eval's prompts, scored on the model in memory by our own `LM`."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isclose, isnan
from typing import TYPE_CHECKING, Any, ClassVar

from harness.answers import Answer, TaskAnswers, chosen, content_id, one_word
from harness.data.formats import Row
from harness.data.places import DataRef
from harness.data.tasks.base import TASKS, rows_identity
from harness.errors import UserError
from harness.evaluation.base import (
    EVALUATIONS,
    Estimate,
    Evaluation,
    EvaluationContext,
    Measured,
    MemoryNeed,
    Ready,
)
from harness.job import Count, EvaluationProtocol, Identity, RunOptions, protocol_key
from harness.record import EvalResult, JsonValue

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
    asks: ClassVar[str] = "tasks"
    needs_whole_model: ClassVar[bool] = True

    tasks: Identity[tuple[str, ...]] = ()
    limit: Identity[Count | None] = None

    @classmethod
    def choices(cls) -> dict[str, str]:
        return {name: f"zero-shot task: {task.about}" for name, task in TASKS.all().items()}

    def ask(self, find: Callable[[str], DataRef]) -> list[tuple[ZeroShotProtocol, DataRef | None]]:
        found = map(find, self.tasks)
        return [
            (ZeroShotProtocol(ref.name, TASKS.get(ref.name).version, ref.unpublished, self.limit), ref) for ref in found
        ]

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

            from harness.evaluation.scoring.lm import PackedLM

            assert loaded.tokenizer is not None, "tasks are text"
            lm = PackedLM(
                loaded.model,
                loaded.tokenizer,
                token_budget=context.options.zero_shot_token_budget,
                encoded=loaded.cache.of(PackedLM, dict),
                reporter=context.reporter,
                step=f"evaluate: {', '.join(names) if len(names) <= NAMED_TASKS else f'{len(names)} tasks'}, requests",
            )
            tasks = {each.protocol.key: _Asked(each) for each in asked}
            # All in one call: lm-eval then hands all their requests to the model at once, to be packed together.
            evaluated = evaluate(
                lm=lm,
                task_dict={"tasks": {key: each.task for key, each in tasks.items()}, "groups": {}, "group_map": {}},
                cache_requests=False,
                log_samples=False,
            )
        together: dict[str, JsonValue] = {
            "num_fewshot": 0,
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
            for result in each.results(answers[key], evaluated["results"][key], together | each.counts(lm.cut))
        )
        return Measured(tuple(results), tuple(answers.values()))

    @classmethod
    def needs(cls, protocol: ZeroShotProtocol, data: DataRef | None, options: RunOptions) -> MemoryNeed:
        return MemoryNeed(tokens_at_once=options.zero_shot_token_budget, libraries=TASK_LIBRARIES)


class _Asked:
    """A task on its rows, ready to be asked.

    Raises:
        UserError: the rows cannot be read or have changed since the job was planned, or the installed lm-eval has
            another version of the task than the protocol says.
    """

    def __init__(self, asked: Ready[ZeroShotProtocol]) -> None:
        from harness.evaluation.upstream import load_task

        protocol, ref = asked.protocol, asked.source
        self._asked, self._metrics = asked, TASKS.get(protocol.task).metrics
        rows = TASKS.get(protocol.task).rows(ref)
        self._fingerprint, self._total = rows_identity(rows), len(rows)
        if ref.source != "hub" and self._fingerprint != ref.identity:
            raise UserError(f"{ref.location} has changed since the job was planned; start it again")
        self._rows = rows[: protocol.limit]
        self.task = load_task(protocol.task, protocol.version, self._rows)
        """Lm-eval's."""

    def answers(self) -> TaskAnswers:
        """What was answered to every question, in the order of the rows."""
        requests = sorted(self.task.instances, key=lambda request: (request.doc_id, request.idx))
        questions = [list(group) for _, group in groupby(requests, key=lambda request: request.doc_id)]
        answers = (self._answer(*each) for each in zip(enumerate(self._rows), questions, strict=True))
        return TaskAnswers(self._asked.protocol.key, self._asked.protocol.task, tuple(answers))

    def _answer(self, row: tuple[int, Row], requests: list[Any]) -> Answer:
        task, question = self.task, (row[0], content_id(row[1]))
        scores = [request.resps[0] for request in requests]
        if task.OUTPUT_TYPE == "loglikelihood":
            ((score, greedy),) = scores
            return one_word(*question, float(score), bool(greedy))
        document = requests[0].doc
        choices = task.doc_to_choice(document)
        gold = task.doc_to_text(document) if task.multiple_input else task.doc_to_target(document)
        return chosen(
            question,
            [float(score) for score, _ in scores],
            choices.index(gold) if isinstance(gold, str) else int(gold),
            [len(choice) for choice in choices] if "acc_norm" in self._metrics else None,
        )

    def counts(self, cut: set[tuple[str, str]]) -> dict[str, JsonValue]:
        """What a record says of this task alone; `cut` are the texts that the model could not hold."""
        import lm_eval

        requests = self.task.instances
        return {
            "task_version": str(self.task.VERSION),
            "lm_eval": lm_eval.__version__,
            "requests": len(requests),
            "requests_cut_to_max_length": sum(request.args in cut for request in requests),
            "requests_without_a_number": sum(isnan(answer[0]) for request in requests for answer in request.resps),
        }

    def results(
        self, answered: TaskAnswers, measured: dict[str, Any], details: dict[str, JsonValue]
    ) -> list[EvalResult]:
        """A number for each metric; of a model whose scores are none there is none."""
        count = len(answered.questions)
        subset = f"first {count} of {self._total} questions" if count < self._total else None
        found = []
        for metric in self._metrics:
            value, stderr = float(measured[f"{metric},none"]), measured[f"{metric}_stderr,none"]
            right = [each.correct if metric == "acc" else each.correct_norm for each in answered.questions]
            estimate = Estimate(None, None, count, subset)
            # An argmax over NaN would still name an option: that is not a measurement.
            if not details["requests_without_a_number"]:
                assert isclose(value, sum(map(bool, right)) / count), f"{metric} is not that of the answers"
                # Lm-eval says "N/A" for the standard error of a single question.
                known = isinstance(stderr, int | float) and not isnan(stderr)
                estimate = Estimate(value, float(stderr) if known else None, count, subset)
            found.append(self._asked.result(metric, estimate, details, fingerprint=self._fingerprint))
        return found
