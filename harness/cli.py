"""The command line.  Nothing heavy is imported before it is known to be needed."""

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from harness.errors import UserError, unknown

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from harness.sweep import PlannedJob

DESCRIPTION = "Prune language models, measure them, and tabulate the outcome."
OVERRIDES = """overrides are Hydra's: axis=choice and field=value, for example
  prunebench run method=wanda pattern=2:4
  prunebench run -m method=magnitude,wanda,sparsegpt pattern=unstructured,2:4,4:8 sparsity=0.5,0.6
  prunebench run -m +experiment=demo
axes: model, method, pattern, allocation, calibration, recovery, evaluation, tracking (see `prunebench list`)
fields: sparsity, seed, dtype, device, offload, results_dir=DIR, save_model=DIR, force=true; all of them, with the
fields of every axis (evaluation.limit, calibration.num_sequences, ...), are in conf/"""
KINDS = ("methods", "models", "patterns", "evaluations", "experiments")
FORMATS = ("terminal", "md", "csv", "latex", "json")

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
    spec = job.request.spec
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
        "named": job.named,
    }


def _print_plan(rows: Sequence[dict[str, Any]]) -> None:
    table = _table("job", "state", "cost")
    for row in rows:
        if row["state"] == "refused":
            table.add_row("-", "refused", row["reason"])
        else:
            seconds = row["estimated_seconds"]
            table.add_row(row["job_id"], row["state"], "unknown" if seconds is None else f"{seconds:.0f} s")
    _print(table)
    states = [row["state"] for row in rows]
    print(", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) or "no jobs")


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
    from harness.pruning.registry import load_methods

    match kind:
        case "methods":
            modules = {name: sys.modules[method.__module__] for name, method in load_methods().items()}
            return {name: (module.__doc__ or "").strip().splitlines()[0] for name, module in modules.items()}
        case "models":
            return descriptions("model")
        case "patterns":
            n_of_m = {
                name: "{} of every {} consecutive weights are kept".format(*name.split(":")) for name in COMMON_N_OF_M
            }
            return descriptions("pattern") | n_of_m | {"N:M": "any other N kept of every M"}
        case "evaluations":
            from harness.evaluation.protocols import CORPORA, TASKS

            tasks = {name: f"lm-eval task: {task.description}" for name, task in TASKS.items()}
            corpora = {name: f"perplexity corpus: {text}" for name, text in CORPORA.items()}
            return descriptions("evaluation") | corpora | tasks
        case _:
            return descriptions("experiment")


def _show(options: argparse.Namespace, _: Sequence[str]) -> int:
    from harness.record import to_json
    from harness.tracking.store import RecordStore

    store = RecordStore(options.results_dir)
    found = store.find(options.job_id) or store.failure(options.job_id)
    if found is None:
        known = [record.job_id for record in store.all()]
        raise unknown(f"job in {options.results_dir}", options.job_id, known or ["(there are no records)"])
    if options.json:
        sys.stdout.write(to_json(found[0]).decode())
    else:
        from harness.reporting.show import render_record

        _print(render_record(found[0]))
        print(f"record: {found[1]}")
    return 0


def _report(options: argparse.Namespace, _: Sequence[str]) -> int:
    from harness.compose import hydra_session, paper_names, plan, register
    from harness.reporting.papers import paper_table
    from harness.reporting.published import load
    from harness.reporting.render import write
    from harness.reporting.tables import comparison
    from harness.tracking.store import RecordStore

    records = RecordStore(options.results_dir).all()
    if options.table:
        table = paper_table(options.table, records, load(), paper_names())
    else:
        if options.experiment:
            arguments = [f"+experiment={options.experiment}"]
            register(arguments)
            with hydra_session():
                jobs = plan(arguments, multirun=True)
            wanted = {job.request.spec.job_id for job in jobs if job.request}
            records = [record for record in records if record.job_id in wanted]
        if not records:
            raise UserError(f"no records in {options.results_dir}; run some jobs first (prunebench run)")
        table = comparison(records, load(), paper_names())
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(write(table, options.format), encoding="utf-8")
        return 0
    sys.stdout.write(write(table, options.format, _width()))
    return 0


def _sync(options: argparse.Namespace, _: Sequence[str]) -> int:
    from harness.tracking.wandb_mirror import sync

    outcomes = sync(options.results_dir / "wandb", project=options.project, entity=options.entity)
    for outcome in outcomes:
        state = "uploaded" if outcome.uploaded else "NOT uploaded"
        print(": ".join(part for part in (outcome.folder.name, state, outcome.message) if part))
    return EXIT_FAILED if any(not outcome.uploaded for outcome in outcomes) else 0


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
    sub = command("report", _report, "print the comparison table of all records, or one published table")
    which = sub.add_mutually_exclusive_group()
    which.add_argument("--experiment", metavar="NAME", help="only the jobs of this experiment")
    which.add_argument("--table", metavar="TABLE_ID", help="a table of a paper, for example SGPT-T1")
    sub.add_argument("--format", choices=FORMATS, default="terminal")
    sub.add_argument("--output", type=Path, metavar="FILE", help="write to a file")
    _add_results_dir(sub)
    sub = command("sync", _sync, "upload what was recorded offline to Weights & Biases")
    sub.add_argument("--project", default="prunebench")
    sub.add_argument("--entity", default=None)
    _add_results_dir(sub)
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
