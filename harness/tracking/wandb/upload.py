"""Uploading offline runs: one after the other, no faster than the server allows, and checked on arrival.

W&B's own ``wandb sync`` uploads, in a process of its own with a time limit.  What it says is not believed: the
server is asked for every run, and a run that did not arrive whole is marked as not uploaded, to be tried again.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError, first_line
from harness.tracking.wandb import content
from harness.tracking.wandb.client import id_in, require_login
from harness.tracking.wandb.read import runs_of
from harness.tracking.wandb.stamp import Stamp, read_stamp

UPLOAD_TIMEOUT_S = 120.0
REQUESTS_A_RUN = 11
"""What `wandb sync` sends the server for a run with one table, counted with wandb 0.31 (a test counts again)."""

RUNS_A_QUESTION = 100
ARRIVAL_WAITS_S = (0.0, 5.0, 20.0)
"""How long after an upload the server is asked for its runs, and asked again for those that are not whole yet."""

NOT_CHECKED = "uploaded, but not checked"
LIMITED = re.compile(r"\b429\b|rate.?limit|too many requests", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SyncOutcome:
    """What became of one offline run: uploaded and whole, or the reason why not."""

    run: str
    folder: Path
    uploaded: bool
    message: str


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast to upload, and how long to stand back when the server says that it was too fast.

    Args:
        requests_a_minute: the server's limit (users of W&B report 50 for free accounts, 200 for paid ones).
        timeout_s: seconds for one run.
        waits_s: before the second, third, ... try of a run that met the limit.
    """

    requests_a_minute: float = 50.0
    timeout_s: float = UPLOAD_TIMEOUT_S
    waits_s: tuple[float, ...] = (30.0, 60.0, 120.0, 240.0)

    @property
    def seconds_a_run(self) -> float:
        return 60.0 * REQUESTS_A_RUN / self.requests_a_minute


def sync(
    folder: Path,
    *,
    project: str | None = None,
    entity: str | None = None,
    pace: Pace | None = None,
    check_all: bool = False,
) -> Iterator[SyncOutcome]:
    """Upload the offline runs below W&B's folder that are not uploaded yet, and check that they arrived.

    A run that cannot be read does not stop the others.  After one that ran out of time the rest is not tried, for
    then it is the server that does not answer.

    Args:
        folder: W&B's folder, ``<results_dir>/wandb``.
        project, entity: send the runs there instead of where each was recorded for.
        pace: how fast.
        check_all: check the runs that were uploaded before, too.

    Raises:
        UserError: nobody is logged in.
    """
    runs = [run for run in sorted(folder.resolve().glob("offline-run-*")) if run.is_dir()]
    waiting = [run for run in runs if not is_uploaded(run)]
    earlier = [run for run in runs if is_uploaded(run)] if check_all else []
    if waiting or earlier:
        require_login()
    pace = pace or Pace()
    arrived: list[Path] = []
    silent_server = False
    started = -pace.seconds_a_run
    for run in waiting:
        if silent_server:
            yield SyncOutcome(id_in(run), run, False, "not tried, for the server does not answer")
            continue
        time.sleep(max(0.0, started + pace.seconds_a_run - time.monotonic()) if arrived else 0.0)
        started = time.monotonic()
        outcome = _upload_patiently(run, project, entity, pace)
        silent_server = "no answer within" in outcome.message
        if outcome.uploaded:
            arrived.append(run)
        else:
            yield outcome
    yield from verify([*earlier, *arrived], project=project, entity=entity)


def verify(runs: Sequence[Path], *, project: str | None = None, entity: str | None = None) -> Iterator[SyncOutcome]:
    """Ask the server for these runs and compare: the same record, and every key of its summary.

    A run that is not whole is marked as not uploaded; one that carries no record is somebody else's, and not checked.
    """
    stored: dict[Path, Stamp] = {}
    for run in runs:
        try:
            stored[run] = read_stamp(run)
        except UserError as error:
            yield SyncOutcome(id_in(run), run, True, f"{NOT_CHECKED}: {error}")
    reasons: dict[Path, str] = {}
    for wait in ARRIVAL_WAITS_S:
        left = {run: found for run, found in stored.items() if reasons.get(run, "?")}
        if not left:
            break
        time.sleep(wait)
        reasons |= _missing(left, project, entity)
    for run in stored:
        if reasons[run] and not reasons[run].startswith(NOT_CHECKED):
            for mark in run.glob("*.wandb.synced"):
                mark.unlink()
        whole = not reasons[run] or reasons[run].startswith(NOT_CHECKED)
        yield SyncOutcome(id_in(run), run, whole, reasons[run] or "uploaded")


