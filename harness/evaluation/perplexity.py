"""Token-window perplexity, the protocol of the pruning papers.

Non-overlapping windows of one length; every window predicts its last seq_len - 1 tokens; the value is exp of the mean
over windows of the mean negative log-likelihood, which equals the mean over all predicted tokens
(Frantar & Alistarh 2023 and Sun et al. 2023, evaluation code).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from harness.blocks.activations import overwrite, record_into_buffer
from harness.blocks.layers import decoder_blocks
from harness.blocks.offload import Residency, outside_on
from harness.evaluation.head import Head, find_head
from harness.evaluation.protocols import HEAD_ROWS
from harness.models.compiled import compiled_blocks
from harness.progress import Reporter

PROBE_TOKENS = 16
"""Positions on which the head is tried."""


@dataclass(frozen=True, slots=True)
class Perplexity:
    """A perplexity and its standard error over windows (delta method: value x error of the mean NLL).

    The value is infinite where the loss overflows exp, and None where the model's logits are no numbers; neither has
    an error.
    """

    value: float | None
    stderr: float | None
    num_windows: int


@torch.no_grad()
def perplexity(
    model: PreTrainedModel,
    windows_NL: Tensor,
    *,
    batch_tokens: int,
    device: torch.device,
    reporter: Reporter,
    compiled: bool = False,
) -> Perplexity:
    """Perplexity of `model` (on `device`) over token windows [N, L].

    Args:
        batch_tokens: most tokens in one forward pass; at least one window is run at a time.
        compiled: run the blocks through `torch.compile`, which pays on many windows.

    Raises:
        UserError: `compiled` where nothing can compile.
    """
    probe_BL = windows_NL[:1, :PROBE_TOKENS].to(device)
    _, head = find_head(model, {"input_ids": probe_BL, "use_cache": False})
    losses = []
    with compiled_blocks(model, device) if compiled else nullcontext():
        for batch_BL in _batches(windows_NL, batch_tokens):
            losses.append(_batch_nll(model, head, batch_BL.to(device)))
            reporter.advance(len(batch_BL))
    return _summary(torch.cat(losses))


@torch.no_grad()
def perplexity_by_blocks(
    model: PreTrainedModel,
    residency: Residency,
    windows_NL: Tensor,
    *,
    batch_tokens: int,
    device: torch.device,
    reporter: Reporter,
) -> Perplexity:
    """The same perplexity with one block at a time on `device`: each is applied to all windows before the next.

    Advances `reporter` by one for every block.

    Args:
        model: everything but its blocks on the CPU.
        residency: gives out the blocks of `model`.
    """
    states = WindowStates(model, residency, windows_NL, batch_tokens=batch_tokens, device=device)
    while states.start < states.num_blocks:
        states.advance(residency)
        reporter.advance()
    return states.perplexity(residency)


class WindowStates:
    """Hidden states of all windows in front of one block, and the perplexity of what comes from there on.

    Args:
        model: everything but its blocks on the CPU.
        residency: gives out the blocks of `model`.
        windows_NL: token windows.
        batch_tokens: most tokens in one forward pass; at least one window is run at a time.
        device: where a block is computed.

    Attributes:
        start: index of the block that the states are the input of.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        residency: Residency,
        windows_NL: Tensor,
        *,
        batch_tokens: int,
        device: torch.device,
    ) -> None:
        self._model = model
        self._device = device
        self._batches = _batches(windows_NL, batch_tokens)
        self._blocks = decoder_blocks(model)[1]
        self._recorded = record_into_buffer(model, self._batches, residency)
        self._beside: tuple[Any, ...] | None = None
        self.start = 0

    @property
    def num_blocks(self) -> int:
        """Of the model."""
        return len(self._blocks)

    @torch.no_grad()
    def advance(self, residency: Residency) -> None:
        """Take the states through the next block as `residency` gives it out."""
        self._apply(self.start, self._recorded.hidden, residency)
        self._recorded.calls[self.start].clear()
        self.start += 1

    @torch.no_grad()
    def perplexity(self, residency: Residency) -> Perplexity:
        """With the blocks from `start` on as `residency` gives them out; the states stay what they are."""
        hidden = self._recorded.hidden
        if self.start < self.num_blocks:
            hidden = [hidden_BLH.clone() for hidden_BLH in hidden]
        for index in range(self.start, self.num_blocks):
            self._apply(index, hidden, residency)
        with outside_on(self._model, self._device):
            tail = _Tail(self._model, self._blocks, self._beside)
            tail.find_head(
                self._batches[0][:1, :PROBE_TOKENS].to(self._device), hidden[0][:1, :PROBE_TOKENS].to(self._device)
            )
            losses = [
                tail.nll(batch_BL.to(self._device), hidden_BLH.to(self._device))
                for batch_BL, hidden_BLH in zip(self._batches, hidden, strict=True)
            ]
        return _summary(torch.cat(losses))

    def _apply(self, index: int, hidden: list[Tensor], residency: Residency) -> None:
        """Put the outputs of a block in the place of its inputs."""

        def look(_: nn.Module, args: object, output: Any) -> None:
            self._beside = output[1:] if isinstance(output, tuple) else None

        with residency.block(index, self._device) as block:
            handle = block.register_forward_hook(look)
            try:
                for place, call in enumerate(self._recorded.calls[index]):
                    hidden[place] = overwrite(hidden[place], call.replay(block, hidden[place].to(self._device)))
            finally:
                handle.remove()


