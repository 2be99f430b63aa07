"""What is going on right now, for those who watch: a small file a running job and one a sweep.

    results/scratch/running/<job_id>.json   which process runs the job, since when, and how far it is
    results/scratch/sweeps/<name>.json      the jobs that a sweep runs, and what each was expected to take

They decide nothing: claims and records do.  A job that is killed leaves its file; its process is gone, so it does not
count as running.
"""

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import TypeAdapter, ValidationError

from harness.data.files import read_file, write_file
from harness.errors import UserError
from harness.progress import Reporter
from harness.tracking.claims import is_held
from harness.tracking.processes import Process, this_process
from harness.tracking.store import CLAIMS, SCRATCH

RUNNING, SWEEPS = "running", "sweeps"
PROGRESS_INTERVAL_S = 1.0
SWEEPS_KEPT = 20
"""Files of ended sweeps that are kept, the latest ones."""


@dataclass(frozen=True, slots=True)
class RunningJob:
    """One job that runs."""

    job_id: Annotated[str, "identity of the job"]
    process: Annotated[Process, "the process that runs it"]
    started: Annotated[float, "Unix time"]
    step: Annotated[str, "load, calibrate, ...; empty before the first"] = ""
    done: Annotated[int, "parts of the step that are done"] = 0
    total: Annotated[int, "parts of the step"] = 0


@dataclass(frozen=True, slots=True)
class Sweep:
    """One sweep: the jobs that it runs, in order."""

    name: Annotated[str, "for people"]
    process: Annotated[Process, "the process that started it"]
    started: Annotated[float, "Unix time"]
    jobs: Annotated[tuple[str, ...], "job ids"]
    expected_s: Annotated[tuple[float | None, ...], "expected wall time of each job, None = nothing like it was timed"]
    ended: Annotated[float | None, "Unix time; None while it runs, and when it was killed"] = None


ItemT = TypeVar("ItemT", RunningJob, Sweep)


class LiveReporter:
    """Hands on to another reporter and keeps the file of the running job up to date."""

    def __init__(self, path: Path, job_id: str, reporter: Reporter) -> None:
        self._path, self._reporter = path, reporter
        self._job = RunningJob(job_id, this_process(), time.time())
        self._written = 0.0
        self._write()

    def start(self, step: str, total: int) -> None:
        self._reporter.start(step, total)
        self._job = replace(self._job, step=step, done=0, total=total)
        self._write()

    def advance(self, parts: int = 1) -> None:
        self._reporter.advance(parts)
        self._job = replace(self._job, done=self._job.done + parts)
        if time.monotonic() - self._written >= PROGRESS_INTERVAL_S:
            self._write()

    def note(self, text: str) -> None:
        self._reporter.note(text)

    def _write(self) -> None:
        self._written = time.monotonic()
        with suppress(OSError):  # a full disk must fail the record, which says so, not the news of it
            _write(self._path, self._job)


@contextmanager
def running(root: Path, job_id: str, reporter: Reporter) -> Iterator[Reporter]:
    """A reporter that says below `root` how far the job is; the file goes when the job ends, however it ends."""
    path = root / SCRATCH / RUNNING / f"{job_id}.json"
    try:
        yield LiveReporter(path, job_id, reporter)
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


@contextmanager
def sweeping(root: Path, name: str, jobs: Sequence[str], expected_s: Sequence[float | None]) -> Iterator[None]:
    """Say below `root` which jobs a sweep runs while it does, and that it has ended when it has.

    Raises:
        UserError: the folder cannot be written; nothing has run yet.
    """
    sweep = Sweep(name, this_process(), time.time(), tuple(jobs), tuple(expected_s))
    path = root / SCRATCH / SWEEPS / f"{sweep.started:.0f}-{sweep.process.pid}-{uuid.uuid4().hex[:4]}.json"
    try:
        _write(path, sweep)
    except OSError as error:
        raise UserError(f"cannot write the sweep's plan {path}: {error.strerror or error}") from error
    try:
        yield
    finally:
        with suppress(OSError):
            _write(path, replace(sweep, ended=time.time()))
            for old in sorted(path.parent.iterdir(), key=lambda each: each.name.strip("."))[:-SWEEPS_KEPT]:
                kept = _read(old, Sweep)
                if kept is None or kept.ended is not None or kept.process.alive is False:
                    old.unlink(missing_ok=True)


def running_jobs(root: Path) -> list[RunningJob]:
    """Jobs whose processes are there, those that started first in front; of other machines' their claims say it."""
    found = (_read(path, RunningJob) for path in (root / SCRATCH / RUNNING).glob("*.json"))
    there = (job for job in found if job is not None and _is_there(root, job))
    return sorted(there, key=lambda job: job.started)


def _is_there(root: Path, job: RunningJob) -> bool:
    alive = job.process.alive
    return _is_held(root, job.job_id) if alive is None else alive


def goes_on(root: Path, sweep: Sweep) -> bool:
    """Whether a sweep has neither ended nor died; one of another machine goes on while a job of it is claimed."""
    alive = sweep.process.alive
    if sweep.ended is not None or alive is False:
        return False
    return alive or any(_is_held(root, job_id) for job_id in sweep.jobs)


def _is_held(root: Path, job_id: str) -> bool:
    return is_held(root / SCRATCH / CLAIMS, job_id)


def sweeps(root: Path) -> list[Sweep]:
    """Every sweep that is kept, the latest first."""
    found = (_read(path, Sweep) for path in (root / SCRATCH / SWEEPS).glob("*.json"))
    return sorted((sweep for sweep in found if sweep is not None), key=lambda sweep: sweep.started, reverse=True)


def _read(path: Path, kind: type[ItemT]) -> ItemT | None:
    """What the file says, None where nothing can be read: it may have gone, and one of another version is no news."""
    try:
        return TypeAdapter(kind).validate_json(read_file(path))
    except (OSError, ValidationError):
        return None


def _write(path: Path, item: RunningJob | Sweep) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, TypeAdapter(type(item)).dump_json(item), durable=False)
