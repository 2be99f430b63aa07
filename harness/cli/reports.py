"""The commands of the command line that show records: show, compare, report and serve."""

import argparse
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.console import AddCommand, print_rich, width
from harness.errors import UserError, unknown

if TYPE_CHECKING:
    from harness.record import RunRecord
    from harness.reporting.compare import Answered
    from harness.reporting.layout import Table
    from harness.tracking.store import RecordStore

COMPARE_FORMATS = ("terminal", "md", "json")
MOST_PORT = 65_535


def add_commands(command: AddCommand) -> None:
    """Add the commands; `command` adds one by name, function and help text."""
    sub = command("show", show, "print one record")
    sub.add_argument("job_id", metavar="JOB_ID")
    sub.add_argument("--json", action="store_true", help="print the record itself")
    _add_results_dir(sub)
    sub = command("compare", compare_jobs, "compare two jobs on the same questions: flips, margins, tests")
    sub.add_argument("job_a", metavar="JOB_A")
    sub.add_argument("job_b", metavar="JOB_B")
    sub.add_argument("--task", metavar="TASK", help="only this task")
    sub.add_argument("--questions", type=int, default=0, metavar="N", help="show so many flipped questions a metric")
    sub.add_argument("--format", choices=COMPARE_FORMATS, default="terminal")
    _add_results_dir(sub)
    sub = command("report", report, "print the comparison table of all records, or one published table")
    which = sub.add_mutually_exclusive_group()
    which.add_argument("--experiment", metavar="NAME", help="only the jobs of this experiment")
    which.add_argument(
        "--table", metavar="TABLE_ID", help="a table of a paper, for example SGPT-T1, or METHODS for their properties"
    )
    sub.add_argument(
        "--from", dest="source", metavar="WHERE", help="wandb:ENTITY/PROJECT or a folder of offline runs, not records"
    )
    sub.add_argument("--mean-over", choices=("seed",), help="one row for jobs that differ in the seed only")
    sub.add_argument(
        "--knees", action="store_true", help="up to which sparsity each method goes before a step costs 1 %%"
    )
    sub.add_argument("--plots", type=Path, metavar="DIR", help="draw every figure that the records allow instead")
    sub.add_argument(
        "--format", metavar="NAME", default="terminal", help="terminal, md, csv, latex, html, json or one of a plug-in"
    )
    sub.add_argument("--plugins", type=Path, metavar="DIR", help="folder of Python files that add formats or figures")
    sub.add_argument("--output", type=Path, metavar="FILE", help="write to a file")
    sub.add_argument("--html", type=Path, metavar="FILE", help="write all jobs as one interactive page")
    sub.add_argument("--with-questions", action="store_true", help="with --html: the texts of questions, too")
    _add_results_dir(sub)
    sub = command("serve", serve_page, "show the page of all jobs in a browser, live while jobs run")
    sub.add_argument("--port", type=int, default=8765, help="0 = any free one (default: %(default)s)")
    sub.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    _add_results_dir(sub)


def _add_results_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results-dir", type=Path, default=Path("results"), metavar="DIR")


def show(options: argparse.Namespace, _: object) -> int:
    """Print one record."""
    from harness.record import to_json
    from harness.tracking.store import RecordStore

    store = RecordStore(options.results_dir)
    _check_job_id(store, options.job_id)
    found = store.find(options.job_id) or store.failure(options.job_id)
    if found is None:
        raise _unknown_job(store, options.job_id)
    if options.json:
        sys.stdout.write(to_json(found[0]).decode())
    else:
        from harness.reporting.show import render_record

        print_rich(render_record(found[0]))
        print(f"record: {found[1]}")
    return 0


def compare_jobs(options: argparse.Namespace, _: object) -> int:
    """Print what flipped between two jobs."""
    from harness.cli.questions import load_questions
    from harness.reporting.compare import compare
    from harness.reporting.compare_text import write_comparison

    if options.questions < 0:
        raise UserError(f"--questions {options.questions} shows nothing; allowed: 0 or more")
    comparison = compare(_answered(options, options.job_a), _answered(options, options.job_b), options.task)

    @cache
    def rows(protocol: str) -> Sequence[dict[str, Any]]:
        return load_questions(next(result for result in comparison.a.results if result.protocol == protocol))

    text = write_comparison(comparison, options.format, width(), options.questions, lambda task: rows(task.protocol_a))
    sys.stdout.write(text)
    return 0


def _answered(options: argparse.Namespace, job_id: str) -> "Answered":
    from harness.reporting.compare import Answered
    from harness.tracking.answers import read
    from harness.tracking.store import RecordStore

    store = RecordStore(options.results_dir)
    _check_job_id(store, job_id)
    found = store.find(job_id)
    if found is None:
        if store.failure(job_id) is not None:
            raise UserError(f"{job_id} failed, so there is nothing to compare (prunebench show {job_id} says why)")
        raise _unknown_job(store, job_id)
    return Answered(found[0], tuple(read(*found)))


