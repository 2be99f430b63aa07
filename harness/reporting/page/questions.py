"""Which single questions two jobs answer differently, ready for the view that compares jobs."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from harness.answers import TaskAnswers
from harness.errors import UserError
from harness.record import EvalResult, RunRecord
from harness.reporting.compare import Answered, Comparison, TaskComparison, compare, judged
from harness.reporting.compare_text import Question, accuracies, margins
from harness.reporting.layout import DASH, Cell, Column, Table, signed
from harness.reporting.page.details import packed
from harness.reporting.published import DENSE
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
    asked = {
        (result.task, result.data_fingerprint): result
        for record in records
        if record.job_id in by_job
        for result in record.results
        if result.kind == "zero_shot"
    }
    texts: dict[tuple[str, int, str], str] = {}
    for result in asked.values():
        try:
            for index, each in enumerate(questions_of(result) if questions_of else ()):
                options = [f"[{place}] {text}" for place, text in enumerate(each.options)]
                texts[result.task, index, each.content] = "\n".join([each.asked, *options])
        except UserError as error:
            problems.append(str(error))
    return Answers(by_job, tuple(problems), texts)


def packed_comparisons(records: Sequence[RunRecord], answers: Answers) -> dict[str, str]:
    """A block ``compared-A-B`` for the jobs in rows A < B, dense models with their pruned ones first.

    As many as fit the budget; of two jobs that cannot be compared the block says why.
    """

    def remoteness(pair: tuple[int, int]) -> tuple[bool, bool]:
        a, b = (records[row].job for row in pair)
        return a["model"] != b["model"], a["method"]["name"] != DENSE

    rows = [row for row, record in enumerate(records) if record.job_id in answers.by_job]
    budget = COMPARED_BUDGET
    blocks = {}
    for a, b in sorted(combinations(rows, 2), key=remoteness):
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
    rows = []
    for flip, text in zip(shown, asked, strict=True):
        sides = [judged(answer, task.metric) for answer in (flip.a, flip.b)]
        who = "only A right" if flip.a_right else "only B right"
        chosen = " → ".join(DASH if side.predicted is None else str(side.predicted) for side in sides)
        margin = " → ".join(DASH if side.margin is None else signed(side.margin) for side in sides)
        said = (str(flip.a.index), who, str(flip.a.gold), chosen, margin, *([text or DASH] if any(asked) else []))
        rows.append(tuple(map(Cell, said)))
    headers = ("question", "flip", "right option", "chosen", "margin", *(["text"] if any(asked) else []))
    cut = f", the {FLIPS_SHOWN} whose margin changed most" if len(shown) < len(task.flips) else ""
    title = f"{task.task} {task.metric}: {len(task.flips)} flipped questions{cut}"
    return Table(title, tuple(map(Column, headers)), tuple(rows))


def _plain(table: Table) -> dict[str, object]:
    return {
        "title": table.title,
        "headers": [column.title for column in table.columns],
        "rows": [[cell.written(table.order) for cell in row] for row in table.rows],
        "notes": table.footnotes,
    }
