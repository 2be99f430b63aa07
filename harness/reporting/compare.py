"""Two jobs on the same questions: which answers flipped, how the margins moved, and what of it may be chance."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple, cast

from harness.answers import Answer, TaskAnswers
from harness.errors import UserError, unknown
from harness.record import EvalResult, JsonValue, RunRecord
from harness.reporting.statistics import Distribution, mcnemar, paired_interval


@dataclass(frozen=True, slots=True)
class Answered:
    """A record and the answers beside it."""

    record: RunRecord
    answers: tuple[TaskAnswers, ...]

    def tasks(self) -> list[str]:
        """The zero-shot tasks that it measured."""
        return list(dict.fromkeys(result.task for result in self.record.results if result.kind == "zero_shot"))

    def protocols(self, task: str) -> list[tuple[EvalResult, TaskAnswers | None]]:
        """A result of every protocol of a task, with the answers where they were kept."""
        kept = {answers.protocol: answers for answers in self.answers}
        found = [result for result in self.record.results if result.kind == "zero_shot" and result.task == task]
        return [(result, kept.get(key)) for key, result in {result.protocol: result for result in found}.items()]


@dataclass(frozen=True, slots=True)
class Flip:
    """A question that one job answers rightly and the other does not."""

    a: Answer
    b: Answer
    a_right: bool


@dataclass(frozen=True, slots=True)
class TaskComparison:
    """One metric of one task on the questions that both jobs answered.

    Args:
        protocol_a, protocol_b: equal, or different first-so-many of the same questions.
        questions: how many both answered with a number.
        both_right, only_a, only_b, both_wrong: what became of them.
        accuracy_a, accuracy_b: on these questions, as fractions; difference: b minus a.
        low, high: confidence interval of the difference, see `paired_interval`.
        p_value: see `mcnemar`.
        margin_a, margin_b, margin_change: of the right option over the best other one, in nats (per character for
            acc_norm); change: b minus a, question by question.
        flips: those of `only_a` and `only_b`, the largest change of the margin first.
        note: what a reader must know, empty when there is nothing.
    """

    task: str
    metric: str
    protocol_a: str
    protocol_b: str
    questions: int
    both_right: int
    only_a: int
    only_b: int
    both_wrong: int
    accuracy_a: float
    accuracy_b: float
    difference: float
    low: float
    high: float
    p_value: float
    margin_a: Distribution
    margin_b: Distribution
    margin_change: Distribution
    flips: tuple[Flip, ...]
    note: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two jobs, task by task.

    Args:
        fields: (name, value of a, value of b) where the identities of the jobs differ, then how they ran.
        left_out: (task, why it cannot be compared).
    """

    a: RunRecord
    b: RunRecord
    fields: tuple[tuple[str, JsonValue, JsonValue], ...]
    tasks: tuple[TaskComparison, ...]
    left_out: tuple[tuple[str, str], ...]


def compare(a: Answered, b: Answered, task: str | None = None) -> Comparison:
    """Compare two jobs on the questions that both answered.

    Args:
        task: only this one; None = every task that both measured.

    Raises:
        UserError: the jobs share no task, `task` is none that they share, or none of these can be compared: other
            data, another version of the task, or no answers kept.
    """
    shared = [name for name in a.tasks() if name in b.tasks()]
    if not shared:
        raise UserError(f"{a.record.job_id} and {b.record.job_id} share no zero-shot task")
    if task is not None and task not in shared:
        raise unknown("task of both jobs", task, shared)
    compared: list[TaskComparison] = []
    left_out: list[tuple[str, str]] = []
    for name in [task] if task is not None else shared:
        try:
            compared += _compare_task(name, a, b)
        except UserError as error:
            if task is not None:
                raise
            left_out.append((name, str(error)))
    if not compared:
        raise UserError(left_out[0][1])
    return Comparison(a.record, b.record, _differing(a.record, b.record), tuple(compared), tuple(left_out))


def _compare_task(task: str, a: Answered, b: Answered) -> list[TaskComparison]:
    first, second = _same_questions(task, a, b)
    others = {answer.question: answer for answer in second.questions}
    pairs = [(one, others[one.question]) for one in first.questions if one.question in others]
    metrics = [result.metric for result in a.record.results if result.protocol == first.protocol]
    return [_compare_metric(metric, first, second, pairs) for metric in metrics]


