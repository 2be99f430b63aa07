"""Launching jobs through Hydra: one after the other, or with any launcher that Hydra has (joblib, Slurm, Ray)."""

import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig
from rich.console import Console

from harness.config.build import build
from harness.config.hydra import CONFIG_NAME, Sweep, conf_dir, expand, plan_jobs, register, user_errors
from harness.config.request import JobRequest
from harness.errors import UserError
from harness.jobs.plan import PlannedJob, distinct_jobs, estimated_seconds, in_running_order
from harness.progress import JobReporter
from harness.record import RunRecord
from harness.tracking.answers import with_questions
from harness.tracking.live import running, sweeping
from harness.tracking.provenance import checkout_state
from harness.tracking.store import RecordStore
from harness.tracking.wandb.mirror import Destination, mirror

console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)


class JobsFailedError(Exception):
    """Some jobs of a sweep failed; each said so when it happened.

    Args:
        failures: job id and first line of the error.
        user: every failure was a mistake in the user's input.
    """

    def __init__(self, failures: Sequence[tuple[str, str]], *, user: bool) -> None:
        super().__init__(f"{len(failures)} jobs failed")
        self.failures = tuple(failures)
        self.user = user


def launch(arguments: Sequence[str], *, multirun: bool) -> None:
    """Run the jobs that these overrides ask for.

    Raises:
        UserError: nothing was run, an input is wrong.
        JobsFailedError: some jobs failed; the others are done.
    """
    checkout_state()  # read now: an edit made while jobs run is not what they ran with
    register(arguments)
    environment = {
        "HYDRA_FULL_ERROR": "1",  # Hydra would print errors and exit by itself otherwise
        _MULTIRUN: "1" if multirun else "0",
    }
    with patch.dict(os.environ, environment), patch.object(sys, "argv", [sys.argv[0], "--multirun", *arguments]):
        task = hydra.main(config_path=str(conf_dir()), config_name=CONFIG_NAME, version_base="1.3")(run_composed)
        with user_errors():
            task()


_MULTIRUN = "PRUNEBENCH_MULTIRUN"
"""Hands the command line's -m to the sweeper, which Hydra makes; a single job is a sweep of one."""


def _to_run(jobs: Sequence[PlannedJob]) -> list[PlannedJob]:
    return in_running_order(job for job in jobs if job.needs_run)


def _in_multirun() -> bool:
    return os.environ.get(_MULTIRUN) != "0"


def run_sweep(
    arguments: Sequence[str],
    sweep: Sweep,
    launcher: Callable[[Sequence[Sequence[str]]], Sequence[JobReturn]],
) -> None:
    """Plan a sweep, run what has to run, and end with a list of failures.

    Raises:
        UserError: a composition is wrong, or none of them fits together; nothing was run.
        JobsFailedError: some jobs failed.
    """
    jobs = distinct_jobs(plan_jobs(expand(arguments, sweep, multirun=_in_multirun())))
    to_run = _to_run(jobs)
    refusals = [str(job.planned.refusal) for job in jobs if job.state == "refused"]
    if len(refusals) == len(jobs):
        raise UserError("; ".join(refusals))
    _say_plan(jobs, to_run)
    if not to_run:
        return
    with _announced(to_run):
        returns = launcher([_overrides(job, alone=len(to_run) == 1) for job in to_run])
    errors = [outcome._return_value for outcome in returns if outcome.status != JobStatus.COMPLETED]
    if not _in_multirun() and errors and isinstance(errors[0], UserError):
        raise errors[0]
    failures, user = [], True
    for job, outcome in zip(to_run, returns, strict=True):
        if outcome.status != JobStatus.COMPLETED:
            error = outcome._return_value  # the public property would raise it
            user = user and isinstance(error, UserError)
            failures.append((job.request.spec.job_id, (str(error) or type(error).__name__).splitlines()[0]))
    if _in_multirun():
        console.print(f"{len(to_run) - len(failures)} of {len(to_run)} jobs done, {len(failures)} failed")
    if failures:
        raise JobsFailedError(failures, user=user)


