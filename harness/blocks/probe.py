"""One short random input of every block, given to it as the model does: to try changes of a block on."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.blocks.calls import BlockCall
from harness.blocks.runner import BlockRunner, BlockStep

PROBE_TOKENS = 64
PROBE_IMAGES = 8


@dataclass(frozen=True, slots=True)
class Probe:
    """Runs float32 copies of one block on one random input.

    Args:
        call: the model's own call of the block, on an input of this shape.
        shape: of the input, [1, L, H] or that of a few images.
        device: where the copies are.
    """

    call: BlockCall
    shape: tuple[int, ...]
    device: torch.device

    def __call__(self, block: nn.Module) -> Tensor:
        """The output of `block`, float32."""
        hidden = torch.randn(self.shape, generator=torch.Generator().manual_seed(0)).to(self.device)
        # Convolutions on a GPU round to TF32 unless told otherwise, which would look like a change.
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False):
            return self.call.in_float32().replay(block, hidden)


class Probes:
    """The probes of all blocks of a model.

    Args:
        runner: in front of the first block; the calls are recorded anew, on the start of its first batch.
    """

    def __init__(self, runner: BlockRunner) -> None:
        self._of_tokens, self._device = runner.hidden[0].dim() == 3, runner.device
        rows = runner.batches[0]
        start = BlockRunner(
            runner.model,
            [rows[:1, :PROBE_TOKENS] if self._of_tokens else rows[:PROBE_IMAGES]],
            runner.offloading,
            runner.device,
        )
        self._calls = [calls[0] for calls in start.calls]

    def of(self, step: BlockStep) -> Probe:
        """The probe of the block whose turn it is."""
        hidden = step.hidden[0]
        if self._of_tokens:
            shape: tuple[int, ...] = (1, min(PROBE_TOKENS, hidden.shape[1]), *hidden.shape[2:])
        else:
            shape = (min(PROBE_IMAGES, len(hidden)), *hidden.shape[1:])
        return Probe(self._calls[step.index], shape, self._device)
