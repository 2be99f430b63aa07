"""What methods and allocations have to say about a job before it runs, such as the hours that it will take."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from harness.config.request import JobRequest
from harness.data.hub import config_of
from harness.data.sources import sample_note
from harness.errors import UserError
from harness.job import PruningSpec
from harness.models.dimensions import dimensions_of
from harness.pruning.allocations.base import ALLOCATIONS, Allocation
from harness.pruning.methods.base import METHODS, PruningMethod

if TYPE_CHECKING:
    import torch


def warnings(pruning: PruningSpec, shapes: Mapping[str, tuple[int, int]], device: "torch.device") -> list[str]:
    """Of the method and of the allocation of a job that prunes linears of these shapes (O, I) there."""
    of_method = METHODS.build(pruning.method).warning(shapes, device)
    found = of_method, ALLOCATIONS.build(pruning.allocation).warning(shapes, device, pruning.calibration)
    return [warning for warning in found if warning is not None]


class Preflight:
    """Asks the methods and allocations that warn; once for a model and a device, for they may time a short trial there.

    Shapes are those of the checkpoint: GPT-2 stores its weights transposed, so that there they are those of (I, O).
    """

    def __init__(self) -> None:
        self._said: dict[str, list[str]] = {}

    def __call__(self, request: JobRequest) -> list[str]:
        """The warnings of a job; of a checkpoint that is not on this machine, that its commit is not known."""
        try:
            request.checkpoint.check_resolved()
        except UserError as error:
            return [f"this job gets another id when it is run, and cannot run yet: {error}"]
        checkpoint = request.checkpoint
        if checkpoint.source == "hub" and (reason := config_of(str(checkpoint.location), str(checkpoint.commit))[1]):
            return [f"{checkpoint.location} cannot run yet: its config.json cannot be had: {reason}"]
        if (pruning := request.spec.pruning) is None:
            return []
        notes = filter(None, map(sample_note, request.sequences))
        return [*notes, *self._of_choices(request, pruning)]

    def _of_choices(self, request: JobRequest, pruning: PruningSpec) -> list[str]:
        method, allocation = METHODS.build(pruning.method), ALLOCATIONS.build(pruning.allocation)
        warning: list[object] = [method] if type(method).warning is not PruningMethod.warning else []
        if type(allocation).warning is not Allocation.warning:
            warning += [allocation, pruning.calibration]
        if not warning:
            return []
        key = repr((*warning, request.checkpoint, request.options.device))
        if key not in self._said:
            self._said[key] = self._ask(request)
        return self._said[key]

    def _ask(self, request: JobRequest) -> list[str]:
        from harness.models.devices import resolve_device  # here: only a trial needs torch

        dimensions = dimensions_of(request.checkpoint)
        if dimensions is None:
            return []
        shapes = {
            f"{block}.{number}": shape
            for block in range(dimensions.num_blocks)
            for number, shape in enumerate(dimensions.matrices)
        }
        return warnings(request.pruning, shapes, resolve_device(request.options.device))
