"""Pruning rates of a block's linears, learned by gradient descent.  Xu et al. 2024, https://arxiv.org/abs/2402.16880

Every linear has a distribution beta over the candidate rates p = 1.00, 0.99, ..., 0.01, 0.  Its rate is the mean
alpha = sum_d beta_d p_d.  Of the I weights of a row, ranked by a fixed score, the first int(I alpha) are masked; the
gradient reaches beta through the probability that a weight of that rank is kept, the sum of beta over the rates that
spare it (straight through).

Suffixes: `D` candidate rates, `R` rows with a distribution of their own (1 = one for the whole matrix).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from prodigyopt import Prodigy
from torch import Tensor, nn
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

from harness.blocks.calls import BlockCall
from harness.blocks.layers import PrunableLinear, prunable_linears

Smoothing = Literal["sigmoid", "none"]

LOSS_SCALES = (2.0**16, 2.0**12, 2.0**8, 2.0**4, 1.0)
"""Gradients through a float16 block underflow without one of these; the first that overflows nothing is taken."""
CANDIDATES_D = torch.cat([torch.arange(1.0, 0.0, -0.01), torch.zeros(1)])
"""1.00, 0.99, ..., 0.01, 0, made as in the published code: of the rounding of float32 it depends whether a rate that
makes a whole number of weights, such as 0.8 of 40, prunes the last of them."""


@dataclass(frozen=True, slots=True)
class LearningPlan:
    """How rates are learned.

    Args:
        target: mean rate that the penalty pulls to, weighted by parameters, in (0, 1).
        penalty: strength of ((mean rate - target) / target)^2, >= 0.
        smoothing: ``sigmoid``: beta = softmax(sigmoid(logits)), which keeps every rate from 0.376 to 0.624;
            ``none``: beta = softmax(logits).
        epochs: passes over the sequences, >= 1.
        d_coef: of Prodigy, > 0.
    """

    target: float
    penalty: float
    smoothing: Smoothing
    epochs: int = 1
    d_coef: float = 5.0


class RatedWeight:
    """A weight whose rates are being learned.

    Args:
        scores_OI: importance; the lowest of a row go first, of equal ones the left.
        rows: R: 1 for one rate, O for one a row.
    """

    def __init__(self, weight_OI: Tensor, scores_OI: Tensor, rows: int) -> None:
        self.weight_OI = weight_OI
        order_OI = scores_OI.argsort(dim=1, stable=True)
        self.rank_OI = order_OI.argsort(dim=1)
        self.logits_RD = torch.zeros(rows, len(CANDIDATES_D), device=weight_OI.device, requires_grad=True)
        columns = weight_OI.shape[1]
        counts_D = (columns * CANDIDATES_D.double()).int()
        # Rates fall with d, so those that prune the weight of a rank are the first so many.
        pruning_I = (counts_D > torch.arange(columns)[:, None]).sum(dim=1)
        self._last_pruning_I = (pruning_I - 1).to(weight_OI.device)

    def candidate_weights(self, smoothing: Smoothing) -> Tensor:
        """beta_RD: how likely each candidate rate is."""
        return torch.softmax(self.logits_RD.sigmoid() if smoothing == "sigmoid" else self.logits_RD, dim=1)

    def rates(self, beta_RD: Tensor) -> Tensor:
        """alpha_R: the expected rates."""
        return beta_RD @ CANDIDATES_D.to(beta_RD.device)

    def learned_rate(self, smoothing: Smoothing) -> float:
        """The mean rate of the whole matrix."""
        return self.rates(self.candidate_weights(smoothing)).mean().item()

    def keep_probability(self, beta_RD: Tensor) -> Tensor:
        """The probability [O, I] that a weight is kept."""
        by_rank_RI = 1.0 - beta_RD.cumsum(dim=1)[:, self._last_pruning_I]
        return by_rank_RI.expand(len(self.rank_OI), -1).gather(1, self.rank_OI)

    def hard_mask(self, alpha_R: Tensor) -> Tensor:
        """Boolean mask [O, I] of the weights that these rates keep."""
        return self.rank_OI >= (alpha_R.detach() * self.rank_OI.shape[1]).long()[:, None]

    def masked(self, beta_RD: Tensor) -> Tensor:
        """The masked weight [O, I], with a gradient to the distribution."""
        probability_OI = self.keep_probability(beta_RD)
        mask_OI = self.hard_mask(self.rates(beta_RD)) + (probability_OI - probability_OI.detach())
        return (self.weight_OI * mask_OI).to(self.weight_OI.dtype)


class _MaskedBlock(nn.Module):
    """A block with other weights in some of its layers; the block itself is not changed."""

    def __init__(self, block: nn.Module, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        fixed = {name: weight.detach() for name, weight in block.named_parameters()}  # these need no gradients
        self._block = [block]  # in a list, so that it is no part of this module
        self._weights = fixed | dict(weights)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return functional_call(self._block[0], self._weights, args, kwargs)


def relative_error(reference: Tensor, output: Tensor) -> Tensor:
    """Squared error of one sequence's outputs, each channel relative to its norm over the tokens; mean over channels.

    A channel that is zero everywhere counts with its absolute error.
    """
    reference_TH, output_TH = _channels_last(reference), _channels_last(output)
    norm_H = reference_TH.norm(dim=0)
    scaled_TH = (reference_TH - output_TH) / torch.where(norm_H > 0, norm_H, 1.0)
    return scaled_TH.square().sum() / scaled_TH.shape[1]


def penalty(rates: Sequence[Tensor], sizes: Sequence[int], plan: LearningPlan) -> Tensor:
    """What the distance of the mean rate from the target costs."""
    mean = mean_rate(rates, sizes)
    return plan.penalty * ((mean - plan.target) / plan.target).square()


def mean_rate(rates: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """The mean rate, weighted by parameters."""
    means = torch.stack([rate_R.mean() for rate_R in rates])
    return means @ torch.tensor(sizes, dtype=means.dtype, device=means.device) / sum(sizes)


def learn_rates(
    block: nn.Module,
    weights: Mapping[str, RatedWeight],
    sequences: Sequence[tuple[BlockCall, Tensor]],
    plan: LearningPlan,
) -> Iterator[tuple[float, float]]:
    """Learn the logits of `weights` in place, one step a sequence; loss and mean rate before every step.

    Args:
        block: dense, and left so.
        weights: of linears, by path in the block.
        sequences: how the model calls the block with one sequence each, and the hidden state [1, L, H].
    """
    linears = prunable_linears(block)
    sizes = [weight.weight_OI.numel() for weight in weights.values()]
    logits = [weight.logits_RD for weight in weights.values()]
    optimiser = Prodigy(logits, lr=1.0, d_coef=plan.d_coef)
    for call, hidden in [*sequences] * plan.epochs:
        with torch.no_grad():
            hidden_BLH = hidden.to(logits[0].device)
            reference = call.replay(block, hidden_BLH)
        with torch.enable_grad():
            betas = {name: weight.candidate_weights(plan.smoothing) for name, weight in weights.items()}
            rates = [weight.rates(betas[name]) for name, weight in weights.items()]
            masked = {
                f"{name}.weight": _as_stored(linears[name], weight.masked(betas[name]))
                for name, weight in weights.items()
            }
            output = call.replay(_MaskedBlock(block, masked), hidden_BLH)
            loss = relative_error(reference, output) + penalty(rates, sizes, plan)
            if not loss.isfinite():
                raise ArithmeticError("the block's loss is not finite: the calibration activations overflowed")
            gradients = _gradients(loss, logits, half=output.dtype == torch.float16)
        seen = loss.item(), mean_rate(rates, sizes).item()
        for logit_RD, gradient_RD in zip(logits, gradients, strict=True):
            logit_RD.grad = gradient_RD
        with torch.no_grad():
            optimiser.step()
        yield seen


def _gradients(loss: Tensor, logits: list[Tensor], *, half: bool) -> list[Tensor]:
    """Gradients by `logits`; through a float16 block they go scaled, by the largest factor that overflows nothing.

    Raises:
        ArithmeticError: they are not finite.
    """
    for scale in LOSS_SCALES if half else (1.0,):
        gradients = torch.autograd.grad(loss * scale, logits, retain_graph=scale > 1.0)
        if all(gradient.isfinite().all() for gradient in gradients):
            return [gradient / scale for gradient in gradients]
    raise ArithmeticError("the gradient of the block's loss is not finite")


def _as_stored(linear: PrunableLinear, weight_OI: Tensor) -> Tensor:
    """`weight_OI` in the shape that the layer keeps it in."""
    return weight_OI.T if isinstance(linear, Conv1D) else weight_OI.reshape(linear.weight.shape)


def _channels_last(output: Tensor) -> Tensor:
    """Outputs in float32, a row a token; of convolutions [B, C, height, width] a row a position."""
    if output.dim() == 4:
        output = output.movedim(1, -1)
    return output.float().flatten(0, -2)
