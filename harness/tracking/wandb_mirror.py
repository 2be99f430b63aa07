"""The mirror in Weights & Biases: one run a job, written once from the finished record.

The records are the truth and the mirror is disposable: it can be deleted and nothing is lost.  Every run is written
offline first, below ``<results_dir>/wandb/``; being *online* means that it is uploaded right afterwards, by W&B's
own ``wandb sync`` in a process of its own with a time limit.  So a job never waits for the network while it runs,
a server that hangs or a tracker that crashes costs one warning, and what was not uploaded waits for `sync`.
"""

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError, unknown
from harness.record import RunRecord
from harness.tracking import wandb_content as content

LOGGER = logging.getLogger(__name__)

MODES = ("auto", "online", "offline", "disabled")
NAME = "wandb"
"""The name W&B gives its folder; nobody chooses it."""

INIT_TIMEOUT_S = 30.0
UPLOAD_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class SyncOutcome:
    """What became of one offline run: uploaded, or the reason why not."""

    run: str
    folder: Path
    uploaded: bool
    message: str


def mirror(record: RunRecord, *, mode: str, project: str, entity: str | None, group: str | None, folder: Path) -> None:
    """Write a record to W&B.  Whatever goes wrong there is one warning: the record itself is already saved.

    Args:
        mode: ``auto`` (online when logged in, else offline; never asks), ``online``, ``offline`` or ``disabled``.
        group: the sweep.
        folder: W&B's folder, ``<results_dir>/wandb``.

    Raises:
        UserError: `mode` is none of these.
    """
    if mode not in MODES:
        raise unknown("tracking.mode", mode, MODES)
    assert folder.name == NAME, f"W&B names its folder {NAME!r}, not {folder.name!r}"
    if mode == "disabled" or (mode == "auto" and os.environ.get("WANDB_MODE") == "disabled"):
        return
    try:
        run_folder = _write_offline(record, project=project, entity=entity, group=group, folder=folder)
        if mode == "online" or (mode == "auto" and os.environ.get("WANDB_MODE") != "offline" and logged_in()):
            outcome = _upload(run_folder, project, entity, UPLOAD_TIMEOUT_S)
            if not outcome.uploaded:
                LOGGER.warning(
                    "W&B did not take %s: %s; it stays in %s for `prunebench sync`",
                    record.job_id,
                    outcome.message,
                    run_folder,
                )
    except Exception as error:  # any tracker failure, on purpose: it must never cost a result
        LOGGER.warning("W&B did not take %s: %s (its record is saved)", record.job_id, _first_line(error))


def sync(
    folder: Path, *, project: str | None = None, entity: str | None = None, timeout_s: float = UPLOAD_TIMEOUT_S
) -> list[SyncOutcome]:
    """Upload the offline runs below W&B's folder that are not uploaded yet, one after the other.

    A run that cannot be read does not stop the others.  After one that ran out of time the rest is not tried, for
    then it is the server that does not answer.

    Args:
        project, entity: send the runs there instead of where each was recorded for.
        timeout_s: seconds for one run.

    Raises:
        UserError: nobody is logged in.
    """
    waiting = [run for run in sorted(folder.resolve().glob("offline-run-*")) if run.is_dir() and not _is_uploaded(run)]
    if not waiting:
        return []
    with _environment(WANDB_MODE=None):
        if not logged_in():
            raise UserError("not logged in to Weights & Biases; run `wandb login`, or set WANDB_API_KEY")
    outcomes: list[SyncOutcome] = []
    silent_server = False
    for run in waiting:
        if silent_server:
            outcomes.append(SyncOutcome(_id_in(run), run, False, "not tried, for the server does not answer"))
            continue
        outcomes.append(_upload(run, project, entity, timeout_s))
        silent_server = "no answer within" in outcomes[-1].message
    return outcomes


def logged_in() -> bool:
    """Whether W&B has credentials, by its own rules; asks nobody and uses no network."""
    import wandb

    wandb.setup(wandb.Settings(silent=True))
    return bool(wandb.login(prompt=False, verify=False))


