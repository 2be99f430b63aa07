"""The loss of a model with other weights in some blocks: only what comes from those blocks on is computed again."""

import math

import torch
from torch import Tensor
from transformers import PreTrainedModel

from harness.blocks.offload import Offloading
from harness.blocks.runner import BlockRunner, in_batches
from harness.evaluation.perplexity import perplexity_from
from harness.progress import Silent


class TrialLoss:
    """Mean negative log-likelihood a token of a language model, in nats, for many trials on the same windows.

    The hidden states of the dense model in front of the last trial's first block are kept; trials that go through the
    model from front to back compute half of it on average.

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

    def __call__(self, trial: Offloading, first: int) -> float:
        """The loss with the blocks from index `first` on as `trial` gives them out; infinite where it is no number."""
        if self._runner is None or first < self._runner.position:
            self._runner = BlockRunner(self._model, self._batches, self._dense, self._device)
        while self._runner.position < first:
            with self._runner.next_block() as step:
                step.hand_on()
        measured = perplexity_from(self._runner.fork(trial), Silent())
        return math.inf if measured.value is None else math.log(measured.value)
