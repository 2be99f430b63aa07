"""Launching jobs: each is handed to a worker as data, by whichever of Hydra's launchers was chosen."""

import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from harness.config.hydra import compose
from harness.config.launcher import Launcher, hydra_launcher
from harness.config.request import JobRequest, Refusal, from_json, to_json
from harness.errors import UserError
from harness.jobs.pinning import pin
from harness.jobs.plan import PlannedJob, distinct_jobs, in_running_order, with_state
from harness.jobs.wall_time import measured_seconds
from harness.jobs.workplace import hand_over, settle, workplace
from harness.progress import JobReporter
from harness.record import RunRecord
from harness.tracking.answers import with_questions
from harness.tracking.live import running, sweeping
from harness.tracking.provenance import checkout_state
from harness.tracking.redact import record_without_secrets, without_secrets
from harness.tracking.store import RecordStore
from harness.tracking.wandb.mirror import Destination, mirror

if TYPE_CHECKING:
    from harness.answers import TaskAnswers

ELSEWHERE = "elsewhere"
"""Of a job that another process has: neither done nor failed."""

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
    composed = compose(arguments, multirun=multirun)
    planned = distinct_jobs(composed.jobs)
    refusals = [job.reason for job in planned if isinstance(job, Refusal)]
    if len(refusals) == len(planned):
        raise UserError("; ".join(refusals))
    to_run = _to_run([job for job in planned if isinstance(job, PlannedJob)])
    _say_plan(planned, to_run)
    _clear_done([job for job in planned if isinstance(job, PlannedJob) and not job.needs_run])
    if to_run:
        _run_all(to_run, hydra_launcher(composed.hydra, to_run[0].request.options.results_dir, run_data))


def _to_run(jobs: Sequence[PlannedJob]) -> list[PlannedJob]:
    return in_running_order(job for job in jobs if job.needs_run)


def _clear_done(jobs: Sequence[PlannedJob]) -> None:
    """Clear what processes that were killed right after the records of these jobs left of them."""
    for job in jobs:
        store, job_id = RecordStore(job.request.options.results_dir), job.request.spec.job_id
        if store.leftovers(job_id):
            with store.claim(job_id):
                pass


def _run_all(to_run: Sequence[PlannedJob], launcher: Launcher) -> None:
    """Launch the jobs, and end with a list of failures.

    Raises:
        UserError: the only job's input is wrong.
        JobsFailedError: some jobs failed.
    """
    in_sweep = to_run[0].request.options.in_sweep
    with _announced(to_run):
        outcomes = launcher([to_json(job.request) for job in to_run])
    ended = zip(to_run, outcomes, strict=True)
    failed = [(job.request.spec.job_id, outcome) for job, outcome in ended if isinstance(outcome, Exception)]
    elsewhere = outcomes.count(ELSEWHERE)
    user = all(isinstance(error, UserError) for _, error in failed)
    if in_sweep:
        done = len(to_run) - len(failed) - elsewhere
        others = f", {elsewhere} left to another process that is running them" if elsewhere else ""
        console.print(f"{done} of {len(to_run)} jobs done, {len(failed)} failed{others}")
    elif failed and user:
        raise failed[0][1]
    if failed:
        reasons = [(job_id, (str(error) or type(error).__name__).splitlines()[0]) for job_id, error in failed]
        raise JobsFailedError(reasons, user=user)


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
            expected = [measured_seconds(job, records) for job in jobs]
            ids = [job.request.spec.job_id for job in jobs]
            open_sweeps.enter_context(sweeping(folder, jobs[0].request.options.sweep, ids, expected))
        yield


def run_data(job: str) -> str:
    """Run one job, handed over as JSON, in whatever process this is; leave its record, mirror it.

    Returns:
        The job id, or `ELSEWHERE` where another process is running the job.

    Raises:
        UserError: the input is wrong; no record is left.
        Exception: whatever made the job fail; a failed record is left.
    """
    request = from_json(job)
    if request.options.device in ("auto", "cuda"):
        pin()
    job_id = request.spec.job_id
    store = RecordStore(request.options.results_dir)
    with store.claim(job_id) as ours:
        if not ours:
            console.print(f"{job_id}: skipped, another process is running it right now")
            return ELSEWHERE
        found = with_state(request)
        finished = found.record[0] if found.record and found.state == "done" and not request.options.force else None
        if settle(request, finished):  # another process finished it after this sweep was planned, or was killed then
            console.print(f"skipped: {found.why_skipped}")
            return job_id
        record = _run_and_save(request, store)
    _mirror(record, request)
    return job_id


def _run_and_save(request: JobRequest, store: RecordStore) -> RunRecord:
    """Run the job, write its record, and only then put its model where it was asked for."""
    job_id = request.spec.job_id
    wanted = {protocol.key for protocol in request.spec.evaluation}
    found = None if request.options.force else store.find(job_id, wanted)
    with ExitStack() as work:
        record, answers = _run(request, store, found[0] if found else None, work)
        if request.options.save_model is None:
            work.close()  # before the record, with which a rerun would look no further
        record, questions = with_questions(record_without_secrets(record), answers, found)
        path = store.save(record, questions)
        hand_over(request)
    values = ", ".join(
        f"{result.task} {result.metric} {result.value:.4g}" for result in record.results if result.value is not None
    )
    console.print(f"{job_id}: done in {record.timings_s['total']:.0f} s: {values}; record {path}")
    return record


def _run(
    request: JobRequest, store: RecordStore, previous: RunRecord | None, work: ExitStack
) -> "tuple[RunRecord, list[TaskAnswers]]":
    """Run the job in a workplace that goes with `work`; when it fails, say so and leave a failed record."""
    from harness.jobs.recording import failed_record
    from harness.jobs.run import PROCESS_CACHE, run_job

    job_id = request.spec.job_id
    try:
        place = work.enter_context(workplace(request))
        with JobReporter(job_id) as bar, running(store.root, job_id, bar) as reporter:
            return run_job(request, previous, reporter, place, PROCESS_CACHE)
    except UserError as error:
        if request.options.in_sweep:  # a single job's mistake is told once, by the command line
            console.print(without_secrets(f"{job_id}: refused: {error}"))
        raise
    except Exception as error:
        failed = record_without_secrets(failed_record(request, traceback.format_exc()))
        path = store.save(failed)
        if not request.options.in_sweep:
            console.print(str(failed.error).rstrip())
        console.print(without_secrets(f"{job_id}: FAILED: {type(error).__name__}: {error}; traceback in {path}"))
        raise


def _mirror(record: RunRecord, request: JobRequest) -> None:
    tracking = request.options.tracking
    if tracking.name == "wandb":
        destination = Destination(
            folder=request.options.results_dir / "wandb",
            project=tracking.project,
            entity=tracking.entity,
            model=request.options.save_model if tracking.log_model else None,
        )
        mirror(record, tracking.mode, destination)


def _say_plan(planned: Sequence[PlannedJob | Refusal], to_run: Sequence[PlannedJob]) -> None:
    for job in planned:
        if isinstance(job, Refusal):
            console.print(f"refused: {job.reason}")
        elif not job.needs_run:
            console.print(f"skipped: {job.why_skipped}")
    twice = sum(job.named - 1 for job in planned if isinstance(job, PlannedJob))
    if twice:
        console.print(
            f"{twice} compositions name a job of this sweep again (N:M fixes the sparsity, dense has none, and one job "
            "measures all that is asked of it)"
        )
    if len(planned) > 1:
        console.print(f"{len(to_run)} of {len(planned)} jobs to run")
