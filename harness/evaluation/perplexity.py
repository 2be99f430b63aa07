"""Token-window perplexity, the protocol of the pruning papers.

Non-overlapping windows of one length; every window predicts its last seq_len - 1 tokens; the value is exp of the mean
over windows of the mean negative log-likelihood, which equals the mean over all predicted tokens
(Frantar & Alistarh 2023 and Sun et al. 2023, evaluation code).  The standard error is over windows: value x error
of the mean NLL (delta method).
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from harness.blocks.offload import Offloading
from harness.blocks.runner import BlockRunner, in_batches
from harness.blocks.slots import outside_on
from harness.blocks.trial import Edited, Edits, Trials
from harness.evaluation.base import HEAD_ROWS, Estimate
from harness.evaluation.head import PROBE_TOKENS, Head, find_head, first_output
from harness.models.compiled import compiled_blocks
from harness.progress import Reporter, Silent

LARGEST_NLL = 709
"""Whose exponential is still a number."""


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
    head = find_head(model, windows_NL[:1, :PROBE_TOKENS].to(device))
    losses = []
    with compiled_blocks(model, device) if compiled else nullcontext():
        for batch_BL in in_batches(windows_NL, batch_tokens):
            losses.append(_batch_nll(head, batch_BL.to(device)))
            reporter.advance(len(batch_BL))
    return _summary(torch.cat(losses))


@torch.no_grad()
def perplexity_from(runner: BlockRunner, reporter: Reporter) -> Estimate:
    """The same of the windows that `runner` takes through a model block by block, from the block on where they are.

    Advances `reporter` by one for every block.
    """
    for step in runner.rest():
        step.hand_on()
        reporter.advance()
    model, device = runner.model, runner.device
    assert isinstance(model, PreTrainedModel), "windows go through a language model"
    with outside_on(model, device):
        tokens_BL, hidden_BLH = (each[0][:1, :PROBE_TOKENS].to(device) for each in (runner.batches, runner.hidden))
        with runner.returning(hidden_BLH):
            head = find_head(model, tokens_BL)
        losses = []
        for tokens_BL, hidden_BLH in zip(runner.batches, runner.hidden.on_device(), strict=True):
            with runner.returning(hidden_BLH):
                losses.append(_batch_nll(head, tokens_BL.to(device)))
    return _summary(torch.cat(losses))


def _batch_nll(head: Head, tokens_BL: Tensor) -> Tensor:
    """Mean negative log-likelihood [B], float32, of each window's tokens after the first.

    The hidden states go through the head a few rows at a time, and their logits are gone before the next ones come.
    """
    if head.name == "full":
        logits_BLV = head.body(input_ids=tokens_BL, use_cache=False).logits
        pairs = zip(logits_BLV, tokens_BL, strict=True)
        return torch.stack([functional.cross_entropy(own_LV[:-1].float(), each_L[1:]) for own_LV, each_L in pairs])
    states_BLH = first_output(head.body(input_ids=tokens_BL, use_cache=False))
    rows = states_BLH[:, :-1].flatten(0, 1).split(HEAD_ROWS)
    targets = tokens_BL[:, 1:].flatten().split(HEAD_ROWS)
    losses = [
        functional.cross_entropy(head.logits(rows_NH).float(), targets_N, reduction="none")
        for rows_NH, targets_N in zip(rows, targets, strict=True)
    ]
    return torch.cat(losses).view(len(tokens_BL), -1).mean(dim=1)


def _summary(nll_N: Tensor) -> Estimate:
    """None where a loss is no number, infinite where a destroyed model's loss overflows exp."""
    nll_N, count = nll_N.double().cpu(), len(nll_N)
    mean = float(nll_N.mean())
    if math.isnan(mean):
        return Estimate(None, None, count)
    if mean >= LARGEST_NLL:
        return Estimate(math.inf, None, count)
    value = math.exp(mean)
    return Estimate(value, value * float(nll_N.std()) / math.sqrt(count) if count > 1 else None, count)


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
        self._windows_NL, self._batch_tokens = windows_NL, batch_tokens
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

    @property
    def shape(self) -> tuple[int, int]:
        """How many windows there are, and how many tokens each has."""
        count, length = self._windows_NL.shape
        return count, length

    def on(self, windows: Sequence[int], tokens: int) -> Trials:
        """Trials on the first so many tokens of these windows alone, each predicted token counting the same."""
        length = self._windows_NL.shape[1]
        full, rest = divmod(tokens, length)
        parts = [(self._windows_NL[list(windows[:full])], full * (length - 1))] if full else []
        if rest > 1:  # of one token nothing is predicted
            parts.append((self._windows_NL[[windows[full]], :rest], rest - 1))
        losses = [
            (TrialLoss(self._model, self._dense, each_NL, batch_tokens=self._batch_tokens, device=self._device), weight)
            for each_NL, weight in parts
        ]
        total = sum(weight for _, weight in losses)

        def loss(edits: Edits, base: Edits = {}) -> float:  # noqa: B006  # nobody writes to it
            return sum(weight * one(edits, base) for one, weight in losses) / total

        return loss


def _before(edits: Edits, position: int) -> dict[int, object]:
    return {index: edit for index, edit in edits.items() if index < position}
