"""Which jobs of a sweep there are and what is to be done with each; no torch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Literal

from harness.config.request import JobRequest, Refusal
from harness.errors import UserError, setting_aside
from harness.jobs.workplace import has_its_model
from harness.record import RunRecord
from harness.tracking.store import RecordStore

State = Literal["new", "missing evaluations", "done"]


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """One distinct job of a sweep.

    Args:
        request: what all of its compositions ask for together.
        state: what has to be done.
        missing: keys of the evaluations that its record lacks.
        record: its record and where that lies, None when there is none.
        named: how many compositions of the sweep are this very job.
    """

    request: JobRequest
    state: State
    missing: tuple[str, ...]
    record: tuple[RunRecord, Path] | None
    named: int

    @property
    def needs_run(self) -> bool:
        if self.state != "done" or self.record is None or self.request.options.force:
            return True
        return not has_its_model(self.request, self.record[0])

    @property
    def why_skipped(self) -> str:
        """Why a done job is not run again, and where its record is."""
        assert self.record is not None, "only a job with a record is skipped"
        record, path = self.record
        dirty = ", by a checkout with uncommitted changes" if record.provenance.dirty else ""
        return f"{record.job_id}: done on {record.provenance.created}{dirty}, record {path} (force=true runs it again)"


def distinct_jobs(planned: Iterable[JobRequest | Refusal]) -> list[PlannedJob | Refusal]:
    """The jobs of a sweep in order, each once, with their states; of refusals each reason once.

    Of several jobs each saves its model below the folder that was given.

    Raises:
        UserError: compositions of one job contradict each other.
    """
    jobs: dict[str, list[JobRequest]] = {}
    refusals: dict[str, Refusal] = {}
    for composition in planned:  # places of the first compositions: dictionaries keep their order
        if isinstance(composition, Refusal):
            refusals.setdefault(composition.reason, composition)
            jobs.setdefault(composition.reason, [])
        else:
            jobs.setdefault(composition.spec.job_id, []).append(composition)
    alone = len(jobs) - len(refusals) == 1
    return [_planned(same, alone=alone) if same else refusals[key] for key, same in jobs.items()]


def _planned(compositions: Sequence[JobRequest], *, alone: bool) -> PlannedJob | Refusal:
    """The job of these compositions; one whose own record cannot be read is refused, and that file kept.

    Raises:
        UserError: the compositions contradict each other.
    """
    request = _joined(compositions)
    folder = request.options.save_model
    if folder is not None and not alone:
        request = replace(request, options=replace(request.options, save_model=folder / request.spec.job_id))
    reason = f"{request.spec.job_id}: its record cannot be read; move that away to run the job again"
    planned: PlannedJob | Refusal = Refusal(request.command, reason)
    with setting_aside():
        planned = with_state(request, len(compositions))
    return planned


def with_state(request: JobRequest, named: int = 1) -> PlannedJob:
    """The job and what has to be done with it.

    Raises:
        UserError: a record cannot be read.
    """
    wanted = {protocol.key for protocol in request.spec.evaluation}
    found = RecordStore(request.options.results_dir).find(request.spec.job_id, wanted)
    measured = {result.protocol for result in found[0].results} if found else set()
    missing = tuple(protocol.key for protocol in request.missing(measured))
    state: State = "new" if found is None else "missing evaluations" if missing else "done"
    return PlannedJob(request, state, missing, found, named)


def _joined(compositions: Sequence[JobRequest]) -> JobRequest:
    """The one request of all compositions of a job: it measures what any of them asks for.

    Raises:
        UserError: they ask for the job to be run in different ways.
    """
    first = compositions[0]
    protocols, data, commands = list(first.spec.evaluation), dict(first.evaluation), [first.command]
    for other in compositions[1:]:
        _check_alike(first.spec.job_id, replace(first, evaluation=data), other)
        if added := other.missing({protocol.key for protocol in protocols}):
            protocols += added
            data |= {each.key: other.evaluation[each.key] for each in added if each.key in other.evaluation}
            commands.append(other.command)
    spec = replace(first.spec, evaluation=tuple(protocols))
    return replace(first, spec=spec, evaluation=data, command=_joined_command(commands))


def _check_alike(job_id: str, first: JobRequest, other: JobRequest) -> None:
    """A job runs once, on one device, from one copy of its data, into one folder.

    Raises:
        UserError: the two requests differ in more than what they measure.
    """
    pairs: dict[str, tuple[object, object]] = {
        "model": (first.checkpoint, other.checkpoint),
        "model.paper_name": (first.paper_name, other.paper_name),
        "calibration": (first.calibration, other.calibration),
        "training": (first.training, other.training),
    }
    for name in (field.name for field in fields(first.options)):
        pairs[_FIELDS.get(name, name)] = getattr(first.options, name), getattr(other.options, name)
    for key in first.evaluation.keys() & other.evaluation.keys():
        pairs[f"the data of {key}"] = first.evaluation[key], other.evaluation[key]
    for name, (one, two) in pairs.items():
        if one != two:
            raise UserError(
                f"{job_id} is asked for twice, with {_said(name, one, two)}; a job is run in one way: "
                f"allowed: one value of {name}"
            )


_FIELDS = {"zero_shot_token_budget": "evaluation.token_budget"}
"""Run options by the fields of the configuration, where these have other names."""


def _said(name: str, one: object, two: object) -> str:
    """Two values that differ; of two dataclasses the fields that do."""
    if is_dataclass(one) and type(one) is type(two):
        differing = [field.name for field in fields(one) if getattr(one, field.name) != getattr(two, field.name)]
        return ", ".join(_said(f"{name}.{part}", getattr(one, part), getattr(two, part)) for part in differing)
    return f"{name}={one} and {name}={two}"


def _joined_command(commands: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The overrides of all, values that differ beside each other as a sweep writes them."""
    values: dict[str, dict[str, None]] = {}
    for key, _, value in (text.partition("=") for command in commands for text in command):
        values.setdefault(key, {})[value] = None
    return tuple(f"{key}={','.join(given)}" for key, given in values.items())


def in_running_order(jobs: Iterable[PlannedJob]) -> list[PlannedJob]:
    """The jobs with those of one model and calibration next to each other, which have most to share; else in order."""
    places: dict[object, int] = {}

    def place(job: PlannedJob) -> tuple[int, int]:
        spec = job.request.spec
        pruning = spec.pruning
        calibration = pruning and (pruning.calibration.drawn, pruning.seed)
        model, drawn = (spec.model,), (spec.model, calibration)
        return places.setdefault(model, len(places)), places.setdefault(drawn, len(places))

    return sorted(jobs, key=place)
