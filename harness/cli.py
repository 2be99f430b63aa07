"""The command line.  Nothing heavy is imported before it is known to be needed."""

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from harness.cli_tracking import add_commands
from harness.errors import UserError, unknown

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from harness.record import RunRecord
    from harness.reporting.compare import Answered
    from harness.sweep import PlannedJob
    from harness.tracking.store import RecordStore

DESCRIPTION = "Prune language models, measure them, and tabulate the outcome."
OVERRIDES = """overrides are Hydra's: axis=choice and field=value, for example
  prunebench run method=wanda pattern=2:4
  prunebench run -m method=magnitude,wanda,sparsegpt pattern=unstructured,2:4,4:8 sparsity=0.5,0.6
  prunebench run -m +experiment=demo
axes: model, method, pattern, allocation, calibration, recovery, evaluation, tracking (see `prunebench list`)
fields: sparsity, seed, dtype, device, offload, results_dir=DIR, save_model=DIR, force=true; all of them, with the
fields of every axis (evaluation.limit, calibration.num_sequences, ...), are in conf/"""
KINDS = ("methods", "models", "patterns", "allocations", "evaluations", "experiments")
FORMATS = ("terminal", "md", "csv", "latex", "html", "json")
COMPARE_FORMATS = ("terminal", "md", "json")