def _write_offline(record: RunRecord, *, project: str, entity: str | None, group: str | None, folder: Path) -> Path:
    """Write the run and return its folder; an earlier run of the same job goes, so that one id is one folder."""
    import wandb

    identity = content.run_id(record.job_id)
    folder = folder.resolve()  # the log keeps the path of the table's file
    folder.mkdir(parents=True, exist_ok=True)
    for earlier in _runs_of(identity, folder):
        shutil.rmtree(earlier)
    settings = wandb.Settings(
        console="off",
        disable_code=True,
        disable_git=True,
        finish_timeout=INIT_TIMEOUT_S,
        init_timeout=INIT_TIMEOUT_S,
        root_dir=str(folder.parent),
        silent=True,
        use_dot_wandb=False,
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
        x_service_wait=INIT_TIMEOUT_S,
    )
    # The table's file waits for its upload beside the run, not in the home folder.
    with _environment(WANDB_DATA_DIR=str(folder / "data"), WANDB_SILENT="true"):
        wandb.setup(settings)
        run = wandb.init(
            mode="offline",
            project=project,
            entity=entity,
            group=group or None,
            id=identity,
            name=record.job_id,
            notes="\n".join(record.notes) or None,
            tags=content.tags_of(record),
            config=content.config_of(record),
            reinit="create_new",
            settings=settings,
        )
        layers = wandb.Table(columns=list(content.LAYER_COLUMNS), data=content.layer_rows(record))
        run.log({**content.summary_of(record), "layers": layers})
        run.finish(exit_code=0 if record.status == "done" else 1)
    written = _runs_of(identity, folder)
    assert len(written) == 1, f"W&B wrote {len(written)} folders for {identity}"
    return written[0]


def _upload(run_folder: Path, project: str | None, entity: str | None, timeout_s: float) -> SyncOutcome:
    """Upload one run with ``wandb sync``.  Its exit status says little; the mark that it leaves says it is done."""
    if not list(run_folder.glob("*.wandb")):
        return SyncOutcome(_id_in(run_folder), run_folder, False, "the folder holds no .wandb file")
    command = [sys.executable, "-m", "wandb", "sync"]
    command += ["--project", project] if project else []
    command += ["--entity", entity] if entity else []
    output, in_time = _run_with_limit([*command, str(run_folder.resolve())], run_folder.parent.parent, timeout_s)
    if _is_uploaded(run_folder):
        return SyncOutcome(_id_in(run_folder), run_folder, True, "uploaded")
    if in_time:
        errors = re.findall(r"(?:ERROR|Error:|panic:)\s*(.+)", output)
        reason = errors[-1].strip() if errors else "`wandb sync` did not mark it as uploaded and gave no reason"
    else:
        reason = f"no answer within {timeout_s:g} s"
    return SyncOutcome(_id_in(run_folder), run_folder, False, reason)


def _run_with_limit(command: list[str], working_folder: Path, timeout_s: float) -> tuple[str, bool]:
    """Output of a command and whether it ended in time; out of time, its whole process group is ended."""
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_MODE"}
    process = subprocess.Popen(
        command,
        cwd=working_folder,
        env=environment | {"WANDB_SILENT": "false"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        return process.communicate(timeout=timeout_s)[0], True
    except subprocess.TimeoutExpired:
        return "", False
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def _runs_of(identity: str, folder: Path) -> list[Path]:
    name = re.compile(rf"offline-run-\d+_\d+-{re.escape(identity)}")
    return [path for path in sorted(folder.glob("offline-run-*")) if name.fullmatch(path.name)]


def _id_in(run_folder: Path) -> str:
    return re.sub(r"^offline-run-\d+_\d+-", "", run_folder.name)


def _is_uploaded(run_folder: Path) -> bool:
    return any(run_folder.glob("*.wandb.synced"))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextmanager
def _environment(**values: str | None) -> Iterator[None]:
    """Set environment variables (None unsets one) for a while: W&B has no other way in for these."""
    before = {name: os.environ.get(name) for name in values}
    _set_environment(values)
    try:
        yield
    finally:
        _set_environment(before)


def _set_environment(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
