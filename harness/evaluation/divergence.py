"""How far a model's next tokens are from those of the dense model, over token windows.

At every position that has a next token in its window: KL(dense || pruned) = sum over the vocabulary of
p (log p - log q), in nats, from softmaxes in float64; and whether the likeliest token is the same.  Equal logits give
exactly 0.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from harness.blocks.runner import Behind
from harness.blocks.slots import outside_on
from harness.evaluation.base import HEAD_ROWS, Estimate
from harness.evaluation.head import PROBE_TOKENS, Head, find_head, first_output
from harness.progress import Reporter

ROWS = HEAD_ROWS // 4
"""Positions whose logits are compared at a time: two models' in float64 take what perplexity's take of one."""


Passed = tuple[PreTrainedModel, Behind]
"""A model, of which all but its blocks is needed, and the windows behind these."""


class Divergence(NamedTuple):
    """Means over the positions of every window, [N], float64.

    Args:
        kl: KL(dense || pruned) in nats.
        agreement: share of positions whose likeliest token is the same.
        lost: share where only the dense model's likeliest token is the one that follows; gained: only this one's.
    """

    kl: Tensor
    agreement: Tensor
    lost: Tensor
    gained: Tensor


@torch.no_grad()
def divergence(
    dense: Passed, pruned: Passed, windows_NL: Tensor, *, device: torch.device, reporter: Reporter
) -> Divergence:
    """Of both models, whose blocks the windows [N, L] are behind; advances `reporter` by one for every window."""
    found = []
    with outside_on(dense[0], device), outside_on(pruned[0], device):
        models = [(*passed, _head(*passed, windows_NL[:1], device)) for passed in (dense, pruned)]
        for place, window_1L in enumerate(windows_NL.to(device).split(1)):
            both = (_logits(*each, place, window_1L) for each in models)
            targets = window_1L[0, 1:].split(ROWS)
            parts = [_compared(*each) for each in zip(*both, targets, strict=True)]
            found.append(torch.cat(parts, dim=1).mean(dim=1).cpu())
            reporter.advance()
    return Divergence(*torch.stack(found, dim=1))


def _head(model: PreTrainedModel, behind: Behind, window_1L: Tensor, device: torch.device) -> Head:
    with behind.returning(model, behind.hidden_NLH[:1, :PROBE_TOKENS].to(device)):
        return find_head(model, window_1L[:, :PROBE_TOKENS].to(device))


def _logits(model: PreTrainedModel, behind: Behind, head: Head, place: int, window_1L: Tensor) -> Iterator[Tensor]:
    """A few rows at a time, [rows, V], of all positions of one window but the last."""
    with behind.returning(model, behind.hidden_NLH[place : place + 1].to(window_1L.device)):
        states_1LH = first_output(head.body(input_ids=window_1L, use_cache=False))
    for rows_NH in states_1LH[0, :-1].split(ROWS):
        yield head.logits(rows_NH)


def _compared(dense_NV: Tensor, pruned_NV: Tensor, targets_N: Tensor) -> Tensor:
    """The four measures of every position, [4, N]."""
    log_p, log_q = (functional.log_softmax(logits.double(), dim=-1) for logits in (dense_NV, pruned_NV))
    kl_N = functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=-1)
    was_N, is_N = dense_NV.argmax(dim=-1), pruned_NV.argmax(dim=-1)
    lost_N, gained_N = (was_N == targets_N) & (is_N != targets_N), (was_N != targets_N) & (is_N == targets_N)
    return torch.stack([kl_N, (was_N == is_N).double(), lost_N.double(), gained_N.double()])


def estimate(values_N: Tensor) -> Estimate:
    """The mean over windows and its standard error; None where it is no number, infinite where a softmax overflows."""
    mean, count = float(values_N.mean()), len(values_N)
    if not math.isfinite(mean):
        return Estimate(None if math.isnan(mean) else mean, None, count)
    return Estimate(mean, float(values_N.std()) / math.sqrt(count) if count > 1 else None, count)
