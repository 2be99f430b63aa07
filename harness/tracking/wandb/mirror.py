"""The mirror in Weights & Biases: one run a job, written once from the finished record.

The records are the truth and the mirror is disposable: it can be deleted, nothing is lost, and `rebuild` makes it
again.  Every run is written offline first, below ``<results_dir>/wandb/``; being *online* means that it is uploaded
right afterwards (`harness.tracking.wandb.upload`).  So a job never waits for the network while it runs, a server
that hangs or a tracker that crashes costs one warning, and what was not uploaded waits for `sync`.

A run is written again only when something in it changed: its folder holds a stamp of what went in.
"""

import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.data.files import read_file
from harness.errors import UserError, first_line, unknown
from harness.record import RunRecord
from harness.tracking.wandb import client, content
from harness.tracking.wandb.client import Outcome, environment, id_in, runs_in
from harness.tracking.wandb.read import STAMP
from harness.tracking.wandb.upload import is_uploaded, upload

if TYPE_CHECKING:
    import wandb

LOGGER = logging.getLogger(__name__)

MODES = ("auto", "online", "offline", "disabled")
NAME = "wandb"
"""The name W&B gives its folder; nobody chooses it."""

INIT_TIMEOUT_S, UPLOAD_TIMEOUT_S = 30.0, 120.0


@dataclass(frozen=True, slots=True)
class Destination:
    """Where runs go.

    Args:
        folder: W&B's folder, ``<results_dir>/wandb``.
        project, entity: of Weights & Biases; entity None = the user's default.
        model: folder of the pruned model that goes along as an artifact; None = none does.
    """

    folder: Path
    project: str
    entity: str | None = None
    model: Path | None = None

    def __post_init__(self) -> None:
        assert self.folder.name == NAME, f"W&B names its folder {NAME!r}, not {self.folder.name!r}"


def mirror(record: RunRecord, mode: str, destination: Destination) -> None:
    """Write a record to W&B.  Whatever goes wrong there is one warning: the record itself is already saved.

    Args:
        mode: ``auto`` (online when logged in, else offline; never asks), ``online``, ``offline`` or ``disabled``.

    Raises:
        UserError: `mode` is none of these.
    """
    if mode not in MODES:
        raise unknown("tracking.mode", mode, MODES)
    if mode == "disabled" or (mode == "auto" and os.environ.get("WANDB_MODE") == "disabled"):
        return
    try:
        (outcome,) = rebuild([record], destination)
        if outcome.state == "failed":
            LOGGER.warning("W&B did not take %s: %s (its record is saved)", record.job_id, outcome.message)
            return
        (run,) = _by_id(destination.folder)[content.run_id(record.job_id)]
        online = mode == "online" or (mode == "auto" and os.environ.get("WANDB_MODE") != "offline")
        if is_uploaded(run) or not online or (mode == "auto" and not client.logged_in()):
            return
        reason = upload(run, destination.project, destination.entity, UPLOAD_TIMEOUT_S)
        if reason:
            LOGGER.warning("W&B did not take %s: %s; it stays in %s for `prunebench sync`", record.job_id, reason, run)
    except Exception as error:  # any tracker failure, on purpose: it must never cost a result
        LOGGER.warning("W&B did not take %s: %s (its record is saved)", record.job_id, first_line(error))


def rebuild(records: Iterable[RunRecord], destination: Destination) -> Iterator[Outcome]:
    """Write the offline run of every record that has none or a stale one; uploads nothing.

    Twice the same records is the same runs: ids come from the jobs, and what is unchanged is not touched.  A record
    that W&B cannot take does not stop the others.
    """
    import wandb

    present = _by_id(destination.folder)
    written: list[tuple[str, Path, bytes]] = []
    for record in records:
        stamp = content.stamp_of(record, destination.project, destination.entity)
        earlier = present.get(content.run_id(record.job_id), [])
        try:
            if len(earlier) == 1 and _holds(earlier[0], stamp):
                yield Outcome(record.job_id, "unchanged")
                continue
            for folder in earlier:  # of one id there is one run
                shutil.rmtree(folder)
            written.append((record.job_id, _write_offline(record, destination), stamp))
        except Exception as error:  # one broken run or folder must not cost the mirror of the others
            yield Outcome(record.job_id, "failed", first_line(error))
    if written:
        wandb.teardown()  # W&B's service writes on when a run is finished: only when it has ended its logs are whole
    for job_id, run, stamp in written:
        try:
            (run / STAMP).write_bytes(stamp)  # last: a run without one is not whole
            yield Outcome(job_id, "written")
        except OSError as error:
            yield Outcome(job_id, "failed", first_line(error))


def _holds(run_folder: Path, stamp: bytes) -> bool:
    try:
        return read_file(run_folder / STAMP) == stamp
    except OSError:
        return False


def _write_offline(record: RunRecord, destination: Destination) -> Path:
    """Write the run and return its folder."""
    import wandb

    identity = content.run_id(record.job_id)
    folder = destination.folder.resolve()  # the log keeps the path of the table's file
    staged = folder / "data" / identity
    if staged.exists():
        shutil.rmtree(staged)
    folder.mkdir(parents=True, exist_ok=True)
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
    )
    # The table's file waits for its upload beside the run, not in the home folder.
    with environment(WANDB_DATA_DIR=str(staged), WANDB_SILENT="true", WANDB_ERROR_REPORTING="false"):
        wandb.setup(settings)
        run = wandb.init(
            mode="offline",
            project=destination.project,
            entity=destination.entity,
            group=content.group_of(record),
            id=identity,
            name=record.job_id,
            notes=content.notes_of(record),
            tags=content.tags_of(record),
            config=content.config_of(record),
            reinit="create_new",
            settings=settings,
        )
        _log(run, record)
        if destination.model is not None:
            _log_model(run, identity, destination.model)
        run.finish(exit_code=0 if record.status == "done" else 1)
    return Path(run.dir).parent


def _log(run: "wandb.Run", record: RunRecord) -> None:
    """Lines over the blocks, one row a block, then all the numbers and the table of layers in one row."""
    import wandb

    run.define_metric(content.BLOCK, summary="none")
    for series in (content.LAYER_ERROR, content.LAYER_SPARSITY):
        run.define_metric(f"{series}/*", step_metric=content.BLOCK, summary="none")
    for row in content.layer_series(record):
        run.log(row)
    layers = wandb.Table(columns=list(content.LAYER_COLUMNS), data=content.layer_rows(record))
    run.log({**content.summary_of(record), "layers": layers})


def _log_model(run: "wandb.Run", identity: str, model: Path) -> None:
    import wandb

    if not model.is_dir():
        raise UserError(f"tracking.log_model=true, but {model} is no folder")
    artifact = wandb.Artifact(f"model-{identity}", type="model")
    artifact.add_dir(str(model.resolve()), policy="immutable", skip_cache=True)  # no second copy of the weights
    run.log_artifact(artifact)


def _by_id(folder: Path) -> dict[str, list[Path]]:
    """The offline runs below W&B's folder, by id."""
    found: dict[str, list[Path]] = {}
    for path in runs_in(folder):
        found.setdefault(id_in(path), []).append(path)
    return found
