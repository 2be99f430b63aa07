"""Which single questions two jobs answer differently, ready for the view that compares jobs."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from harness.answers import TaskAnswers
from harness.errors import UserError
from harness.record import EvalResult, RunRecord
from harness.reporting.compare import Answered, Comparison, Flip, TaskComparison, compare
from harness.reporting.compare_text import accuracies, choice, margins
from harness.reporting.frame import describe
from harness.reporting.layout import DASH, Cell, Column, Table, signed
from harness.reporting.page.details import packed
from harness.reporting.questions import Question
from harness.tracking.answers import read
from harness.tracking.store import RecordStore

ANSWER_BUDGET = 2_000_000
"""Most answers in one page, about 10 MB; jobs that ended last have theirs first."""

COMPARED_BUDGET = 400_000
"""Most questions that are compared, about ten seconds' worth; `prunebench compare` has no limit."""

FLIPS_SHOWN = 100

Texts = Mapping[tuple[str, int, str], str]
"""Questions with their options by task, index and content."""


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers of jobs by job id, what could not be read and why, and the questions' texts."""

    by_job: Mapping[str, Sequence[TaskAnswers]]
    problems: tuple[str, ...] = ()
    texts: Texts = field(default_factory=dict)


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


def packed_comparisons(records: Sequence[RunRecord], answers: Answers) -> dict[str, str]:
    """A block ``compared-A-B`` for the jobs in rows A < B, dense models with their pruned ones first.

    As many as fit the budget; of two jobs that cannot be compared the block says why.
    """
    rows = [row for row, record in enumerate(records) if record.job_id in answers.by_job]
    budget = COMPARED_BUDGET
    blocks = {}
    for a, b in sorted(combinations(rows, 2), key=lambda pair: _remoteness(records[pair[0]], records[pair[1]])):
        one, other = (Answered(records[row], tuple(answers.by_job[records[row].job_id])) for row in (a, b))
        budget -= sum(len(task.questions) for task in one.answers)
        if budget < 0:
            break
        try:
            found: object = [_plain(table) for table in _tables(compare(one, other), answers.texts)]
        except UserError as error:
            found = str(error)
        blocks[f"compared-{a}-{b}"] = packed(json.dumps(found, separators=(",", ":")).encode())
    return blocks


def _remoteness(a: RunRecord, b: RunRecord) -> tuple[bool, bool]:
    return a.job["model"] != b.job["model"], not describe(a).is_dense


def _tables(comparison: Comparison, texts: Texts) -> Iterator[Table]:
    yield accuracies(comparison)
    yield margins(comparison)
    for task in comparison.tasks:
        if task.flips:
            yield _flips(task, texts)


def _flips(task: TaskComparison, texts: Texts) -> Table:
    """The questions that moved most."""
    shown = task.flips[:FLIPS_SHOWN]
    asked = [texts.get((task.task, *flip.a.question), "") for flip in shown]
    rows = [
        (
            *(str(flip.a.index), "only A right" if flip.a_right else "only B right", str(flip.a.gold)),
            *(f"{_said(choice(task, flip.a))} → {_said(choice(task, flip.b))}", _margins(task, flip)),
            *([text or DASH] if any(asked) else []),
        )
        for flip, text in zip(shown, asked, strict=True)
    ]
    headers = ("question", "flip", "right option", "chosen", "margin", *(["text"] if any(asked) else []))
    cut = f", the {FLIPS_SHOWN} whose margin changed most" if len(shown) < len(task.flips) else ""
    title = f"{task.task} {task.metric}: {len(task.flips)} flipped questions{cut}"
    return Table(title, tuple(map(Column, headers)), tuple(tuple(map(Cell, row)) for row in rows))


def _margins(task: TaskComparison, flip: Flip) -> str:
    sides = [flip.a.margin if task.metric == "acc" else flip.a.margin_norm]
    sides += [flip.b.margin if task.metric == "acc" else flip.b.margin_norm]
    return " → ".join(DASH if side is None else signed(side) for side in sides)


def _said(option: int | None) -> str:
    return DASH if option is None else str(option)


def _plain(table: Table) -> dict[str, object]:
    return {
        "title": table.title,
        "headers": [column.title for column in table.columns],
        "rows": [[cell.written(table.order) for cell in row] for row in table.rows],
        "notes": table.footnotes,
    }


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
