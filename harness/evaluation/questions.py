"""A zero-shot task on its rows as lm-eval asks it, what was answered, and the numbers of that."""

from dataclasses import replace
from itertools import groupby
from math import isclose, isnan
from typing import TYPE_CHECKING, Any

from harness.answers import Answer, TaskAnswers, chosen, content_id, one_word
from harness.data.formats import Row
from harness.data.tasks.base import TASKS, rows_identity
from harness.errors import UserError
from harness.evaluation.base import Estimate, Ready
from harness.evaluation.upstream import load_task
from harness.record import EvalResult, JsonValue

if TYPE_CHECKING:
    from harness.evaluation.kinds.zero_shot import ZeroShotProtocol


class Questions:
    """A task on its rows, ready to be asked.

    Attributes:
        parts: lm-eval's tasks, one a part, by the protocol's key (and the part).

    Raises:
        UserError: the rows cannot be read or have changed since the job was planned, or the installed lm-eval has
            another version of the task than the protocol says.
    """

    def __init__(self, asked: Ready["ZeroShotProtocol"]) -> None:
        protocol, ref = asked.protocol, asked.source
        self._asked, self._known = asked, TASKS.get(protocol.task)
        rows = self._known.rows(ref)
        self._fingerprint, self._total = rows_identity(rows), len(rows)
        if ref.source != "hub" and self._fingerprint != ref.identity:
            raise UserError(f"{ref.location} has changed since the job was planned; start it again")
        self.parts: dict[str, Any] = {}
        self._rows: dict[str, list[tuple[int, Row]]] = {}
        for part, numbered in groupby(enumerate(rows), key=lambda each: self._known.part_of(each[1])):
            key = protocol.key if part is None else f"{protocol.key}:{part}"
            self._rows[key] = list(numbered)[: protocol.limit]
            self.parts[key] = load_task(protocol.task, protocol.version, [row for _, row in self._rows[key]])

    def answers(self) -> TaskAnswers:
        """What was answered to every question, in the order of the rows."""
        answers = []
        for key, task in self.parts.items():
            requests = sorted(task.instances, key=lambda request: (request.doc_id, request.idx))
            questions = [list(group) for _, group in groupby(requests, key=lambda request: request.doc_id)]
            answers += [self._answer(task, *each) for each in zip(self._rows[key], questions, strict=True)]
        return TaskAnswers(self._asked.protocol.key, self._asked.protocol.task, tuple(answers))

    def _answer(self, task: Any, row: tuple[int, Row], requests: list[Any]) -> Answer:
        question = (row[0], content_id(row[1]))
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
            [len(choice) for choice in choices] if "acc_norm" in self._known.metrics else None,
        )

    def counts(self, cut: set[tuple[str, str]]) -> dict[str, JsonValue]:
        """What a record says of this task alone; `cut` are the texts that the model could not hold."""
        import lm_eval

        requests = [request for task in self.parts.values() for request in task.instances]
        return {
            "num_fewshot": self._known.shots,
            "task_version": self._asked.protocol.version,
            "lm_eval": lm_eval.__version__,
            "requests": len(requests),
            "requests_cut_to_max_length": sum(request.args in cut for request in requests),
            "requests_without_a_number": sum(isnan(answer[0]) for request in requests for answer in request.resps),
        }

    def results(
        self, answered: TaskAnswers, measured: dict[str, Any], details: dict[str, JsonValue]
    ) -> list[EvalResult]:
        """A number for each metric; of a model whose scores are none there is none."""
        found, sizes = [], [len(rows) for rows in self._rows.values()]
        for metric in self._known.metrics:
            values = [float(measured[key][f"{metric},none"]) for key in self.parts]
            errors = [measured[key][f"{metric}_stderr,none"] for key in self.parts]
            right = [each.correct if metric == "acc" else each.correct_norm for each in answered.questions]
            estimate, by_part = Estimate(None, None, sum(sizes), self._subset(sum(sizes))), {}
            # An argmax over NaN would still name an option: that is not a measurement.
            if not details["requests_without_a_number"]:
                value = sum(value * size for value, size in zip(values, sizes, strict=True)) / sum(sizes)
                assert isclose(value, sum(map(bool, right)) / sum(sizes)), f"{metric} is not that of the answers"
                estimate = replace(estimate, value=value, stderr=_pooled(errors, sizes))
                by_part = self._by_part(values)
            found.append(self._asked.result(metric, estimate, details | by_part, fingerprint=self._fingerprint))
        return found

    def _subset(self, count: int) -> str | None:
        """Which questions were asked, where they are not all."""
        if count == self._total:
            return None
        if self._known.part is None:
            return f"first {count} of {self._total} questions"
        return f"first {self._asked.protocol.limit} questions of each {self._known.part[0]}, {count} of {self._total}"

    def _by_part(self, values: list[float]) -> dict[str, JsonValue]:
        if self._known.part is None:
            return {}
        names = [str(self._known.part_of(rows[0][1])) for rows in self._rows.values()]
        return {f"by_{self._known.part[0]}": dict(zip(names, values, strict=True))}


def _pooled(errors: list[Any], sizes: list[int]) -> float | None:
    """The standard error of a mean over parts, as lm-eval pools it; None where a part has no error of its own.

    Lm-eval says "N/A" for the standard error of a single question.
    """
    if not all(isinstance(error, int | float) and not isnan(error) for error in errors):
        return None
    if len(errors) == 1:
        return float(errors[0])
    from lm_eval.api.metrics import pooled_sample_stderr

    return float(pooled_sample_stderr(errors, sizes))
