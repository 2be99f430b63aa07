"""The command that says what this machine has, what it lacks, and what to do about it."""

import argparse
import json
from dataclasses import asdict

from harness.cli.console import AddCommand, add_json, add_results_dir, print_table


def add_commands(command: AddCommand) -> None:
    """Add the command; `command` adds one by name, function and help text."""
    sub = command("doctor", doctor, "say what this machine has, what it lacks and what to do; 0 = the demo can run")
    add_results_dir(sub)
    add_json(sub)
    sub.add_argument("--gpu", action="store_true", help="instead, run the tests of the CUDA device; leaves a report")


def doctor(options: argparse.Namespace, _: object) -> int:
    """Print the findings, 1 = the embedded demo lacks something; with --gpu run the tests, 1 = one failed.

    Raises:
        UserError: there is no CUDA device to test.
    """
    if options.gpu:
        from harness.cli.gpu_check import check_gpu

        return 0 if check_gpu(options.results_dir) else 1
    from harness.cli.machine import PROBES, findings

    found = findings(PROBES, options.results_dir)
    lacking = [finding.name for finding in found if finding.needed and finding.state == "missing"]
    if options.json:
        print(json.dumps([asdict(finding) for finding in found], indent=2))
        return 1 if lacking else 0
    rows = [(finding.name, finding.state, finding.found, finding.advice) for finding in found]
    print_table(("what", "state", "found", "to do"), rows)
    print(f"the embedded demo {'cannot run, see ' + ', '.join(lacking) if lacking else 'can run: `make demo`'}")
    return 1 if lacking else 0