def _same_questions(task: str, a: Answered, b: Answered) -> tuple[TaskAnswers, TaskAnswers]:
    """The two sets of answers with most questions in common, under one protocol where there are several.

    A task may have been measured on different numbers of its first questions; the same question under the same
    version of the task is the same measurement.
    """
    found: list[tuple[int, bool, TaskAnswers, TaskAnswers]] = []
    problems: list[str] = []
    for (one, first), (other, second) in product(a.protocols(task), b.protocols(task)):
        problem = _problem(task, one, other)
        missing = [job.record.job_id for job, kept in ((a, first), (b, second)) if kept is None]
        if problem or first is None or second is None:
            kept_none = f"{' and '.join(missing)} kept no answers to the questions of {task} (force=true runs it again)"
            problems.append(problem or kept_none)
            continue
        common = {answer.question for answer in first.questions} & {each.question for each in second.questions}
        found.append((len(common), one.protocol == other.protocol, first, second))
    if not found:
        raise UserError(problems[0])
    return max(found, key=lambda entry: entry[:2])[2:]


def _problem(task: str, a: EvalResult, b: EvalResult) -> str | None:
    """Why answers under these two protocols are not to the same questions; None when they are."""
    if a.data_fingerprint != b.data_fingerprint:
        return f"{task} was measured on different questions: {a.data_fingerprint} ({a.data_source}) and " + (
            f"{b.data_fingerprint} ({b.data_source})"
        )
    if len({re.sub(r":first\d+", "", result.protocol) for result in (a, b)}) > 1:
        return f"{task} was measured under different protocols: {a.protocol} and {b.protocol}"
    return None


class Judged(NamedTuple):
    """An answer by one metric: the option that counts, whether it is right, and the margin; see `Answer`."""

    predicted: int | None
    right: bool | None
    margin: float | None


def judged(answer: Answer, metric: str) -> Judged:
    """An answer by `acc` or `acc_norm`."""
    if metric == "acc":
        return Judged(answer.predicted, answer.correct, answer.margin)
    return Judged(answer.predicted_norm, answer.correct_norm, answer.margin_norm)


def _compare_metric(
    metric: str, first: TaskAnswers, second: TaskAnswers, pairs: Sequence[tuple[Answer, Answer]]
) -> TaskComparison:
    sides = [(Flip(a, b, bool(judged(a, metric).right)), judged(a, metric), judged(b, metric)) for a, b in pairs]
    known = [(flip, a, b) for flip, a, b in sides if a.right is not None and b.right is not None]
    if not known:
        raise UserError(f"{first.task} has no question that both jobs answered with a number")
    count, sizes = len(known), (len(first.questions), len(second.questions))
    both, only_a, only_b = (
        sum((bool(a.right), bool(b.right)) == right for _, a, b in known)
        for right in ((True, True), (True, False), (False, True))
    )
    low, high = paired_interval(only_a, only_b, count)
    flips = [(_moved(flip, a, b), flip) for flip, a, b in known if a.right != b.right]
    flips.sort(key=lambda one: (-one[0], one[1].a.index))
    return TaskComparison(
        task=first.task,
        metric=metric,
        protocol_a=first.protocol,
        protocol_b=second.protocol,
        questions=count,
        both_right=both,
        only_a=only_a,
        only_b=only_b,
        both_wrong=count - both - only_a - only_b,
        accuracy_a=(both + only_a) / count,
        accuracy_b=(both + only_b) / count,
        difference=(only_b - only_a) / count,
        low=low,
        high=high,
        p_value=mcnemar(only_a, only_b),
        margin_a=Distribution.of(a.margin for _, a, _ in known),
        margin_b=Distribution.of(b.margin for _, _, b in known),
        margin_change=Distribution.of(_change(a.margin, b.margin) for _, a, b in known),
        flips=tuple(flip for _, flip in flips),
        note="" if sizes == (count, count) else f"{count} questions in common, of {sizes[0]} (A) and {sizes[1]} (B)",
    )


def _change(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else b - a


def _moved(flip: Flip, a: Judged, b: Judged) -> float:
    """How far a question moved: by its margin, or by its log-likelihood where it has one option."""
    moved = _change(a.margin, b.margin)
    if moved is None:
        moved = flip.b.log_likelihoods[0] - flip.a.log_likelihoods[0]
    return abs(moved) if not math.isnan(moved) else math.inf


def _differing(a: RunRecord, b: RunRecord) -> tuple[tuple[str, JsonValue, JsonValue], ...]:
    sides = [
        _flat(cast("Mapping[str, JsonValue]", record.job))
        | {"weights in": record.provenance.dtype, "ran on": record.provenance.device}
        for record in (a, b)
    ]
    values = [(name, sides[0].get(name), sides[1].get(name)) for name in dict.fromkeys([*sides[0], *sides[1]])]
    return tuple((name, one, other) for name, one, other in values if one != other)


def _flat(fields: Mapping[str, JsonValue], prefix: str = "") -> dict[str, JsonValue]:
    """Nested fields under dotted names."""
    flat: dict[str, JsonValue] = {}
    for name, value in fields.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
