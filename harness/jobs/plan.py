"""Which jobs of a sweep there are and what is to be done with each; no torch."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from harness.config.build import Planned
from harness.config.request import JobRequest
from harness.record import RunRecord
from harness.tracking.store import RecordStore

State = Literal["new", "missing evaluations", "done", "refused"]


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """One distinct job of a sweep.

    Args:
        planned: its first composition.
        state: what has to be done.
        missing: keys of the evaluations that its record lacks.
        record: its record and where that lies, None when there is none.
        named: how many compositions of the sweep are this very job.
    """

    planned: Planned
    state: State
    missing: tuple[str, ...]
    record: tuple[RunRecord, Path] | None
    named: int

    @property
    def request(self) -> JobRequest:
        assert self.planned.request is not None, "a refused composition is no job"
        return self.planned.request

    @property
    def needs_run(self) -> bool:
        if self.state == "refused":
            return False
        options = self.request.options
        return self.state != "done" or options.force or options.save_model is not None

    @property
    def why_skipped(self) -> str:
        """Why a done job is not run again, and where its record is."""
        assert self.record is not None, "only a job with a record is skipped"
        record, path = self.record
        dirty = ", by a checkout with uncommitted changes" if record.provenance.dirty else ""
        return f"{record.job_id}: done on {record.provenance.created}{dirty}, record {path} (force=true runs it again)"


def distinct_jobs(planned: Iterable[Planned]) -> list[PlannedJob]:
    """The jobs of a sweep in order, each once, with their states; refused compositions keep their own entries.

    Raises:
        UserError: a record cannot be read.
    """
    jobs: dict[str, list[Planned]] = {}
    for composition in planned:
        request = composition.request
        key = request.spec.job_id if request else f"refused {composition.refusal}"
        jobs.setdefault(key, []).append(composition)
    return [_with_state(compositions) for compositions in jobs.values()]


def in_running_order(jobs: Iterable[PlannedJob]) -> list[PlannedJob]:
    """The jobs with those of one model and calibration next to each other, which have most to share; else in order."""
    places: dict[object, int] = {}

    def place(job: PlannedJob) -> tuple[int, int]:
        spec = job.request.spec
        calibration = spec.calibration and replace(spec.calibration, propagation="pruned")
        model, drawn = (spec.model,), (spec.model, calibration, spec.seed)
        return places.setdefault(model, len(places)), places.setdefault(drawn, len(places))

    return sorted(jobs, key=place)


def estimated_seconds(job: PlannedJob, records: Iterable[RunRecord]) -> float | None:
    """Wall time of the like of this job: the median over finished ones of the same work.

    That is the same model, method, calibration, allocation, recovery and evaluations; the sparsity may be another.
    None when nothing like it has finished, and 0 when it is done.
    """
    if not job.needs_run:
        return 0.0
    spec = job.request.spec
    wanted = {protocol.key for protocol in spec.evaluation}
    identity = spec.identity()
    alike = sorted(
        record.timings_s["total"]
        for record in records
        if record.job["model"] == identity["model"]
        and record.job["method"] == identity["method"]
        and all(record.job[axis] == identity[axis] for axis in ("calibration", "allocation", "recovery"))
        and wanted == {result.protocol for result in record.results}
    )
    return alike[len(alike) // 2] if alike else None


def _with_state(compositions: list[Planned]) -> PlannedJob:
    first = compositions[0]
    if first.request is None:
        return PlannedJob(first, "refused", (), None, len(compositions))
    wanted = {protocol.key for protocol in first.request.spec.evaluation}
    found = RecordStore(first.request.options.results_dir).find(first.request.spec.job_id, wanted)
    if found is None:
        missing = tuple(protocol.key for protocol in first.request.spec.evaluation)
        return PlannedJob(first, "new", missing, None, len(compositions))
    measured = {result.protocol for result in found[0].results}
    missing = tuple(protocol.key for protocol in first.request.missing(measured))
    return PlannedJob(first, "missing evaluations" if missing else "done", missing, found, len(compositions))
