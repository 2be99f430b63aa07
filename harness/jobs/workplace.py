"""Where a job works until its record is written: one folder, named after the job, so that a rerun finds it.

The pruned model is written there and moved to its place once the record says that the job is done. A process that was
killed between the two leaves the whole model, and the rerun moves it; whatever else it left is cleared.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from harness.config.request import JobRequest
from harness.data.files import sync
from harness.errors import UserError
from harness.record import RunRecord
from harness.tracking.store import SCRATCH

MODEL = "model"
"""The pruned model inside the workplace."""
MADE_BY = "prunebench.txt"
"""In the folder of a saved model: the job that made it, and the fingerprint of its weights that the record has, too."""


@contextmanager
def workplace(request: JobRequest) -> Iterator[Path]:
    """An empty folder for the job, on the disk where its model will be saved; it goes when the job ends.

    Raises:
        UserError: the model cannot be saved where it was asked for, or nothing can be written there.
    """
    place, options = _place(request), request.options
    said = "results_dir", options.results_dir
    try:
        if options.save_model is not None:
            said = "save_model", options.save_model
            _try(options.save_model.resolve())
        place.mkdir(parents=True)
    except OSError as error:
        name, folder = said
        raise UserError(f"{name}={folder.absolute()} cannot be written: {error.strerror or error}") from error
    try:
        yield place
        training_state(place).unlink(missing_ok=True)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def training_state(place: Path) -> Path:
    """The file beside a job's folder in which its training outlives a process that is killed; gone when it is done."""
    return place.with_name(f"{place.name}.training")


def mark(model: Path, job_id: str, fingerprint: str) -> None:
    """Say in the folder of a model, which is whole with this, which job made it.

    After a power cut, too: the record that is written next must not be all that is left of the job.
    """
    (model / MADE_BY).write_text(_mark(job_id, fingerprint))
    for path in (*model.rglob("*"), model, *model.parents[:2]):
        sync(path)


def hand_over(request: JobRequest) -> None:
    """Move the saved model from the workplace to its folder; its record has been written.

    Raises:
        UserError: something came to lie in the folder since the job began.
    """
    folder = request.options.save_model
    if folder is None:
        return
    try:
        os.replace(_place(request) / MODEL, folder.resolve())
        sync(folder.resolve().parent)
    except OSError as error:
        raise UserError(f"save_model={folder.absolute()} cannot be written: {error.strerror or error}") from error


def settle(request: JobRequest, record: RunRecord | None) -> bool:
    """Clear what a killed process left of the job, which is ours now; a model whose record it wrote is handed over.

    Args:
        record: of the job, where that has all that is asked for.

    Returns:
        Whether there is nothing more to do.
    """
    place = _place(request)
    if record is not None and _is_of(place / MODEL, record):
        hand_over(request)
    shutil.rmtree(place, ignore_errors=True)
    return record is not None and has_its_model(request, record)


def has_its_model(request: JobRequest, record: RunRecord) -> bool:
    """Whether the model of the job that is done lies where it is asked for, or none is asked for."""
    folder = request.options.save_model
    return folder is None or _is_of(folder, record)


def _place(request: JobRequest) -> Path:
    """The same for every run of a job into one results folder; those into others may save beside it."""
    options = request.options
    beside = options.results_dir / SCRATCH if options.save_model is None else options.save_model.resolve().parent
    owner = sha256(os.fsencode(options.results_dir.resolve())).hexdigest()[:8]
    return beside / f".{request.spec.job_id}.{owner}"


def _try(folder: Path) -> None:
    """Raise the `UserError` or `OSError` that would be raised when `folder` is made after hours of work."""
    if os.path.ismount(folder):
        raise UserError(f"save_model={folder} is a disk of its own; allowed: a folder on it")
    if folder.exists():
        if not folder.is_dir() or any(folder.iterdir()):
            raise UserError(f"save_model={folder} exists and is not empty; allowed: a new or empty folder")
    else:
        folder.mkdir(parents=True)
        folder.rmdir()


def _mark(job_id: str, fingerprint: str | None) -> str:
    return f"{job_id} {fingerprint}\n"


def _is_of(model: Path, record: RunRecord) -> bool:
    try:
        return (model / MADE_BY).read_text() == _mark(record.job_id, record.weights_fingerprint)
    except (OSError, ValueError):
        return False
