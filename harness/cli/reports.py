"""The commands that show all records: report, as tables, figures or a page, and serve."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.console import AddCommand, add_plugins, add_results_dir, load_plugins, width
from harness.errors import UserError

if TYPE_CHECKING:
    from harness.record import RunRecord
    from harness.reporting.layout import Table
    from harness.tracking.store import RecordStore

MOST_PORT = 65_535


def add_commands(command: AddCommand) -> None:
    """Add the commands; `command` adds one by name, function and help text."""
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
    shape = sub.add_mutually_exclusive_group()
    shape.add_argument("--rows", action="store_true", help="one row a job, as the other formats than terminal have it")
    shape.add_argument("--matrix", metavar="METRIC", help="methods by pattern and sparsity, in any format")
    shape.add_argument(
        "--knees", action="store_true", help="up to which sparsity each method goes before a step costs 1 %%"
    )
    sub.add_argument("--plots", type=Path, metavar="DIR", help="draw every figure that the records allow instead")
    sub.add_argument(
        "--columns",
        type=int,
        choices=(1, 2),
        default=2,
        help="with --plots: as wide as so many of a paper (%(default)s)",
    )
    sub.add_argument(
        "--format", metavar="NAME", default="terminal", help="terminal, md, csv, latex, html, json or one of a plug-in"
    )
    add_plugins(sub)
    sub.add_argument("--output", type=Path, metavar="FILE", help="write to a file")
    sub.add_argument("--html", type=Path, metavar="FILE", help="write all jobs as one interactive page")
    sub.add_argument("--with-questions", action="store_true", help="with --html: the texts of questions, too")
    add_results_dir(sub)
    sub = command("serve", serve_page, "show the page of all jobs in a browser, live while jobs run")
    sub.add_argument("--port", type=int, default=8765, help="0 = any free one (default: %(default)s)")
    sub.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    add_results_dir(sub)


def report(options: argparse.Namespace, _: object) -> int:
    """Print or write a table, figures, or the page of all jobs."""
    from harness.tracking.store import RecordStore

    load_plugins(options)
    _check_report(options)
    store = RecordStore(options.results_dir)
    records = _records(options, store)
    if not records and not options.table:
        where = options.source or options.results_dir
        raise UserError(f"no records in {where}; run some jobs first (prunebench run)")
    if options.plots:
        _plots(records, options.plots, options.columns)
    elif options.html:
        _write_page(options, store, records)
    else:
        _put(_tables(options, records), options)
    return 0


def _tables(options: argparse.Namespace, records: "Sequence[RunRecord]") -> "Sequence[Table]":
    """The properties of the methods, a published table by its id, or tables of the records."""
    if options.table == "METHODS":
        from harness.cli.properties import method_properties
        from harness.reporting.properties import property_table

        return [property_table(method_properties())]
    from harness.reporting.knee import knees
    from harness.reporting.papers import paper_table
    from harness.reporting.published import load
    from harness.reporting.standings import matrices, standings
    from harness.reporting.tables import comparison

    mean_over_seed = options.mean_over == "seed"
    if options.table:
        return [paper_table(options.table, records, load(), mean_over_seed=mean_over_seed)]
    if options.knees:
        return [knees(records)]
    by_row = options.rows or mean_over_seed or options.format != "terminal"
    if by_row and options.matrix is None:
        return [comparison(records, load(), mean_over_seed=mean_over_seed)]
    return matrices(standings(records, load()), options.matrix)


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
    shape = "--knees" if options.knees else "--matrix" if options.matrix is not None else "--rows"
    chosen = options.knees or options.rows or options.matrix is not None
    if chosen and (options.table or options.plots or options.html or (options.mean_over and not options.rows)):
        raise UserError(f"{shape} is a table of its own; drop --table, --plots, --html and --mean-over")


def _put(tables: "Sequence[Table]", options: argparse.Namespace) -> None:
    """Print tables, or write them to a file."""
    from harness.reporting.formats.base import write

    columns = {} if options.output else {"width": width()}
    text = "\n".join(write(table, options.format, **columns) for table in tables)
    if options.output:
        _write(options.output, text)
    else:
        sys.stdout.write(text)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _records(options: argparse.Namespace, store: "RecordStore") -> "list[RunRecord]":
    """The records to report, of one experiment where that is asked for; a page shows failed jobs, too."""
    if options.source is not None:
        from harness.tracking.wandb.read import read_back

        records = read_back(options.source)
    else:
        records = store.all() + (store.failures() if options.html else [])
    if not options.experiment:
        return records
    from harness.config.hydra import compose
    from harness.config.request import JobRequest

    jobs = compose([f"+experiment={options.experiment}"], multirun=True).jobs
    wanted = {job.spec.job_id for job in jobs if isinstance(job, JobRequest)}
    return [record for record in records if record.job_id in wanted]


def _write_page(options: argparse.Namespace, store: "RecordStore", records: "Sequence[RunRecord]") -> None:
    from harness.cli.questions import load_questions
    from harness.reporting.page.build import page, payload
    from harness.reporting.page.questions import load_answers
    from harness.reporting.published import load

    answers = (
        None if options.source else load_answers(store, records, load_questions if options.with_questions else None)
    )
    text = page(*payload(records, load(), answers))
    _write(options.html, text)
    print(f"{len(records)} jobs in {options.html}, {len(text) / 1e6:.1f} MB")


def serve_page(options: argparse.Namespace, _: object) -> int:
    """Serve the page of all jobs until Ctrl-C."""
    from harness.cli.serve import serve

    if not options.results_dir.is_dir():
        raise UserError(f"--results-dir {options.results_dir} is no folder; run some jobs first (prunebench run)")
    if not 0 <= options.port <= MOST_PORT:
        raise UserError(f"--port {options.port} is no port; allowed: 0 (any free one) to {MOST_PORT}")
    serve(options.results_dir, options.host, options.port, lambda text: print(text, flush=True))
    return 0


def _plots(records: "Sequence[RunRecord]", folder: Path, columns: int) -> None:
    from harness.reporting.figures.base import Picture, draw_all
    from harness.reporting.published import load

    for found in draw_all(records, load(), folder, columns):
        if isinstance(found, Picture):
            print(f"{folder / found.name}.png and .pdf")
        else:
            print(f"not drawn: {found.name}: {found.why}")
