"""The commands that show single records: show, and compare for what flipped between two of them."""

import argparse
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.console import AddCommand, add_json, add_plugins, add_results_dir, load_plugins, print_rich, width
from harness.errors import UserError, unknown

if TYPE_CHECKING:
    from harness.record import RunRecord
    from harness.reporting.compare import Answered
    from harness.reporting.compare_text import Question


def add_commands(command: AddCommand) -> None:
    """Add the commands; `command` adds one by name, function and help text."""
    sub = command("show", show, "print one record")
    sub.add_argument("job_id", metavar="JOB_ID")
    add_json(sub, "the record itself")
    add_results_dir(sub)
    sub = command("compare", compare_jobs, "compare two jobs on the same questions: flips, margins, tests")
    sub.add_argument("job_a", metavar="JOB_A")
    sub.add_argument("job_b", metavar="JOB_B")
    sub.add_argument("--task", metavar="TASK", help="only this task")
    sub.add_argument("--questions", type=int, default=0, metavar="N", help="show so many flipped questions a metric")
    sub.add_argument("--format", choices=("terminal", "md", "json"), default="terminal")
    add_plugins(sub)
    add_results_dir(sub)


def show(options: argparse.Namespace, _: object) -> int:
    """Print one record."""
    from harness.record import to_json

    record, path = _found(options.results_dir, options.job_id)
    if options.json:
        sys.stdout.write(to_json(record).decode())
    else:
        from harness.reporting.show import render_record

        print_rich(render_record(record))
        print(f"record: {path}")
    return 0


def compare_jobs(options: argparse.Namespace, _: object) -> int:
    """Print what flipped between two jobs."""
    from harness.cli.questions import load_questions
    from harness.reporting.compare import compare
    from harness.reporting.compare_text import write_comparison

    load_plugins(options)
    if options.questions < 0:
        raise UserError(f"--questions {options.questions} shows nothing; allowed: 0 or more")
    comparison = compare(_answered(options, options.job_a), _answered(options, options.job_b), options.task)

    @cache
    def rows(protocol: str) -> Sequence["Question"]:
        return load_questions(next(result for result in comparison.a.results if result.protocol == protocol))

    text = write_comparison(comparison, options.format, width(), options.questions, lambda task: rows(task.protocol_a))
    sys.stdout.write(text)
    return 0


def _answered(options: argparse.Namespace, job_id: str) -> "Answered":
    from harness.reporting.compare import Answered
    from harness.tracking.answers import read

    record, path = _found(options.results_dir, job_id)
    if record.status == "failed":
        raise UserError(f"{job_id} failed, so there is nothing to compare (prunebench show {job_id} says why)")
    return Answered(record, tuple(read(record, path)))


def _found(results_dir: Path, job_id: str) -> "tuple[RunRecord, Path]":
    """The record of a job, done or failed, and its path; a job id is asked for, not the path of a record."""
    from harness.tracking.store import RecordStore

    store = RecordStore(results_dir)
    if job_id and "/" not in job_id and not job_id.startswith("."):
        found = store.find(job_id) or store.failure(job_id)
        if found is not None:
            return found
    known = [record.job_id for record in store.all()]
    raise unknown(f"job in {store.root}", job_id, known or ["(there are no records)"])
