"""What a method has to say about a job before anything is loaded, such as the hours that it will take."""

from harness.models.anatomy import anatomy_of
from harness.pruning.methods.base import PruningMethod
from harness.pruning.registry import build_method
from harness.request import JobRequest


class Forewarning:
    """Asks the methods that warn; each once for a model and a device, for it may time a short trial there.

    Shapes are those of the checkpoint: GPT-2 stores its weights transposed, so that there they are those of (I, O).
    """

    def __init__(self) -> None:
        self._said: dict[str, str | None] = {}

    def __call__(self, request: JobRequest) -> str | None:
        """The warning of a job; None without one, and while its checkpoint is not on this machine."""
        method = build_method(request.spec.method)
        if type(method).warning is PruningMethod.warning:
            return None
        key = repr((method, request.checkpoint, request.options.device))
        if key not in self._said:
            self._said[key] = self._ask(method, request)
        return self._said[key]

    def _ask(self, method: PruningMethod, request: JobRequest) -> str | None:
        from harness.models.loading import resolve_device  # here: only a trial needs torch

        anatomy = anatomy_of(request.checkpoint)
        if anatomy is None:
            return None
        shapes = {
            f"{block}.{number}": shape
            for block in range(anatomy.num_blocks)
            for number, shape in enumerate(anatomy.matrices)
        }
        return method.warning(shapes, resolve_device(request.options.device))
