"""Token-window perplexity, the protocol of the pruning papers.

Non-overlapping windows of one length; every window predicts its last seq_len - 1 tokens; the value is exp of the mean
over windows of the mean negative log-likelihood, which equals the mean over all predicted tokens
(Frantar & Alistarh 2023 and Sun et al. 2023, evaluation code).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from harness.progress import Reporter


@dataclass(frozen=True, slots=True)
class Perplexity:
    """A perplexity and its standard error over windows (delta method: value x error of the mean NLL)."""

    value: float
    stderr: float | None
    num_windows: int


@torch.no_grad()
def perplexity(
    model: PreTrainedModel, windows_NL: Tensor, *, batch_tokens: int, device: torch.device, reporter: Reporter
) -> Perplexity:
    """Perplexity of `model` (on `device`) over token windows [N, L].

    Args:
        batch_tokens: most tokens in one forward pass; at least one window is run at a time.
    """
    losses = []
    for batch_BL in windows_NL.split(max(1, batch_tokens // windows_NL.shape[1])):
        batch_BL = batch_BL.to(device)
        logits_BLV = model(input_ids=batch_BL, use_cache=False).logits
        losses.append(_window_nll(logits_BLV, batch_BL))
        reporter.advance(len(batch_BL))
    nll_N = torch.cat(losses).double().cpu()
    value = _exp(float(nll_N.mean()))
    spread = float(nll_N.std()) / math.sqrt(len(nll_N)) if len(nll_N) > 1 else None
    return Perplexity(value, None if spread is None else value * spread, len(nll_N))


def _window_nll(logits_BLV: Tensor, tokens_BL: Tensor) -> Tensor:
    """Mean negative log-likelihood [B] of each window's tokens after the first, in float32."""
    losses = [
        functional.cross_entropy(logits_LV[:-1].float(), tokens_L[1:])
        for logits_LV, tokens_L in zip(logits_BLV, tokens_BL, strict=True)
    ]
    return torch.stack(losses)


def _exp(mean_nll: float) -> float:
    """exp, infinite where a destroyed model's loss overflows it."""
    return math.exp(mean_nll) if mean_nll < 709 else math.inf