def upload(run_folder: Path, project: str | None, entity: str | None, timeout_s: float) -> SyncOutcome:
    """Upload one run with ``wandb sync``.  Its exit status says little; the mark that it leaves says it is done."""
    if not list(run_folder.glob("*.wandb")):
        return SyncOutcome(id_in(run_folder), run_folder, False, "the folder holds no .wandb file")
    command = [sys.executable, "-m", "wandb", "sync"]
    command += ["--project", project] if project else []
    command += ["--entity", entity] if entity else []
    started = time.time()
    output, in_time = _run_with_limit([*command, str(run_folder.resolve())], run_folder.parent.parent, timeout_s)
    if is_uploaded(run_folder):
        return SyncOutcome(id_in(run_folder), run_folder, True, "uploaded")
    limited = LIMITED.search(output + _log_since(started, run_folder.parent))
    if limited:
        return SyncOutcome(id_in(run_folder), run_folder, False, f"the server's rate limit was met ({limited[0]})")
    if in_time:
        errors = re.findall(r"(?:ERROR|Error:|panic:)\s*(.+)", output)
        reason = errors[-1].strip() if errors else "`wandb sync` did not mark it as uploaded and gave no reason"
    else:
        reason = f"no answer within {timeout_s:g} s"
    return SyncOutcome(id_in(run_folder), run_folder, False, reason)


def is_uploaded(run_folder: Path) -> bool:
    """Whether W&B's mark of a finished upload is there."""
    return any(run_folder.glob("*.wandb.synced"))


def _log_since(started: float, folder: Path) -> str:
    """What `wandb sync` logged of HTTP errors: while it stands back for a 429 it says nothing on the terminal."""
    lines: list[str] = []
    for log in (folder / "logs").glob("debug-sync.*.log"):
        if log.stat().st_mtime >= started - 1:
            text = log.read_text(encoding="utf-8", errors="replace")
            lines += [found[0] for found in re.finditer(r'"status":\s*\d+', text)]
    return " ".join(lines)


def _upload_patiently(run: Path, project: str | None, entity: str | None, pace: Pace) -> SyncOutcome:
    """Upload a run, again after each wait while the server says that it was asked too often."""
    outcome = upload(run, project, entity, pace.timeout_s)
    for wait in pace.waits_s:
        if "rate limit" not in outcome.message:
            break
        time.sleep(wait)
        outcome = upload(run, project, entity, pace.timeout_s)
    return outcome


def _missing(stored: dict[Path, Stamp], project: str | None, entity: str | None) -> dict[Path, str]:
    """What the server lacks of each run; empty text when it lacks nothing."""
    reasons: dict[Path, str] = {}
    places: dict[str, dict[str, list[Path]]] = {}  # two machines' folders may hold one run, such as the dense model's
    for run, found in stored.items():
        place = "/".join(part for part in (entity or found.entity, project or found.project) if part)
        places.setdefault(place, {}).setdefault(id_in(run), []).append(run)
    for place, runs in places.items():
        ids = list(runs)
        for start in range(0, len(ids), RUNS_A_QUESTION):
            asked = ids[start : start + RUNS_A_QUESTION]
            try:
                answered = {name: (config, summary) for name, config, summary in runs_of(place, asked)}
            except UserError as error:
                reasons |= {run: f"{NOT_CHECKED}: {first_line(error)}" for name in asked for run in runs[name]}
                continue
            for run in (run for name in asked for run in runs[name]):
                name = id_in(run)
                reasons[run] = (
                    _lacks(stored[run], *answered[name])
                    if name in answered
                    else ("`wandb sync` says it is uploaded, but the server does not have it")
                )
    return reasons


def _lacks(stored: Stamp, config: dict[str, object], summary: dict[str, object]) -> str:
    if config.get(content.RECORD_SHA256) != content.config_of(stored.record)[content.RECORD_SHA256]:
        return "the server holds another record of this run"
    expected = {*content.summary_of(stored.record), "layers"}
    lacking = sorted(expected - set(summary))
    if lacking:
        return f"the server holds {len(expected) - len(lacking)} of {len(expected)} numbers; it lacks {lacking[0]}"
    return ""


def _run_with_limit(command: list[str], working_folder: Path, timeout_s: float) -> tuple[str, bool]:
    """Output of a command and whether it ended in time; out of time, its whole process group is ended."""
    environ = {name: value for name, value in os.environ.items() if name != "WANDB_MODE"}
    process = subprocess.Popen(
        command,
        cwd=working_folder,
        env=environ | {"WANDB_SILENT": "false", "WANDB_ERROR_REPORTING": "false"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        return process.communicate(timeout=timeout_s)[0], True
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()[0], False
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
