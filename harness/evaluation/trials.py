"""The loss of a language model with a candidate's edits in some blocks, of which only the rest is computed again."""

import math

import torch
from torch import Tensor
from transformers import PreTrainedModel

from harness.blocks.offload import Offloading
from harness.blocks.runner import BlockRunner, in_batches
from harness.blocks.trial import Edited, Edits
from harness.evaluation.perplexity import perplexity_from
from harness.progress import Silent


class TrialLoss:
    """Mean negative log-likelihood a token of a language model, in nats, for many candidates on the same windows.

    Args:
        model: everything but its blocks on the CPU.
        dense: gives out the blocks of `model` as they are.
        windows_NL: token windows.
        batch_tokens: most tokens in one forward pass; at least one window is run at a time.
        device: where a block is computed.
    """

    def __init__(
        self, model: PreTrainedModel, dense: Offloading, windows_NL: Tensor, *, batch_tokens: int, device: torch.device
    ) -> None:
        self._model = model
        self._dense = dense
        self._batches = in_batches(windows_NL, batch_tokens)
        self._device = device
        self._runner: BlockRunner | None = None
        self._passed: dict[int, object] = {}
        """Edits of the blocks that the kept hidden states went through."""

    def __call__(self, edits: Edits, base: Edits = {}) -> float:  # noqa: B006  # nobody writes to it
        """The loss with `edits` on top of those of `base`; infinite where it is no number."""
        first = min(edits, default=0)
        runner = self._runner
        if runner is None or first < runner.position or self._passed != _before(base, runner.position):
            self._runner = runner = BlockRunner(self._model, self._batches, self._dense, self._device)
        forward = runner.fork(Edited(self._dense, base)) if runner.position < first else runner
        while forward.position < first:
            with forward.next_block() as step:
                step.hand_on()
        self._runner, self._passed = forward, _before(base, first)
        measured = perplexity_from(forward.fork(Edited(self._dense, {**base, **edits})), Silent())
        return math.inf if measured.value is None else math.log(measured.value)


def _before(edits: Edits, position: int) -> dict[int, object]:
    return {index: edit for index, edit in edits.items() if index < position}
