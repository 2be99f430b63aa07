"""Token-window perplexity, the protocol of the pruning papers.

Non-overlapping windows of one length; every window predicts its last seq_len - 1 tokens; the value is exp of the mean
over windows of the mean negative log-likelihood, which equals the mean over all predicted tokens
(Frantar & Alistarh 2023 and Sun et al. 2023, evaluation code).  The standard error is over windows: value x error
of the mean NLL (delta method).
"""

import math
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from harness.blocks.offload import Offloading, outside_on
from harness.blocks.runner import BlockRunner, in_batches
from harness.evaluation.base import HEAD_ROWS, Estimate
from harness.evaluation.head import Head, find_head, first_output
from harness.models.compiled import compiled_blocks
from harness.progress import Reporter

PROBE_TOKENS = 16
"""Positions on which the head is tried."""


@torch.no_grad()
def perplexity(
    model: PreTrainedModel,
    windows_NL: Tensor,
    *,
    batch_tokens: int,
    device: torch.device,
    reporter: Reporter,
    compiled: bool = False,
) -> Estimate:
    """Perplexity of `model` (on `device`) over token windows [N, L].

    Args:
        batch_tokens: most tokens in one forward pass; at least one window is run at a time.
        compiled: run the blocks through `torch.compile`, which pays on many windows.

    Raises:
        UserError: `compiled` where nothing can compile.
    """
    probe_BL = windows_NL[:1, :PROBE_TOKENS].to(device)
    head = find_head(model, {"input_ids": probe_BL, "use_cache": False})
    losses = []
    with compiled_blocks(model, device) if compiled else nullcontext():
        for batch_BL in in_batches(windows_NL, batch_tokens):
            losses.append(_batch_nll(model, head, batch_BL.to(device)))
            reporter.advance(len(batch_BL))
    return _summary(torch.cat(losses))


@torch.no_grad()
def perplexity_by_blocks(
    model: PreTrainedModel,
    offloading: Offloading,
    windows_NL: Tensor,
    *,
    batch_tokens: int,
    device: torch.device,
    reporter: Reporter,
) -> Estimate:
    """The same perplexity with one block at a time on `device`: each is applied to all windows before the next.

    Advances `reporter` by one for every block.

    Args:
        model: everything but its blocks on the CPU.
        offloading: gives out the blocks of `model`.
    """
    runner = BlockRunner(model, in_batches(windows_NL, batch_tokens), offloading, device)
    return perplexity_from(runner, reporter)


@torch.no_grad()
def perplexity_from(runner: BlockRunner, reporter: Reporter) -> Estimate:
    """The perplexity of the windows that `runner` takes through a model, from the block on where they are.

    Advances `reporter` by one for every block.
    """
    for step in runner.rest():
        step.hand_on()
        reporter.advance()
    with outside_on(runner.model, runner.device):
        tail = _Tail(runner)
        losses = [
            tail.nll(batch_BL.to(runner.device), hidden_BLH.to(runner.device))
            for batch_BL, hidden_BLH in zip(runner.batches, runner.hidden, strict=True)
        ]
    return _summary(torch.cat(losses))


def _batch_nll(model: PreTrainedModel, head: Head, tokens_BL: Tensor) -> Tensor:
    """Mean negative log-likelihood [B], float32, of each window's tokens after the first.

    The hidden states go through the head a few rows at a time, and their logits are gone before the next ones come.
    """
    if head.name == "full":
        return _window_nll(model(input_ids=tokens_BL, use_cache=False).logits, tokens_BL)
    states_BLH = first_output(head.body(input_ids=tokens_BL, use_cache=False))
    rows = states_BLH[:, :-1].flatten(0, 1).split(HEAD_ROWS)
    targets = tokens_BL[:, 1:].flatten().split(HEAD_ROWS)
    losses = [
        functional.cross_entropy(head.logits(rows_NH).float(), targets_N, reduction="none")
        for rows_NH, targets_N in zip(rows, targets, strict=True)
    ]
    return torch.cat(losses).view(len(tokens_BL), -1).mean(dim=1)


class _Tail:
    """What a model computes after its last block, of hidden states that are given; the head is found by a trial."""

    def __init__(self, runner: BlockRunner) -> None:
        assert isinstance(runner.model, PreTrainedModel), "windows go through a language model"
        self._model, self._runner = runner.model, runner
        tokens_BL, hidden_BLH = (
            each[:1, :PROBE_TOKENS].to(runner.device) for each in (runner.batches[0], runner.hidden[0])
        )
        with self._runner.returning(hidden_BLH):
            self._head = find_head(self._model, {"input_ids": tokens_BL, "use_cache": False})

    def nll(self, tokens_BL: Tensor, hidden_BLH: Tensor) -> Tensor:
        """Mean negative log-likelihood [B], float32, of each window's tokens after the first."""
        with self._runner.returning(hidden_BLH):
            return _batch_nll(self._model, self._head, tokens_BL)


def _summary(nll_N: Tensor) -> Estimate:
    nll_N = nll_N.double().cpu()
    value = _exp(float(nll_N.mean()))
    if value is None or math.isinf(value) or len(nll_N) < 2:
        return Estimate(value, None, len(nll_N))
    return Estimate(value, value * float(nll_N.std()) / math.sqrt(len(nll_N)), len(nll_N))


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
