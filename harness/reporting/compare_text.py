"""A comparison of two jobs as text: terminal, Markdown or JSON."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from textwrap import indent, wrap
from typing import Any

from harness.record import JsonValue
from harness.reporting.compare import Comparison, Flip, TaskComparison, judged
from harness.reporting.formats.base import write
from harness.reporting.layout import DASH, Cell, Column, Table, clean, number, signed
from harness.reporting.statistics import CONFIDENCE, QUANTILES, Distribution


@dataclass(frozen=True, slots=True)
class Question:
    """A question as people read it; whoever makes a report hands it in, since records hold no text.

    Args:
        content: names it, as `answers.content_id` does.
        asked: what is asked, a line a field of its data set.
        options: in the order of the scores.
    """

    content: str
    asked: str
    options: tuple[str, ...]


Questions = Callable[[TaskComparison], Sequence[Question]]
"""Loads the questions of a task."""


def write_comparison(
    comparison: Comparison, format: str, width: int, questions: int = 0, rows: Questions | None = None
) -> str:
    """The comparison as text, ending in a newline.

    Args:
        format: terminal, md or json.
        width: characters a line of ``terminal``.
        questions: how many flipped questions to show a task and metric, those that moved most.
        rows: loads the questions, needed when `questions` > 0.

    Raises:
        UserError: questions are asked for and are not at hand.
    """
    shown = [
        (task, [(flip, rows(task)[flip.a.index]) for flip in task.flips[:questions]])
        for task in comparison.tasks
        if questions and rows
    ]
    if format == "json":
        return json.dumps(_plain(comparison, shown), indent=2, ensure_ascii=False) + "\n"
    tables = [_jobs(comparison), accuracies(comparison), margins(comparison)]
    parts = [write(table, format, width).rstrip("\n") for table in tables if table.rows]
    quote = "    " if format == "md" else ""  # an indented block, which Markdown shows as it is
    blocks = ["\n".join(_question(task, flip, row, width)) for task, flips in shown for flip, row in flips]
    parts += [indent(block, quote, lambda _: True) for block in blocks]
    return "\n\n".join(parts) + "\n"


def _jobs(comparison: Comparison) -> Table:
    cells = [(Cell(name), Cell(_value(a)), Cell(_value(b))) for name, a, b in comparison.fields]
    ids = (Cell("job"), Cell(comparison.a.job_id), Cell(comparison.b.job_id))
    return Table("Where the jobs differ", (Column("field"), Column("A"), Column("B")), (ids, *cells))


def _value(value: JsonValue) -> str:
    return DASH if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def accuracies(comparison: Comparison) -> Table:
    """Accuracy of both, their difference with its interval, and what of it may be chance."""
    headers = ("task", "metric", "A", "B", "B - A", f"{CONFIDENCE:.0%} interval", "only A right", "only B right")
    rows = []
    for task in comparison.tasks:
        numbers = [number(100 * task.accuracy_a), number(100 * task.accuracy_b), signed(100 * task.difference)]
        between = f"{signed(100 * task.low)} to {signed(100 * task.high)}"
        counts = (str(task.only_a), str(task.only_b), f"{task.p_value:.3g}", str(task.questions))
        rows.append(tuple(map(Cell, (task.task, task.metric, *numbers, between, *counts))))
    columns = tuple(map(Column, (*headers, "p", "questions")))
    return Table("Accuracy in percent, on the same questions", columns, tuple(rows), tuple(_notes(comparison)))


def _notes(comparison: Comparison) -> Iterator[str]:
    yield "interval: paired bootstrap of B - A, percentile, over all resamples; p: McNemar's exact test"
    yield from dict.fromkeys(f"{task.task}: {task.note}" for task in comparison.tasks if task.note)
    for name, why in comparison.left_out:
        yield f"{name} is left out: {why}"


def margins(comparison: Comparison) -> Table:
    """How far the right option lies above the best other one, and how that moved."""
    headers = ("task", "metric", "A", "B", "B - A", *(f"{share:.0%}" for share in QUANTILES))
    rows = []
    for task in comparison.tasks:
        spreads: tuple[Distribution, ...] = (task.margin_a, task.margin_b, task.margin_change)
        values = [*(spread.mean for spread in spreads), *task.margin_change.quantiles]
        texts = [DASH if value is None else f"{value:.3f}" for value in values]
        if task.margin_change.count:
            rows.append(tuple(map(Cell, (task.task, task.metric, *texts))))
    note = "log-likelihood of the right option minus that of the best other one (acc_norm: per character)"
    title = "Mean margin in nats, and quantiles of B - A over the questions"
    return Table(title, tuple(map(Column, headers)), tuple(rows), (note,))


def _question(task: TaskComparison, flip: Flip, question: Question, width: int) -> list[str]:
    """A flipped question: what is asked, and every option with both jobs' log-likelihoods."""
    who = "A right, B wrong" if flip.a_right else "A wrong, B right"
    lines = [f"{task.task} ({task.metric}), question {flip.a.index}: {who}"]
    for text in question.asked.split("\n"):
        lines += [indent(line, "  ") for line in wrap(clean(text), max(width - 2, 20))]
    for option, text in enumerate(question.options):
        scores = [number(answer.log_likelihoods[option]) for answer in (flip.a, flip.b)]
        sides = (("A", flip.a), ("B", flip.b))
        chosen = [name for name, answer in sides if judged(answer, task.metric).predicted == option]
        marks = (["right"] if option == flip.a.gold else []) + ([f"chosen by {' and '.join(chosen)}"] if chosen else [])
        said = f" ({', '.join(marks)})" if marks else ""
        lines.append(f"  [{option}]{said} A {scores[0]}, B {scores[1]} nats")
        lines += [indent(line, "      ") for line in wrap(clean(text), max(width - 6, 20))]
    return lines


def _plain(
    comparison: Comparison, shown: Sequence[tuple[TaskComparison, Sequence[tuple[Flip, Question]]]]
) -> dict[str, Any]:
    """For machines: every number, every flip, and the rows that were asked for."""
    tasks = [asdict(task) for task in comparison.tasks]
    for task, (_, flips) in zip(tasks, shown, strict=False):
        texts = {flip.a.index: row for flip, row in flips}
        for flip in task["flips"]:
            if flip["a"]["index"] in texts:
                row = texts[flip["a"]["index"]]
                flip |= {"question": row.asked, "options": list(row.options)}
    return {
        "a": comparison.a.job_id,
        "b": comparison.b.job_id,
        "fields": [{"field": name, "a": a, "b": b} for name, a, b in comparison.fields],
        "tasks": tasks,
        "left_out": [{"task": name, "why": why} for name, why in comparison.left_out],
    }
