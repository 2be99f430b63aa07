"""Answers to single questions, packed for the view that compares jobs."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from harness.answers import Answer, TaskAnswers
from harness.errors import UserError
from harness.record import EvalResult, RunRecord
from harness.reporting.page.details import packed
from harness.reporting.questions import Question
from harness.tracking.answers import read
from harness.tracking.store import RecordStore

ANSWER_BUDGET = 2_000_000
"""Most answers in one page, about 10 MB; jobs that ended last have theirs first."""

UNKNOWN = "."

Texts = Mapping[tuple[str, int, str], str]
"""Questions with their options by task, index and content."""


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers of jobs by job id, what could not be read and why, and the questions' texts."""

    by_job: Mapping[str, Sequence[TaskAnswers]]
    problems: tuple[str, ...] = ()
    texts: Texts = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PackedAnswers:
    """Blocks by name, and the rows that have answers."""

    blocks: Mapping[str, str]
    rows: tuple[int, ...]


def load_answers(
    store: RecordStore,
    records: Sequence[RunRecord],
    questions_of: Callable[[EvalResult], Sequence[Question]] | None = None,
    budget: int = ANSWER_BUDGET,
) -> Answers:
    """The answers of the latest jobs that fit the budget together.

    Args:
        questions_of: finds the questions that a result was measured on, for the texts; None = the page has no texts.
    """
    by_job: dict[str, list[TaskAnswers]] = {}
    problems: list[str] = []
    for record in sorted(records, key=lambda record: record.provenance.created, reverse=True):
        if record.questions is None:
            continue
        budget -= record.questions.rows
        if budget < 0:
            problems.append("this page holds the answers to single questions of the latest jobs only")
            break
        try:
            by_job[record.job_id] = read(record, store.path_of(record))
        except UserError as error:
            problems.append(str(error))
    found: dict[tuple[str, int, str], str] = {}
    for result in _asked_results(records, by_job):
        try:
            found |= _texts_of(result.task, questions_of(result)) if questions_of else {}
        except UserError as error:
            problems.append(str(error))
    return Answers(by_job, tuple(problems), found)


def packed_answers(job_ids: Sequence[str], answers: Answers | None) -> PackedAnswers:
    """A block ``answers-ROW`` a job, and a block ``asked-N`` for every list of questions that jobs have in common."""
    if answers is None:
        return PackedAnswers({}, ())
    asked: dict[tuple[object, ...], str] = {}
    blocks: dict[str, str] = {}
    rows = []
    for row, job_id in enumerate(job_ids):
        if job_id not in answers.by_job:
            continue
        rows.append(row)
        tasks = []
        for answered in answers.by_job[job_id]:
            key = (answered.protocol, *(question.question for question in answered.questions))
            if key not in asked:
                asked[key] = f"asked-{len(asked)}"
                blocks[asked[key]] = _pack(_asked(answered, answers.texts))
            tasks.append(_answered(answered, asked[key]))
        blocks[f"answers-{row}"] = _pack(tasks)
    return PackedAnswers(blocks, tuple(rows))


def _pack(value: object) -> str:
    return packed(json.dumps(value, separators=(",", ":"), allow_nan=False).encode())


def _asked(answered: TaskAnswers, texts: Texts) -> dict[str, object]:
    found = [texts.get((answered.task, *question.question)) for question in answered.questions]
    return {
        "index": [question.index for question in answered.questions],
        "content": [question.content for question in answered.questions],
        "gold": [question.gold for question in answered.questions],
        "text": found if any(found) else None,
    }


def _answered(answered: TaskAnswers, asked: str) -> dict[str, object]:
    """Choices and marks as one character a question, margins in hundredths of a nat (`acc_norm`: thousandths)."""
    questions = answered.questions
    metrics = {"acc": _choices(questions, "", 100)}
    if any(question.correct_norm is not None for question in questions):
        metrics["acc_norm"] = _choices(questions, "_norm", 1000)
    return {"protocol": answered.protocol, "task": answered.task, "asked": asked, "metrics": metrics}


def _choices(questions: Sequence[Answer], suffix: str, scale: int) -> dict[str, object]:
    chosen = [getattr(question, f"predicted{suffix}") for question in questions]
    right = [getattr(question, f"correct{suffix}") for question in questions]
    margins = [getattr(question, f"margin{suffix}") for question in questions]
    return {
        "chosen": "".join(UNKNOWN if choice is None else chr(ord("0") + choice) for choice in chosen),
        "right": "".join(UNKNOWN if mark is None else str(int(mark)) for mark in right),
        "margin": [_whole(margin, scale) for margin in margins],
        "scale": scale,
    }


def _whole(margin: float | None, scale: int) -> int | None:
    """None also for an infinite margin, which no number in the page could show."""
    return None if margin is None or abs(margin) == float("inf") else round(margin * scale)


def _asked_results(records: Sequence[RunRecord], by_job: Mapping[str, object]) -> list[EvalResult]:
    """One result a content of questions: what its rows are found by."""
    results = {
        (result.task, result.data_fingerprint): result
        for record in records
        if record.job_id in by_job
        for result in record.results
        if result.kind == "zero_shot"
    }
    return list(results.values())


def _texts_of(task: str, questions: Sequence[Question]) -> dict[tuple[str, int, str], str]:
    """The question, then its options, one a line, numbered as the answers are."""
    return {
        (task, index, each.content): "\n".join(
            [each.asked, *(f"[{place}] {text}" for place, text in enumerate(each.options))]
        )
        for index, each in enumerate(questions)
    }
