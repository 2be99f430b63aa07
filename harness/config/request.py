"""One job as it was asked for: what decides its numbers, how it runs, and where its data are."""

from collections.abc import Mapping
from dataclasses import dataclass

from harness.data.catalogue import DataRef
from harness.job import EvaluationProtocol, JobSpec, RunOptions
from harness.models.checkpoint import Checkpoint


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

    def missing(self, measured: set[str]) -> list[EvaluationProtocol]:
        """The protocols asked for whose keys are not in `measured`."""
        return [protocol for protocol in self.spec.evaluation if protocol.key not in measured]