def _batch_nll(model: PreTrainedModel, head: Head | None, tokens_BL: Tensor) -> Tensor:
    """Mean negative log-likelihood [B], float32, of each window's tokens after the first.

    The hidden states go through the head a few rows at a time, and their logits are gone before the next ones come.
    """
    if head is None:
        return _window_nll(model(input_ids=tokens_BL, use_cache=False).logits, tokens_BL)
    states_BLH = model.base_model(input_ids=tokens_BL, use_cache=False)[0]
    rows = states_BLH[:, :-1].flatten(0, 1).split(HEAD_ROWS)
    targets = tokens_BL[:, 1:].flatten().split(HEAD_ROWS)
    losses = [
        functional.cross_entropy(head(rows_NH).float(), targets_N, reduction="none")
        for rows_NH, targets_N in zip(rows, targets, strict=True)
    ]
    return torch.cat(losses).view(len(tokens_BL), -1).mean(dim=1)


class _Tail:
    """What a model computes after its last block, of hidden states that are given.

    Args:
        beside: what a block returns beside the hidden state; None if it returns no tuple.
    """

    def __init__(self, model: PreTrainedModel, blocks: nn.ModuleList, beside: tuple[Any, ...] | None) -> None:
        self._model = model
        self._blocks = blocks
        self._beside = beside
        self._head: Head | None = None

    def find_head(self, tokens_BL: Tensor, hidden_BLH: Tensor) -> None:
        """Find the head by trying it on a few positions."""
        with self._returning(hidden_BLH):
            _, self._head = find_head(self._model, {"input_ids": tokens_BL, "use_cache": False})

    def nll(self, tokens_BL: Tensor, hidden_BLH: Tensor) -> Tensor:
        """Mean negative log-likelihood [B], float32, of each window's tokens after the first."""
        with self._returning(hidden_BLH):
            return _batch_nll(self._model, self._head, tokens_BL)

    @contextmanager
    def _returning(self, hidden_BLH: Tensor) -> Iterator[None]:
        """Blocks that compute nothing and return `hidden_BLH`, in the form that they return outputs in."""
        output = hidden_BLH if self._beside is None else (hidden_BLH, *self._beside)
        try:
            for block in self._blocks:
                block.forward = lambda *_, **__: output
            yield
        finally:
            for block in self._blocks:
                vars(block).pop("forward", None)


def _batches(windows_NL: Tensor, batch_tokens: int) -> list[Tensor]:
    return list(windows_NL.split(max(1, batch_tokens // windows_NL.shape[1])))


def _summary(nll_N: Tensor) -> Perplexity:
    nll_N = nll_N.double().cpu()
    value = _exp(float(nll_N.mean()))
    if value is None or math.isinf(value) or len(nll_N) < 2:
        return Perplexity(value, None, len(nll_N))
    return Perplexity(value, value * float(nll_N.std()) / math.sqrt(len(nll_N)), len(nll_N))


def _window_nll(logits_BLV: Tensor, tokens_BL: Tensor) -> Tensor:
    """Mean negative log-likelihood [B] of each window's tokens after the first, in float32."""
    losses = [
        functional.cross_entropy(logits_LV[:-1].float(), tokens_L[1:])
        for logits_LV, tokens_L in zip(logits_BLV, tokens_BL, strict=True)
    ]
    return torch.stack(losses)


def _exp(mean_nll: float) -> float | None:
    """exp, infinite where a destroyed model's loss overflows it, None of NaN."""
    if math.isnan(mean_nll):
        return None
    return math.exp(mean_nll) if mean_nll < 709 else math.inf
