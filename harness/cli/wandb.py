"""The commands of the command line that concern Weights & Biases: mirror, sync and dashboard."""

import argparse
import json
import sys

from harness.cli.console import AddCommand, add_results_dir

EXIT_FAILED = 1


def add_commands(command: AddCommand) -> None:
    """Add the commands; `command` adds one by name, function and help text."""
    sub = command("mirror", mirror, "write the offline W&B runs of all records anew; unchanged ones stay")
    _add_project(sub)
    sub = command("sync", sync, "upload what was recorded offline to Weights & Biases, and check that it arrived")
    _add_project(sub, project=None)
    sub.add_argument("--check-all", action="store_true", help="check the runs that were uploaded before, too")
    sub = command("dashboard", dashboard, "save a dashboard of the records to W&B; offline: print what it is made of")
    _add_project(sub)
    sub.add_argument("--print", action="store_true", dest="only_print", help="print it in any case and save nothing")
    sub.add_argument("--view", metavar="URL", help="replace this dashboard instead of making another one")


def mirror(options: argparse.Namespace, _: object) -> int:
    """Write the runs that are missing or stale; says how many."""
    from harness.tracking.store import RecordStore
    from harness.tracking.wandb.mirror import Destination, rebuild

    store = RecordStore(options.results_dir)
    records = {record.job_id: record for record in (*store.failures(), *store.all())}  # of a job, what is done counts
    destination = Destination(options.results_dir / "wandb", options.project, options.entity)
    counts = dict.fromkeys(("written", "unchanged", "failed"), 0)
    for outcome in rebuild(records.values(), destination):
        counts[outcome.state] += 1
        if outcome.state == "failed":
            print(f"{outcome.run}: NOT mirrored: {outcome.message}", file=sys.stderr)
    print(", ".join(f"{count} {state}" for state, count in counts.items()) + f" in {destination.folder}")
    return EXIT_FAILED if counts["failed"] else 0


def sync(options: argparse.Namespace, _: object) -> int:
    """Upload; one line a run, as soon as its outcome is known."""
    from harness.tracking.wandb.upload import sync as upload_all

    failed = False
    folder = options.results_dir / "wandb"
    for outcome in upload_all(folder, project=options.project, entity=options.entity, check_all=options.check_all):
        failed |= outcome.state == "failed"
        state = f"NOT uploaded: {outcome.message}" if outcome.state == "failed" else outcome.message or "uploaded"
        print(f"{outcome.run}: {state}", flush=True)
    return EXIT_FAILED if failed else 0


def dashboard(options: argparse.Namespace, _: object) -> int:
    """Save the dashboard, or print its specification where nobody is logged in."""
    from harness.tracking.store import RecordStore
    from harness.tracking.wandb.client import logged_in
    from harness.tracking.wandb.dashboard import save, specification

    records = RecordStore(options.results_dir).all()
    if options.only_print or not logged_in():
        print(json.dumps(specification(records, options.project, options.entity), indent=2))
        if not options.only_print:
            print("not logged in to Weights & Biases: printed, not saved", file=sys.stderr)
        return 0
    print(save(records, options.project, options.entity, options.view))
    return 0


def _add_project(parser: argparse.ArgumentParser, project: str | None = "prunebench") -> None:
    where = "where each run was recorded for" if project is None else "%(default)s"
    parser.add_argument("--project", default=project, help=f"of Weights & Biases (default: {where})")
    parser.add_argument("--entity", default=None, help="of Weights & Biases (default: the account's own)")
    add_results_dir(parser)