def _check_job_id(store: "RecordStore", job_id: str) -> None:
    """A job id is asked for, not the path of its record."""
    if not job_id or "/" in job_id or job_id.startswith("."):
        raise _unknown_job(store, job_id)


def _unknown_job(store: "RecordStore", job_id: str) -> UserError:
    known = [record.job_id for record in store.all()]
    return unknown(f"job in {store.root}", job_id, known or ["(there are no records)"])


def report(options: argparse.Namespace, _: object) -> int:
    """Print or write a table, figures, or the page of all jobs."""
    from harness.registry import load_folder
    from harness.reporting.papers import paper_table
    from harness.reporting.published import load
    from harness.tracking.store import RecordStore

    if options.plugins is not None:
        load_folder(options.plugins)
    _check_report(options)
    store = RecordStore(options.results_dir)
    records = _records(options.source, store)
    if options.table == "METHODS":
        from harness.cli.properties import method_properties
        from harness.reporting.properties import property_table

        return _put(property_table(method_properties()), options)
    if options.table:
        means = options.mean_over == "seed"
        return _put(paper_table(options.table, records, load(), mean_over_seed=means), options)
    records += store.failures() if options.html and not options.source else []
    if options.experiment:
        wanted = _jobs_of(options.experiment)
        records = [record for record in records if record.job_id in wanted]
    if not records:
        where = options.source or options.results_dir
        raise UserError(f"no records in {where}; run some jobs first (prunebench run)")
    if options.plots:
        return _plots(records, options.plots)
    if options.html:
        return _write_page(options, store, records)
    return _put(_measured_table(records, options), options)


def _check_report(options: argparse.Namespace) -> None:
    """Say which options do not go together.

    Raises:
        UserError: they do not, or there is no such format.
    """
    from harness.reporting.formats.base import FORMATS

    FORMATS.get(options.format)
    if options.with_questions and not options.html:
        raise UserError("--with-questions goes with --html")
    if options.html and (options.table or options.output or options.plots):
        raise UserError("--html writes the page of all jobs; drop --table, --output and --plots")
    if options.plots and (options.table or options.output):
        raise UserError("--plots draws figures of the records into a folder; drop --table and --output")
    if options.knees and (options.table or options.plots or options.html or options.mean_over):
        raise UserError("--knees is a table of its own; drop --table, --plots, --html and --mean-over")


def _jobs_of(experiment: str) -> set[str]:
    """Ids of the jobs that an experiment names."""
    from harness.config.hydra import compose
    from harness.config.request import JobRequest

    jobs = compose([f"+experiment={experiment}"], multirun=True).jobs
    return {job.spec.job_id for job in jobs if isinstance(job, JobRequest)}


def _measured_table(records: "Sequence[RunRecord]", options: argparse.Namespace) -> "Table":
    from harness.reporting.knee import knees
    from harness.reporting.published import load
    from harness.reporting.tables import comparison

    if options.knees:
        return knees(records)
    return comparison(records, load(), mean_over_seed=options.mean_over == "seed")


def _put(table: "Table", options: argparse.Namespace) -> int:
    """Print a table, or write it to a file."""
    from harness.reporting.formats.base import write

    if options.output:
        try:
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(write(table, options.format), encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write {options.output}: {error.strerror or error}") from error
    else:
        sys.stdout.write(write(table, options.format, width()))
    return 0


def _records(source: str | None, store: "RecordStore") -> "list[RunRecord]":
    if source is None:
        return store.all()
    from harness.tracking.wandb.read import read_back

    return read_back(source)


def _write_page(options: argparse.Namespace, store: "RecordStore", records: "Sequence[RunRecord]") -> int:
    from harness.cli.questions import load_questions
    from harness.reporting.page.build import page, payload
    from harness.reporting.page.questions import load_answers
    from harness.reporting.published import load

    answers = (
        None if options.source else load_answers(store, records, load_questions if options.with_questions else None)
    )
    text = page(*payload(records, load(), answers))
    try:
        options.html.parent.mkdir(parents=True, exist_ok=True)
        options.html.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {options.html}: {error.strerror or error}") from error
    print(f"{len(records)} jobs in {options.html}, {len(text) / 1e6:.1f} MB")
    return 0


def serve_page(options: argparse.Namespace, _: object) -> int:
    """Serve the page of all jobs until Ctrl-C."""
    from harness.cli.serve import serve

    if not options.results_dir.is_dir():
        raise UserError(f"--results-dir {options.results_dir} is no folder; run some jobs first (prunebench run)")
    if not 0 <= options.port <= MOST_PORT:
        raise UserError(f"--port {options.port} is no port; allowed: 0 (any free one) to {MOST_PORT}")
    serve(options.results_dir, options.host, options.port, lambda text: print(text, flush=True))
    return 0


def _plots(records: "Sequence[RunRecord]", folder: Path) -> int:
    from harness.reporting.figures.files import Drawn, draw_all
    from harness.reporting.published import load

    for outcome in draw_all(records, load(), folder):
        if isinstance(outcome, Drawn):
            print(f"{outcome.png} and .pdf")
        else:
            print(f"not drawn: {outcome.name}: {outcome.why}")
    return 0