MOST_PORT = 65_535
EXIT_FAILED = 1
EXIT_USER = 2


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 a job failed, 2 a mistake in the input (one line says which)."""
    options, rest = _parser().parse_known_args(arguments)
    if rest and not options.takes_overrides:
        _parser().error(f"unrecognized arguments: {' '.join(rest)}")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    # The hub's client warns at every retry; what could not be had in the end is our one line.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    try:
        sys.exit(options.command(options, rest))
    except UserError as error:
        print(f"prunebench: {error}", file=sys.stderr)
        sys.exit(EXIT_USER)
    except BrokenPipeError:  # the reader of our output has gone, for example `head`
        sys.stdout = None
        sys.exit(0)


def _run(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    from harness.launch import JobsFailedError, launch

    try:
        launch(overrides, multirun=options.multirun)
    except JobsFailedError as error:
        for job_id, reason in error.failures:
            print(f"failed: {job_id}: {reason}", file=sys.stderr)
        return EXIT_USER if error.user else EXIT_FAILED
    return 0


def _plan(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    from harness.compose import hydra_session, plan, register
    from harness.sweep import distinct_jobs, estimated_seconds
    from harness.tracking.store import RecordStore

    register(overrides)
    with hydra_session():
        jobs = distinct_jobs(plan(overrides, multirun=options.multirun))
    folders = {job.request.options.results_dir for job in jobs if job.state != "refused"}
    records = [record for folder in folders for record in RecordStore(folder).all()]
    rows = []
    for job in jobs:
        seconds = None if job.state == "refused" else estimated_seconds(job, records)
        rows.append(_plan_row(job, seconds))
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        _print_plan(rows)
    return 0


def _plan_row(job: "PlannedJob", seconds: float | None) -> dict[str, Any]:
    if job.state == "refused":
        return {"job_id": None, "state": job.state, "reason": job.planned.refusal, "overrides": job.planned.overrides}
    from harness.memory import estimated_peak

    spec = job.request.spec
    peak = estimated_peak(job.request) if job.needs_run else None
    return {
        "job_id": spec.job_id,
        "method": spec.method.name,
        "pattern": spec.pattern_label,
        "sparsity": spec.requested_sparsity,
        "model": spec.model.name,
        "state": job.state,
        "missing": job.missing,
        "record": str(job.record[1]) if job.record else None,
        "estimated_seconds": seconds,
        "estimated_peak_bytes": asdict(peak) if peak else None,
        "named": job.named,
    }


def _print_plan(rows: Sequence[dict[str, Any]]) -> None:
    table = _table("job", "state", "time", "peak memory")
    for row in rows:
        if row["state"] == "refused":
            table.add_row("-", "refused", row["reason"], "-")
        else:
            seconds = row["estimated_seconds"]
            time = "unknown" if seconds is None else f"{seconds:.0f} s"
            table.add_row(row["job_id"], row["state"], time, _memory(row))
    _print(table)
    states = [row["state"] for row in rows]
    print(", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) or "no jobs")


def _memory(row: dict[str, Any]) -> str:
    """The estimated peak in words; the sizes are unknown until the checkpoint is on this machine."""
    peak = row["estimated_peak_bytes"]
    if peak is None:
        return "-" if row["state"] == "done" else "unknown"
    on_cpu, beside, accelerator = (
        f"{peak[name] / 1e9:.1f} GB" for name in ("on_cpu", "beside_accelerator", "on_accelerator")
    )
    return f"{on_cpu} on CPU; {accelerator} on an accelerator and {beside} beside it"


def _list(options: argparse.Namespace, _: Sequence[str]) -> int:
    rows = [{"name": name, "description": text} for name, text in _listing(options.kind).items()]
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        table = _table("name", "description")
        for row in rows:
            table.add_row(row["name"], row["description"])
        _print(table)
    return 0


def _listing(kind: str) -> dict[str, str]:
    from harness.compose import COMMON_N_OF_M, descriptions
    from harness.pruning.registry import load_allocations, load_methods

    match kind:
        case "methods":
            return _first_lines(load_methods())
        case "allocations":
            return _first_lines(load_allocations())
        case "models":
            return descriptions("model")
        case "patterns":
            n_of_m = {
                name: "{} of every {} consecutive weights are kept".format(*name.split(":")) for name in COMMON_N_OF_M
            }
            return descriptions("pattern") | n_of_m | {"N:M": "any other N kept of every M"}
        case "evaluations":
            from harness.evaluation.protocols import CORPORA, IMAGES, TASKS

            tasks = {name: f"lm-eval task: {task.description}" for name, task in TASKS.items()}
            corpora = {name: f"perplexity corpus: {text}" for name, text in CORPORA.items()}
            images = {name: f"image set: {text}" for name, text in IMAGES.items()}
            return descriptions("evaluation") | corpora | tasks | images
        case _:
            return descriptions("experiment")


def _first_lines(table: Mapping[str, type]) -> dict[str, str]:
    """What the file of every entry of a registry says first."""
    modules = {name: sys.modules[entry.__module__] for name, entry in table.items()}
    return {name: (module.__doc__ or "").strip().splitlines()[0] for name, module in modules.items()}


def _show(options: argparse.Namespace, _: Sequence[str]) -> int:
    from harness.record import to_json
    from harness.tracking.store import RecordStore

    store = RecordStore(options.results_dir)
    found = store.find(options.job_id) or store.failure(options.job_id)
    if found is None:
        raise _unknown_job(store, options.job_id)
    if options.json:
        sys.stdout.write(to_json(found[0]).decode())
    else:
        from harness.reporting.show import render_record

        _print(render_record(found[0]))
        print(f"record: {found[1]}")
    return 0


def _compare(options: argparse.Namespace, _: Sequence[str]) -> int:
    from harness.reporting.compare import compare
    from harness.reporting.compare_text import write_comparison
    from harness.reporting.questions import load_questions

    if options.questions < 0:
        raise UserError(f"--questions {options.questions} shows nothing; allowed: 0 or more")
    comparison = compare(_answered(options, options.job_a), _answered(options, options.job_b), options.task)

    @cache
    def rows(protocol: str) -> Sequence[dict[str, Any]]:
        return load_questions(next(result for result in comparison.a.results if result.protocol == protocol))

    text = write_comparison(comparison, options.format, _width(), options.questions, lambda task: rows(task.protocol_a))
    sys.stdout.write(text)
    return 0


def _answered(options: argparse.Namespace, job_id: str) -> "Answered":
    from harness.reporting.compare import Answered
    from harness.tracking.questions import read
    from harness.tracking.store import RecordStore

    store = RecordStore(options.results_dir)
    found = store.find(job_id)
    if found is None:
        if store.failure(job_id) is not None:
            raise UserError(f"{job_id} failed, so there is nothing to compare (prunebench show {job_id} says why)")
        raise _unknown_job(store, job_id)
    return Answered(found[0], tuple(read(*found)))


def _unknown_job(store: "RecordStore", job_id: str) -> UserError:
    known = [record.job_id for record in store.all()]
    return unknown(f"job in {store.root}", job_id, known or ["(there are no records)"])


def _report(options: argparse.Namespace, _: Sequence[str]) -> int:
    from harness.compose import hydra_session, paper_names, plan, register
    from harness.reporting.papers import paper_table
    from harness.reporting.published import load
    from harness.reporting.render import write
    from harness.reporting.tables import comparison
    from harness.tracking.store import RecordStore

    store = RecordStore(options.results_dir)
    records = _records(options.source, store)
    if options.with_questions and not options.html:
        raise UserError("--with-questions goes with --html")
    if options.html and (options.table or options.output or options.plots):
        raise UserError("--html writes the page of all jobs; drop --table, --output and --plots")
    records += store.failures() if options.html and not options.source else []
    if options.plots and (options.table or options.output):
        raise UserError("--plots draws figures of the records into a folder; drop --table and --output")
    means = options.mean_over == "seed"
    if options.table == "METHODS":
        from harness.reporting.properties import property_table

        table = property_table()
    elif options.table:
        table = paper_table(options.table, records, load(), paper_names(), mean_over_seed=means)
    else:
        if options.experiment:
            arguments = [f"+experiment={options.experiment}"]
            register(arguments)
            with hydra_session():
                jobs = plan(arguments, multirun=True)
            wanted = {job.request.spec.job_id for job in jobs if job.request}
            records = [record for record in records if record.job_id in wanted]
        if not records:
            where = options.source or options.results_dir
            raise UserError(f"no records in {where}; run some jobs first (prunebench run)")
        if options.plots:
            return _plots(records, options.plots)
        if options.html:
            return _write_page(options, store, records)
        table = comparison(records, load(), paper_names(), mean_over_seed=means)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(write(table, options.format), encoding="utf-8")
        return 0
    sys.stdout.write(write(table, options.format, _width()))
    return 0


def _records(source: str | None, store: "RecordStore") -> "list[RunRecord]":
    if source is None:
        return store.all()
    from harness.tracking.wandb_read import read_back

    return read_back(source)


def _write_page(options: argparse.Namespace, store: "RecordStore", records: "Sequence[RunRecord]") -> int:
    from harness.compose import paper_names
    from harness.reporting.page.build import page, payload
    from harness.reporting.page.questions import load_answers
    from harness.reporting.published import load

    answers = None if options.source else load_answers(store, records, texts=options.with_questions)
    text = page(*payload(records, load(), paper_names(), answers))
    try:
        options.html.parent.mkdir(parents=True, exist_ok=True)
        options.html.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {options.html}: {error.strerror or error}") from error
    print(f"{len(records)} jobs in {options.html}, {len(text) / 1e6:.1f} MB")
    return 0


def _serve(options: argparse.Namespace, _: Sequence[str]) -> int:
    from harness.compose import paper_names
    from harness.serve import serve

    if not options.results_dir.is_dir():
        raise UserError(f"--results-dir {options.results_dir} is no folder; run some jobs first (prunebench run)")
    if not 0 <= options.port <= MOST_PORT:
        raise UserError(f"--port {options.port} is no port; allowed: 0 (any free one) to {MOST_PORT}")
    serve(options.results_dir, paper_names(), options.host, options.port, lambda text: print(text, flush=True))
    return 0


def _plots(records: "Sequence[RunRecord]", folder: Path) -> int:
    from harness.compose import paper_names
    from harness.reporting.plots.gallery import Drawn, draw_all
    from harness.reporting.published import load

    for outcome in draw_all(records, load(), paper_names(), folder):
        if isinstance(outcome, Drawn):
            print(f"{outcome.png} and .pdf")
        else:
            print(f"not drawn: {outcome.name}: {outcome.why}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="prunebench", description=DESCRIPTION)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace, Sequence[str]], int], text: str
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=OVERRIDES if name in ("run", "plan") else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        sub.set_defaults(command=run, takes_overrides=name in ("run", "plan"))
        return sub

    for name, run, text in (
        ("run", _run, "run jobs; finished ones are skipped"),
        ("plan", _plan, "say which jobs would run, their state and cost; runs nothing"),
    ):
        sub = command(name, run, text)
        sub.add_argument(
            "-m", "--multirun", action="store_true", help="run every combination of comma-separated values"
        )
        sub.usage = f"prunebench {name} [-m] [OVERRIDE ...]"
        if name == "plan":
            sub.add_argument("--json", action="store_true", help="print JSON")
    sub = command("list", _list, "say what there is to choose from")
    sub.add_argument("kind", choices=KINDS)
    sub.add_argument("--json", action="store_true", help="print JSON")
    sub = command("show", _show, "print one record")
    sub.add_argument("job_id", metavar="JOB_ID")
    sub.add_argument("--json", action="store_true", help="print the record itself")
    _add_results_dir(sub)
    sub = command("compare", _compare, "compare two jobs on the same questions: flips, margins, tests")
    sub.add_argument("job_a", metavar="JOB_A")
    sub.add_argument("job_b", metavar="JOB_B")
    sub.add_argument("--task", metavar="TASK", help="only this task")
    sub.add_argument("--questions", type=int, default=0, metavar="N", help="show so many flipped questions a metric")
    sub.add_argument("--format", choices=COMPARE_FORMATS, default="terminal")
    _add_results_dir(sub)
    sub = command("report", _report, "print the comparison table of all records, or one published table")
    which = sub.add_mutually_exclusive_group()
    which.add_argument("--experiment", metavar="NAME", help="only the jobs of this experiment")
    which.add_argument(
        "--table", metavar="TABLE_ID", help="a table of a paper, for example SGPT-T1, or METHODS for their properties"
    )
    sub.add_argument(
        "--from", dest="source", metavar="WHERE", help="wandb:ENTITY/PROJECT or a folder of offline runs, not records"
    )
    sub.add_argument("--mean-over", choices=("seed",), help="one row for jobs that differ in the seed only")
    sub.add_argument("--plots", type=Path, metavar="DIR", help="draw every figure that the records allow instead")
    sub.add_argument("--format", choices=FORMATS, default="terminal")
    sub.add_argument("--output", type=Path, metavar="FILE", help="write to a file")
    sub.add_argument("--html", type=Path, metavar="FILE", help="write all jobs as one interactive page")
    sub.add_argument("--with-questions", action="store_true", help="with --html: the texts of questions, too")
    _add_results_dir(sub)
    sub = command("serve", _serve, "show the page of all jobs in a browser, live while jobs run")
    sub.add_argument("--port", type=int, default=8765, help="0 = any free one (default: %(default)s)")
    sub.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    _add_results_dir(sub)
    add_commands(command)
    return parser


def _add_results_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results-dir", type=Path, default=Path("results"), metavar="DIR")


def _table(*columns: str) -> "RichTable":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=index == 0)
    return table


def _print(content: Any) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False).print(content)


def _width() -> int:
    from rich.console import Console

    return Console().width if sys.stdout.isatty() else 160
