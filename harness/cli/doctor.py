"""The command that says what this machine has, what it lacks, and what to do about it."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from harness.cli.console import AddCommand, print_rich, table_of


def add_commands(command: AddCommand) -> None:
    """Add the command; `command` adds one by name, function and help text."""
    sub = command("doctor", doctor, "say what this machine has, what it lacks and what to do; 0 = the demo can run")
    sub.add_argument("--results-dir", type=Path, default=Path("results"), metavar="DIR")
    sub.add_argument("--json", action="store_true", help="print JSON")
    sub.add_argument(
        "--gpu", action="store_true", help="instead, check the CUDA device in some minutes; leaves a report"
    )
    sub.add_argument("--device", default="cuda", help=argparse.SUPPRESS)  # lets a machine without CUDA try the kit


def doctor(options: argparse.Namespace, _: object) -> int:
    """Print the findings, 1 = the embedded demo lacks something; with --gpu run the kit, 1 = a check failed.

    Raises:
        UserError: the kit has no CUDA device.
    """
    if options.gpu:
        from harness.cli.gpu_check import check_gpu

        return 0 if check_gpu(options.results_dir, options.device) else 1
    from harness.cli.machine import PROBES, findings

    found = findings(PROBES, options.results_dir)
    lacking = [finding.name for finding in found if finding.needed and finding.state == "missing"]
    if options.json:
        print(json.dumps([asdict(finding) for finding in found], indent=2))
        return 1 if lacking else 0
    table = table_of("what", "state", "found", "to do")
    for finding in found:
        table.add_row(finding.name, finding.state, finding.found, finding.advice)
    print_rich(table)
    print(f"the embedded demo {'cannot run, see ' + ', '.join(lacking) if lacking else 'can run: `make demo`'}")
    return 1 if lacking else 0