@contextmanager
def _announced(to_run: Sequence[PlannedJob]) -> Iterator[None]:
    """Those who watch a results folder see the plan of the sweep that writes to it; a single job needs none.

    Raises:
        UserError: a folder cannot be written, or a record cannot be read.
    """
    by_folder: dict[Path, list[PlannedJob]] = {}
    for job in to_run:
        by_folder.setdefault(job.request.options.results_dir, []).append(job)
    for folder in by_folder:
        try:
            (folder / "scratch" / "hydra").mkdir(parents=True, exist_ok=True)  # Hydra makes it without a word of ours
        except OSError as error:
            raise UserError(f"results_dir={folder} cannot be written: {error.strerror or error}") from error
    with ExitStack() as open_sweeps:
        for folder, jobs in by_folder.items() if len(to_run) > 1 else ():
            records = RecordStore(folder).all()
            expected = [estimated_seconds(job, records) for job in jobs]
            ids = [job.request.spec.job_id for job in jobs]
            open_sweeps.enter_context(sweeping(folder, jobs[0].request.options.sweep, ids, expected))
        yield


def run_composed(cfg: DictConfig) -> str:
    """Hydra's task function: run one composed job, leave its record, mirror it; the job id.

    Raises:
        UserError: the input is wrong; no record is left.
        Exception: whatever made the job fail; a failed record is left.
    """
    planned = build(cfg, tuple(HydraConfig.get().overrides.task))
    assert planned.request is not None, f"launched although refused: {planned.refusal}"
    request = planned.request
    job_id = request.spec.job_id
    store = RecordStore(request.options.results_dir)
    with store.claim(job_id) as ours:
        if not ours:
            console.print(f"{job_id}: skipped, another process is running it right now")
            return job_id
        (job,) = distinct_jobs([planned])
        if not job.needs_run or _saved(job):  # another process finished it after this sweep was planned
            console.print(f"skipped: {job.why_skipped}")
            return job_id
        record = _run_and_save(request, store)
    _mirror(record, request)
    return job_id


def _saved(job: PlannedJob) -> bool:
    """Whether a sweep that was stopped, or another process, has done the job and saved its model, too."""
    options = job.request.options
    if not _in_multirun() or job.state != "done" or options.force or options.save_model is None:
        return False
    return (options.save_model / "config.json").is_file()


def _run_and_save(request: JobRequest, store: RecordStore) -> RunRecord:
    from harness.jobs.run import PROCESS_SHELF, failed_record, run_job

    job_id = request.spec.job_id
    wanted = {protocol.key for protocol in request.spec.evaluation}
    found = None if request.options.force else store.find(job_id, wanted)
    try:
        with JobReporter(job_id) as bar, running(store.root, job_id, bar) as reporter:
            finished = run_job(request, found[0] if found else None, reporter, PROCESS_SHELF)
    except UserError as error:
        if _in_multirun():  # a single job's mistake is told once, by the command line
            console.print(f"{job_id}: refused: {error}")
        raise
    except Exception as error:
        path = store.save(failed_record(request, traceback.format_exc()))
        if not _in_multirun():
            console.print(traceback.format_exc().rstrip())
        console.print(f"{job_id}: FAILED: {type(error).__name__}: {error}; traceback in {path}")
        raise
    record, questions = with_questions(finished.record, finished.answers, found)
    path = store.save(record, questions)
    values = ", ".join(
        f"{result.task} {result.metric} {result.value:.4g}" for result in record.results if result.value is not None
    )
    console.print(f"{job_id}: done in {record.timings_s['total']:.0f} s: {values}; record {path}")
    return record


def _mirror(record: RunRecord, request: JobRequest) -> None:
    tracking = request.options.tracking
    if tracking.name == "wandb":
        destination = Destination(
            folder=request.options.results_dir / "wandb",
            project=tracking.project,
            entity=tracking.entity,
            group=request.options.sweep,
            model=request.options.save_model if tracking.log_model else None,
        )
        mirror(record, tracking.mode, destination)


def _overrides(job: PlannedJob, *, alone: bool) -> list[str]:
    """The job's overrides; in a sweep every job saves its model below the folder that was given."""
    overrides = list(job.planned.overrides)
    folder = job.request.options.save_model
    if folder is not None and not alone:
        overrides = [text for text in overrides if not text.startswith("save_model=")]
        quoted = str(folder / job.request.spec.job_id).replace("'", "\\'")
        overrides.append(f"save_model='{quoted}'")
    return overrides


def _say_plan(jobs: Sequence[PlannedJob], to_run: Sequence[PlannedJob]) -> None:
    for job in jobs:
        if job.state == "refused":
            console.print(f"refused: {job.planned.refusal}")
        elif not job.needs_run:
            console.print(f"skipped: {job.why_skipped}")
    twice = sum(job.named - 1 for job in jobs if job.state != "refused")
    if twice:
        console.print(f"{twice} compositions name a job of this sweep again (N:M fixes the sparsity; dense has none)")
    if len(jobs) > 1:
        console.print(f"{len(to_run)} of {len(jobs)} jobs to run")
