"""One job as it was asked for: what decides its numbers, how it runs, and where its data are.

A request is plain data: `to_json` and `from_json` carry it to the worker of a launcher.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter

from harness.data.corpora.self_generated import SELF_GENERATED
from harness.data.places import DataRef
from harness.evaluation.base import EVALUATIONS
from harness.job import EvaluationProtocol, JobSpec, PruningSpec, RunOptions
from harness.models.checkpoint import Checkpoint
from harness.pruning.methods.base import METHODS
from harness.recovery.base import RECOVERIES
from harness.registry import load_folder


@dataclass(frozen=True, slots=True)
class JobRequest:
    """Everything that `run_job` needs.

    Args:
        calibration: data behind the job's calibration, None for the dense model.
        training: data behind what the recovery trains on, None where that says nothing of its own.
        evaluation: data behind every protocol, by the protocol's key.
        command: the overrides that made the job.
        paper_name: how papers spell the model, None = none prints numbers of it.
        size_b: billions of its parameters as its authors say, None = not known; for estimates alone.
    """

    spec: JobSpec
    options: RunOptions
    checkpoint: Checkpoint
    calibration: DataRef | None
    evaluation: Mapping[str, DataRef]
    command: tuple[str, ...]
    paper_name: str | None = None
    size_b: float | None = None
    training: DataRef | None = None

    @property
    def pruning(self) -> PruningSpec:
        """What is done to the weights; only of a job that prunes."""
        assert self.spec.pruning is not None, "the dense model is not pruned"
        return self.spec.pruning

    @property
    def sequences(self) -> list[DataRef]:
        """Data behind the sequences that are drawn, to calibrate on and, where it has its own, for the recovery."""
        return list(dict.fromkeys(data for data in (self.calibration, self.training) if data is not None))

    @property
    def needs_whole_model(self) -> str | None:
        """What of the job needs all of the model in memory; None where its blocks may be elsewhere."""
        pruning, found = self.spec.pruning, []
        if pruning is not None:
            if METHODS.build(pruning.method).needs_whole_model:
                found.append(f"method={pruning.method.name}")
            if RECOVERIES.build(pruning.recovery).changes_model:
                found.append(f"recovery={pruning.recovery.name}")
            if SELF_GENERATED in (pruning.calibration.corpus, pruning.training and pruning.training.corpus):
                found.append(f"calibration={SELF_GENERATED}")
        for kind in dict.fromkeys(protocol.kind for protocol in self.spec.evaluation):
            if EVALUATIONS.get(kind).needs_whole_model:
                names = [protocol.name for protocol in self.spec.evaluation if protocol.kind == kind]
                found.append(f"{EVALUATIONS.get(kind).called} ({','.join(names)})")
        return next(iter([*found, *(["compile=true"] if self.options.compile else [])]), None)

    def missing(self, measured: set[str]) -> list[EvaluationProtocol]:
        """The protocols asked for whose keys are not in `measured`."""
        return [protocol for protocol in self.spec.evaluation if protocol.key not in measured]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A composition whose parts do not go together: no job.

    Args:
        overrides: that asked for it.
        reason: why not.
    """

    overrides: tuple[str, ...]
    reason: str


@cache
def _adapter() -> TypeAdapter[JobRequest]:
    return TypeAdapter(JobRequest)  # made when it is first needed: planning hands nothing on


def to_json(request: JobRequest) -> str:
    """The request without loss; its protocols apart, for their classes may be a plug-in's."""
    protocols = [[each.kind, asdict(each)] for each in request.spec.evaluation]  # type: ignore[call-overload]  # kinds are
    plain = replace(request, spec=replace(request.spec, evaluation=()))
    return json.dumps({"protocols": protocols, "request": _adapter().dump_python(plain, mode="json")})


def from_json(text: str) -> JobRequest:
    """The request that `to_json` wrote, with its plug-ins loaded, which the rest of it may need.

    Raises:
        UserError: a plug-in cannot be loaded.
    """
    data = json.loads(text)
    for folder in data["request"]["options"]["plugins"]:
        load_folder(Path(folder))
    request = _adapter().validate_python(data["request"])
    found = ((EVALUATIONS.get(kind).protocol(), fields) for kind, fields in data["protocols"])
    protocols = (TypeAdapter(protocol).validate_python(fields) for protocol, fields in found)
    return replace(request, spec=replace(request.spec, evaluation=tuple(protocols)))
