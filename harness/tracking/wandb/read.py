"""Records back from Weights & Biases: from a project on its server, or from a folder of offline runs."""

from collections.abc import Sequence
from pathlib import Path

from harness.errors import UserError, first_line, setting_aside
from harness.record import RunRecord
from harness.tracking.wandb import content
from harness.tracking.wandb.client import environment, require_login
from harness.tracking.wandb.stamp import read_stamp

PREFIX = "wandb:"
PAGE = 100
TIMEOUT_S = 60


def read_back(source: str) -> list[RunRecord]:
    """The done records of ``wandb:ENTITY/PROJECT``, or of a folder of offline runs, ordered by job id.

    A run that carries no whole record is set aside.

    Raises:
        UserError: there is no such project or folder, or nobody is logged in.
    """
    found = _from_server(source.removeprefix(PREFIX)) if source.startswith(PREFIX) else _from_folder(Path(source))
    records = {record.job_id: record for record in found if record.status == "done"}
    return [records[job_id] for job_id in sorted(records)]


def runs_of(path: str, ids: Sequence[str] | None = None) -> list[tuple[str, dict[str, object], dict[str, object]]]:
    """Id, configuration and summary of the runs of ``ENTITY/PROJECT``, all of them or those named.

    Raises:
        UserError: nobody is logged in, or the server does not answer this question.
    """
    import wandb

    require_login()
    filters: dict[str, object] = {} if ids is None else {"name": {"$in": list(ids)}}
    try:
        with environment(WANDB_ERROR_REPORTING="false"):  # its telemetry complains on the terminal
            api = wandb.Api(timeout=TIMEOUT_S)
            runs = list(api.runs(path, filters=filters, order="+created_at", per_page=PAGE, lazy=False))
            return [(str(run.id), dict(run.config), dict(run.summary_metrics)) for run in runs]
    except Exception as error:  # the client raises errors of many kinds; the user needs the line
        raise UserError(f"cannot read {PREFIX}{path}: {first_line(error)}") from error


def _from_server(path: str) -> list[RunRecord]:
    if path.count("/") != 1 or not all(path.split("/")):
        raise UserError(f"{PREFIX}{path} is no project; expected {PREFIX}ENTITY/PROJECT")
    found = []
    for name, config, _ in runs_of(path):
        with setting_aside():
            found.append(content.unpacked(config, f"run {name} of {path}"))
    return found


def _from_folder(folder: Path) -> list[RunRecord]:
    runs = sorted(path for path in folder.glob("offline-run-*") if path.is_dir())
    if not runs:
        raise UserError(f"no offline-run-* folders in {folder}")
    found = []
    for run in runs:
        with setting_aside():
            found.append(read_stamp(run).record)
    return found
