"""The tests marked `gpu`, run on this machine's CUDA device without the hub, and one report that can be sent."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer
from xml.etree import ElementTree

import harness
from harness.cli.machine import findings
from harness.errors import UserError
from harness.record import JsonValue
from harness.tracking.provenance import collect
from harness.tracking.redact import redacted

Row = dict[str, JsonValue]

BUDGET_S = 570.0
REPORT = "gpu-report.md"
TESTS = Path(harness.__file__).parents[1] / "tests"
KIT = "gpu/test_kit.py"
"""What is measured for the report; it comes before the many other tests, in a process of its own."""
PYTEST = """
import signal, sys, pytest
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(pytest.main(sys.argv[1:]))
"""
"""Listens to the signal that ends it in time also where a shell's `&` has it ignored."""
LINES_KEPT = 30
"""Of what pytest wrote when it did not come to its end."""


def check_gpu(results_dir: Path) -> bool:
    """Run the tests, write the report, and say whether none failed.

    Raises:
        UserError: there is no CUDA device, this is no checkout, or the report cannot be written.
    """
    import torch

    if not torch.cuda.is_available():
        raise UserError("no CUDA device for this torch on this machine; `prunebench doctor` says why")
    if not (TESTS / KIT).is_file():
        raise UserError("an installed package has no tests; check the device in a checkout (`make gpu`)")
    ends = time.monotonic() + BUDGET_S
    try:
        (results_dir / "scratch").mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix="gpu-", dir=results_dir.absolute() / "scratch") as folder:
            rows = _tested([str(TESTS / KIT)], Path(folder, "kit"), ends)
            rows += _tested([str(TESTS), f"--ignore={TESTS / KIT}"], Path(folder, "others"), ends)
        (results_dir / REPORT).write_text(_report(rows), encoding="utf-8")
    except OSError as error:
        raise UserError(f"results_dir={results_dir} cannot be written: {error.strerror or error}") from error
    print(f"report: {results_dir / REPORT}")
    return all(row["verdict"] != "FAILED" for row in rows)


def _tested(what: list[str], folder: Path, ends: float) -> list[Row]:
    """Run tests marked `gpu` until the time is over, and show what pytest says; a row a test."""
    outcome = folder.with_suffix(".xml")
    command = [sys.executable, "-c", PYTEST, "-v", "-m", "gpu", "-p", "no:cacheprovider", *what]
    lines = []
    with subprocess.Popen(
        [*command, f"--junitxml={outcome}", f"--basetemp={folder}"],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        clock = Timer(max(0.0, ends - time.monotonic()), process.send_signal, (signal.SIGINT,))
        clock.start()
        for line in process.stdout or ():
            lines.append(redacted(line))
            print(lines[-1], end="", flush=True)
        code = process.wait()
        clock.cancel()
    rows = [_row(case) for case in ElementTree.parse(outcome).iter("testcase")] if outcome.exists() else []
    if code not in (0, 1) or not rows:  # it was stopped, or a fault of the device ended it
        over = time.monotonic() >= ends
        said = f"the {BUDGET_S:.0f} s of the kit are over" if over else "".join(lines[-LINES_KEPT:])
        facts: Row = {"exit": code, "said": said}
        rows.append({"check": "pytest", "verdict": "not tried" if over else "FAILED", "seconds": None, "facts": facts})
    return rows


def _row(case: ElementTree.Element) -> Row:
    """The outcome of a test: one that is skipped on a machine with a device has failed; one that xfails is no fault."""
    told = {each.get("name"): each.get("value") for each in case.iter("property")}
    bad = [each for each in case if each.tag in ("failure", "error", "skipped")]
    verdict = "passed"
    if bad:
        verdict = "not tried" if all(each.get("type") == "pytest.xfail" for each in bad) else "FAILED"
    facts: Row = json.loads(told.get("facts") or "{}")
    if bad:
        facts["said"] = "\n".join(f"{each.get('message')}\n{each.text or ''}".strip() for each in bad)
    row: Row = {"check": case.get("name"), "says": told.get("says"), "verdict": verdict}
    return row | {"seconds": round(float(case.get("time") or 0.0), 1), "facts": facts}


def _report(rows: list[Row]) -> str:
    """Markdown with a table for people and all facts as JSON; without secrets and the path of the home folder."""
    about = "python", "packages", "torch", "memory", "processor", "CUDA"
    machine = {finding.name: finding.found for finding in findings(about, Path())}
    lines = [f"# The tests marked `gpu` on {machine['CUDA']}", "", "| check | verdict | s | what it shows |"]
    lines += ["|---|---|---|---|"]
    lines += [f"| {row['check']} | {row['verdict']} | {row['seconds']} | {row.get('says') or ''} |" for row in rows]
    facts = {"machine": machine, "provenance": asdict(collect("cuda", "", (), None)), "checks": rows}
    return redacted("\n".join([*lines, "", "```json", json.dumps(facts, indent=1), "```", ""]))
