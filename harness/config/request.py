"""One job as it was asked for: what decides its numbers, how it runs, and where its data are.

A request is plain data: `to_data` and `from_data` carry it to the worker of a launcher as JSON.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from harness.data.catalogue import DataRef
from harness.job import EvaluationProtocol, JobSpec, PruningSpec, RunOptions
from harness.models.checkpoint import Checkpoint
from harness.registry import load_folder


@dataclass(frozen=True, slots=True)
class JobRequest:
    """Everything that `run_job` needs.

    Args:
        calibration: data behind the job's calibration, None for the dense model.
        evaluation: data behind every protocol, by the protocol's key.
        command: the overrides that made the job.
        paper_name: how papers spell the model, None = none prints numbers of it.
    """

    spec: JobSpec
    options: RunOptions
    checkpoint: Checkpoint
    calibration: DataRef | None
    evaluation: Mapping[str, DataRef]
    command: tuple[str, ...]
    paper_name: str | None = None

    @property
    def pruning(self) -> PruningSpec:
        """What is done to the weights; only of a job that prunes."""
        assert self.spec.pruning is not None, "the dense model is not pruned"
        return self.spec.pruning

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


_TYPE = "type"
"""The key under which a dataclass or a path says what it is; mappings whose keys are free are listed as pairs."""


def to_data(request: JobRequest) -> dict[str, Any]:
    """The request as what JSON can hold, without loss."""
    return cast("dict[str, Any]", _written(request))


def from_data(data: Mapping[str, Any]) -> JobRequest:
    """The request that `to_data` wrote, with its plug-ins loaded, which the rest of it may need.

    Raises:
        UserError: a plug-in cannot be loaded.
    """
    options = _read(data["options"])
    assert isinstance(options, RunOptions), f"{options} are no options"
    for folder in options.plugins:
        load_folder(folder)
    request = _read(data)
    assert isinstance(request, JobRequest), f"{type(request).__name__} is no job"
    return request


def _written(value: object) -> object:
    if is_dataclass(value):
        kind = type(value)
        content = {field.name: _written(getattr(value, field.name)) for field in fields(value)}
        return {_TYPE: f"{kind.__module__}:{kind.__qualname__}", **content}
    if isinstance(value, Path):
        return {_TYPE: "path", "path": str(value)}
    if isinstance(value, Mapping):
        return {_TYPE: "mapping", "items": [[name, _written(entry)] for name, entry in value.items()]}
    if isinstance(value, tuple):
        return [_written(entry) for entry in value]
    assert value is None or isinstance(value, str | int | float), f"{value!r} is not plain"
    return value


def _read(data: object) -> object:
    if isinstance(data, list):
        return tuple(_read(entry) for entry in data)
    if not isinstance(data, Mapping):
        return data
    match data[_TYPE]:
        case "path":
            return Path(data["path"])
        case "mapping":
            return {name: _read(entry) for name, entry in data["items"]}
        case kind:
            module, _, name = kind.partition(":")
            made = getattr(import_module(module), name)
            assert isinstance(made, type) and is_dataclass(made), f"{kind} is no part of a request"  # noqa: PT018
            return made(**{field: _read(entry) for field, entry in data.items() if field != _TYPE})
