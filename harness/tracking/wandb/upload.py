"""Uploading offline runs with W&B's own ``wandb sync``, one after the other, each checked on arrival.

W&B's client stands back by itself when the server says that it was asked too often.  What it says of success is not
believed: the server is asked for every run, and a run that did not arrive whole is marked as not uploaded, to be tried
again.  Every run has a call of its own, for in a call of several one damaged run stops all.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.errors import UserError
from harness.record import RunRecord
from harness.tracking.wandb import content
from harness.tracking.wandb.client import Outcome, id_in, require_login, runs_in
from harness.tracking.wandb.read import read_stamp, runs_of

SYNC_TIMEOUT_S = 300.0
"""For one run; W&B's client may have to wait for the next minute of the server's limit, more than once."""
ARRIVAL_WAITS_S = (0.0, 5.0, 20.0)
"""How long after an upload the server is asked for the run, and asked again when it is not whole yet.

What was uploaded before is whole by now or never.
"""
NO_ANSWER = "no answer within"


def sync(
    folder: Path, *, project: str | None = None, entity: str | None = None, check_all: bool = False
) -> Iterator[Outcome]:
    """Upload the offline runs below W&B's folder that are not uploaded yet, and check that they arrived.

    A run that cannot be read does not stop the others.  After one that ran out of time the rest is not tried, for
    then it is the server that does not answer.

    Args:
        folder: W&B's folder, ``<results_dir>/wandb``.
        project, entity: send the runs there instead of where each was recorded for.
        check_all: check the runs that were uploaded before, too.

    Raises:
        UserError: nobody is logged in.
    """
    runs = [run for run in runs_in(folder.resolve()) if check_all or not is_uploaded(run)]
    if runs:
        require_login()
    silent_server = False
    for run in runs:
        reason, new = "", not is_uploaded(run)
        if silent_server:
            reason = "not tried, for the server does not answer"
        elif new:
            reason = upload(run, project, entity, SYNC_TIMEOUT_S)
            silent_server = reason.startswith(NO_ANSWER)
        waits = ARRIVAL_WAITS_S if new else ARRIVAL_WAITS_S[:1]
        yield Outcome(id_in(run), "failed", reason) if reason else _checked(run, project, entity, waits)


def upload(run_folder: Path, project: str | None, entity: str | None, timeout_s: float) -> str:
    """Upload one run with ``wandb sync``; why it is not uploaded, empty when it is.

    The exit status of ``wandb sync`` says little; the mark that it leaves says it is done.
    """
    if not list(run_folder.glob("*.wandb")):
        return "the folder holds no .wandb file"
    command = [sys.executable, "-m", "wandb", "sync"]
    command += ["--project", project] if project else []
    command += ["--entity", entity] if entity else []
    environ = {name: value for name, value in os.environ.items() if name != "WANDB_MODE"}
    try:
        done = subprocess.run(
            [*command, str(run_folder.resolve())],
            cwd=run_folder.parent.parent,
            env=environ | {"WANDB_SILENT": "false", "WANDB_ERROR_REPORTING": "false"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
        output, reason = done.stdout, "`wandb sync` did not mark it as uploaded"
    except subprocess.TimeoutExpired as error:
        output, reason = error.stdout or b"", f"{NO_ANSWER} {timeout_s:g} s"
    if is_uploaded(run_folder):
        return ""
    said = re.findall(r"(?:ERROR|Error:|panic:)\s*(.+)", output.decode(errors="replace"))
    return ": ".join([reason, *said[-1:]])


def is_uploaded(run_folder: Path) -> bool:
    """Whether W&B's mark of a finished upload is there."""
    return any(run_folder.glob("*.wandb.synced"))


def _checked(run_folder: Path, project: str | None, entity: str | None, waits: Sequence[float]) -> Outcome:
    """Ask the server for a run that is uploaded; where it is not whole, W&B's mark is taken away.

    One that carries no record is somebody else's, and not checked.
    """
    name, lacking = id_in(run_folder), ""
    try:
        record, its_project, its_entity = read_stamp(run_folder)
        place = "/".join(part for part in (entity or its_entity, project or its_project) if part)
        for wait in waits:
            time.sleep(wait)
            lacking = _lacking(record, place, name)
            if not lacking:
                return Outcome(name, "uploaded")
    except UserError as error:
        return Outcome(name, "uploaded", f"uploaded, but not checked: {error}")
    for mark in run_folder.glob("*.wandb.synced"):
        mark.unlink()
    return Outcome(name, "failed", lacking)


def _lacking(record: RunRecord, place: str, name: str) -> str:
    """What the server lacks of a run: the same record, and every key of its summary; empty when it lacks nothing."""
    for _, config, summary in runs_of(place, name):
        if config.get(content.RECORD_SHA256) != content.packed(record)[content.RECORD_SHA256]:
            return "the server holds another record of this run"
        expected = {*content.summary_of(record), "layers"}
        lacking = sorted(expected - set(summary))
        return f"the server lacks {lacking[0]} and {len(lacking) - 1} other numbers" if lacking else ""
    return "`wandb sync` says it is uploaded, but the server does not have it"
