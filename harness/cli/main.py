"""The command line.  Nothing heavy is imported before it is known to be needed."""

import argparse
import json
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from harness.cli import doctor as cli_doctor
from harness.cli import listing as cli_listing
from harness.cli import records as cli_records
from harness.cli import reports as cli_reporting
from harness.cli import wandb as cli_tracking
from harness.cli.console import Run, add_json, print_rich, print_table
from harness.errors import SET_ASIDE, UserError
from harness.tracking.redact import DiscreetFormatter, without_secrets

if TYPE_CHECKING:
    from harness.jobs.plan import PlannedJob
    from harness.jobs.preflight import Preflight
    from harness.record import RunRecord

DESCRIPTION = "Prune language models, measure them, and tabulate the outcome."
OVERRIDES = """overrides are Hydra's: axis=choice and field=value, for example
  prunebench run method=wanda pattern=2:4
  prunebench run -m method=magnitude,wanda,sparsegpt pattern=unstructured,2:4,4:8 sparsity=0.5,0.6
  prunebench run -m +experiment=demo
axes: model, method, pattern, allocation, calibration, recovery, training, evaluation, tracking (see `prunebench list`)
fields: sparsity, seed, dtype, device, offload, results_dir=DIR, save_model=DIR, force=true; all of them, with the
fields of every axis (evaluation.limit, calibration.num_sequences, ...), are in conf/, and those of a method or an
allocation in `prunebench list methods NAME`"""

EXIT_FAILED = 1
EXIT_USER = 2
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    0 done, 1 a job failed or a record was set aside, 2 a mistake in the input (one line), 130 Ctrl-C.
    """
    SET_ASIDE.clear()
    options, rest = _parser().parse_known_args(arguments)
    if rest and not options.takes_overrides:
        _parser().error(f"unrecognized arguments: {' '.join(rest)}")
    log = logging.StreamHandler()
    log.setFormatter(DiscreetFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[log])
    sys.excepthook = _say_bug
    # The hub's client warns at every retry; what could not be had in the end is our one line.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    try:
        sys.exit(options.command(options, rest) or (EXIT_FAILED if SET_ASIDE else 0))
    except UserError as error:
        print(without_secrets(f"prunebench: {error}"), file=sys.stderr)
        sys.exit(EXIT_USER)
    except KeyboardInterrupt:
        print("prunebench: interrupted; finished jobs are kept, the same command goes on from there", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader of our output has gone, for example `head`
        sys.stdout = None
        sys.exit(0)


def _say_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The traceback of an error of ours, on standard error."""
    sys.stderr.write(without_secrets("".join(traceback.format_exception(kind, error, trace))))


def _run(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    from harness.jobs.launch import JobsFailedError, launch

    try:
        launch(overrides, multirun=options.multirun)
    except JobsFailedError as error:
        for job_id, reason in error.failures:
            print(without_secrets(f"failed: {job_id}: {reason}"), file=sys.stderr)
        return EXIT_USER if error.user else EXIT_FAILED
    return 0


def _plan(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    from harness.config.hydra import compose
    from harness.jobs.plan import PlannedJob, distinct_jobs
    from harness.jobs.preflight import Preflight
    from harness.tracking.store import RecordStore

    jobs = distinct_jobs(compose(overrides, multirun=options.multirun).jobs)
    warn = Preflight()
    folders = {job.request.options.results_dir for job in jobs if isinstance(job, PlannedJob)}
    records = [record for folder in folders for record in RecordStore(folder).all()]
    rows = [
        _plan_row(job, records, warn)
        if isinstance(job, PlannedJob)
        else {"job_id": None, "state": "refused", "reason": job.reason, "overrides": job.overrides}
        for job in jobs
    ]
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        _print_plan(rows)
    return 0


def _plan_row(job: "PlannedJob", records: Sequence["RunRecord"], warn: "Preflight") -> dict[str, Any]:
    from harness.jobs.peak_memory import estimated_peak
    from harness.jobs.wall_time import estimated

    spec, time = job.request.spec, estimated(job, records)
    peak = estimated_peak(job.request, job.request.options.offload) if job.needs_run else None
    return {
        "job_id": spec.job_id,
        "method": spec.method,
        "pattern": spec.pattern_label,
        "sparsity": spec.requested_sparsity,
        "model": spec.model.name,
        "state": job.state,
        "missing": job.missing,
        "record": str(job.record[1]) if job.record else None,
        "estimated_seconds": time.seconds if time else None,
        "estimated_seconds_from": time.basis if time else None,
        "estimated_peak_bytes": asdict(peak) if peak else None,
        "warnings": warn(job.request) if job.needs_run else [],
        "named": job.named,
    }


def _print_plan(rows: Sequence[dict[str, Any]]) -> None:
    planned = [row for row in rows if row["state"] != "refused"]
    if planned:
        cells = ((row["job_id"], row["state"], _time(row), *_memory(row)) for row in planned)
        print_table(("job", "state", "time", "CPU GB", "GPU GB"), cells, unbroken=3)
    notes = [f"refused: {row['reason']}" for row in rows if row["state"] == "refused"]
    for said_by in (_marks, _warnings):
        notes += [note for row in planned for note in said_by(row)]
    for note in dict.fromkeys(notes):
        print_rich(f"{note}\n")
    states = [row["state"] for row in rows]
    print(", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) or "no jobs")


def _time(row: dict[str, Any]) -> str:
    seconds = row["estimated_seconds"]
    if not seconds and row["state"] == "done":
        return "-"
    if seconds is None:
        return "unknown"
    unit, size = next(each for each in TIMES if seconds < 60 * each[1] or each[0] == "h")
    return f"{'~' if _is_scaled(row) else ''}{_short(seconds / size)} {unit}"


TIMES = (("s", 1), ("min", 60), ("h", 3600))


def _short(amount: float) -> str:
    return f"{amount:.1f}" if amount < 10 else f"{amount:,.0f}"


def _is_scaled(row: dict[str, Any]) -> bool:
    from harness.jobs.wall_time import LIKE_IT

    return row["estimated_seconds_from"] not in (None, LIKE_IT)


def _memory(row: dict[str, Any]) -> tuple[str, str]:
    """The estimated peaks: of a job on the CPU, and of one on an accelerator, there."""
    peak = row["estimated_peak_bytes"]
    if peak is None:
        return ("-", "-") if row["state"] == "done" else ("unknown", "unknown")
    least = ">" if peak["from_size"] else ""
    return f"{least}{_short(peak['on_cpu'] / 1e9)}", f"{least}{_short(peak['on_accelerator'] / 1e9)}"


def _marks(row: dict[str, Any]) -> list[str]:
    """What the marks before a job's numbers mean."""
    scaled, peak = row["estimated_seconds_from"], row["estimated_peak_bytes"] or {}
    return [
        *([f"~: {scaled}"] if _is_scaled(row) else []),
        *([">: the number of parameters alone: weights and libraries"] if peak.get("from_size") else []),
    ]


def _warnings(row: dict[str, Any]) -> list[str]:
    return [f"warning: {warning}" for warning in row["warnings"]]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="prunebench", description=DESCRIPTION)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run: Run, text: str) -> argparse.ArgumentParser:
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
            add_json(sub)
    cli_listing.add_commands(command)
    cli_records.add_commands(command)
    cli_reporting.add_commands(command)
    cli_tracking.add_commands(command)
    cli_doctor.add_commands(command)
    return parser
