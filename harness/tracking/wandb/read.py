"""Records back from Weights & Biases: from a project on its server, or from a folder of offline runs.

Of an offline run the stamp is read that the mirror leaves, not W&B's log, which is W&B's.  (Its own reader takes 2.6 s
a run and shows one that is cut short as an empty one.)
"""

import json
from pathlib import Path

from harness.data.files import read_file
from harness.errors import UserError, first_line, setting_aside
from harness.record import RunRecord
from harness.tracking.wandb import content
from harness.tracking.wandb.client import environment, require_login, runs_in

PREFIX = "wandb:"
STAMP = "mirrored.json"
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


def runs_of(path: str, only: str | None = None) -> list[tuple[str, dict[str, object], dict[str, object]]]:
    """Id, configuration and summary of the runs of ``ENTITY/PROJECT``, all of them or the one of this id.

    Raises:
        UserError: nobody is logged in, or the server does not answer this question.
    """
    import wandb

    require_login()
    filters: dict[str, object] = {} if only is None else {"name": {"$in": [only]}}
    try:
        with environment(WANDB_ERROR_REPORTING="false"):  # its telemetry complains on the terminal
            api = wandb.Api(timeout=TIMEOUT_S)
            runs = list(api.runs(path, filters=filters, order="+created_at", per_page=PAGE, lazy=False))
            return [(str(run.id), dict(run.config), dict(run.summary_metrics)) for run in runs]
    except Exception as error:  # the client raises errors of many kinds; the user needs the line
        raise UserError(f"cannot read {PREFIX}{path}: {first_line(error)}") from error


def read_stamp(run_folder: Path) -> tuple[RunRecord, str, str | None]:
    """The record of an offline run, its project and its entity.

    Raises:
        UserError: the run has no stamp (the mirror did not write it, or not to its end), or a damaged one.
    """
    file = run_folder / STAMP
    try:
        fields = json.loads(read_file(file))
    except FileNotFoundError:
        fields = {}
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{file} is damaged: {error}") from error
    if not isinstance(fields, dict):
        raise UserError(f"{file} is damaged: it holds no fields")
    return content.unpacked(fields, str(run_folder)), str(fields.get("project") or ""), fields.get("entity")


def _from_server(path: str) -> list[RunRecord]:
    if path.count("/") != 1 or not all(path.split("/")):
        raise UserError(f"{PREFIX}{path} is no project; expected {PREFIX}ENTITY/PROJECT")
    found = []
    for name, config, _ in runs_of(path):
        with setting_aside():
            found.append(content.unpacked(config, f"run {name} of {path}"))
    return found


def _from_folder(folder: Path) -> list[RunRecord]:
    runs = runs_in(folder)
    if not runs:
        raise UserError(f"no offline-run-* folders in {folder}")
    found = []
    for run in runs:
        with setting_aside():
            found.append(read_stamp(run)[0])
    return found
