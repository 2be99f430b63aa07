"""What every step of a job is given."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from harness.config.request import JobRequest
from harness.jobs.placement import Placement
from harness.models.devices import resolve_dtype
from harness.progress import Clock, Reporter


@dataclass(frozen=True, slots=True)
class JobContext:
    """A job that runs.

    Args:
        request: what was asked for, with the offloading that was chosen.
        placement: the choice of offloading.
        place: empty folder for what lies on disk while the job runs, and for its pruned model.
    """

    request: JobRequest
    placement: Placement
    device: torch.device
    place: Path
    reporter: Reporter
    clock: Clock = field(default_factory=Clock)

    @property
    def dtype(self) -> torch.dtype | None:
        """Of the weights; None = the checkpoint's own."""
        return resolve_dtype(self.request.spec.model.dtype, self.device)

    def note(self, text: str) -> str:
        """Say now what will stand in the record, too."""
        self.reporter.note(text)
        return text
