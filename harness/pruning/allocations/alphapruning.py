"""AlphaPruning: fewer zeros where the spectrum has a heavier tail.  Lu et al. 2024, https://arxiv.org/abs/2410.10912

The squared singular values of a linear's weight are fitted by a power law p(x) ~ x^-alpha from some smallest value on;
a block's alpha is the mean of its linears'.  A small alpha is a heavy tail, which well-trained layers have.  The
sparsities of blocks are proportional to 1 - epsilon for the smallest alpha up to 1 + epsilon for the largest, and have
the requested mean over all weights; all linears of a block share one.  N:M patterns get a whole N for each block.

Where we differ from the published code: sparsities that would leave 1 % to 99 % are cut there and the rest is shifted,
where the code asks for more than all weights of a block; and the fit may start at any value up to one and a half times
the peak: the code means to leave out what lies below 0.95 of the peak, but compares with the logarithm of that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from harness.patterns import Pattern, SemiStructured, Unstructured
from harness.pruning.allocations.base import ALLOCATIONS, Allocation
from harness.pruning.numerics.budget import beyond_blocks, spread_blocks, weighted_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from harness.pruning.dense_analysis import DenseAnalysis

BINS = 100
"""Of the histogram of logarithms whose fullest bin is the peak."""
ABOVE_PEAK = 1.5
"""How far above the peak the fitted tail may start."""


@ALLOCATIONS.register("alphapruning")
@dataclass(frozen=True, slots=True)
class AlphaPruning(Allocation):
    """Sparsities from the tails of weight spectra (section 3); looks at no data.

    Args:
        epsilon: >= 0 and < 1: how far the factors of blocks lie from 1 (published: 0.3 with Wanda and SparseGPT, 0.4
            with magnitudes).
        tail: `peak`: the fit starts where its Kolmogorov-Smirnov distance is smallest, at most one and a half times
            above the spectrum's peak (published).  `median`: it takes the larger half of the values.
    """

    epsilon: Annotated[float, Field(ge=0, lt=1)] = 0.3
    tail: Literal["peak", "median"] = "peak"
    patterns = (Unstructured, SemiStructured)

    def refuses(self, pattern: Pattern) -> str | None:
        return Allocation.refuses(self, pattern) or beyond_blocks(pattern)

    def spread(self, analysis: DenseAnalysis) -> dict[str, Pattern]:
        by_layer = {name: self.alpha(weight_OI) for name, weight_OI in analysis.weights()}
        alphas = [fmean(by_layer[name] for name in names) for names in analysis.blocks]
        sizes = [sum(math.prod(analysis.shapes[name]) for name in names) for names in analysis.blocks]
        sparsities = proportional(alphas, sizes, analysis.pattern.sparsity, self.epsilon)
        return spread_blocks(sparsities, analysis.blocks, analysis.shapes, analysis.pattern)

    def alpha(self, weight_OI: Tensor) -> float:
        """The exponent of the power law of the weight's squared singular values.

        Raises:
            ArithmeticError: they have no tail, as those of an all-zero weight.
        """
        import torch

        values_N = torch.linalg.svdvals(weight_OI.float()).double().square().cpu().flip(0)  # ascending
        values_N = values_N[values_N > 0]
        if len(values_N) < 2 or values_N[0] == values_N[-1]:
            raise ArithmeticError(f"{len(values_N)} positive squared singular values have no tail to fit")
        if self.tail == "median":
            return hill_exponent(values_N[len(values_N) // 2 :])
        first = values_N[:-1] <= ABOVE_PEAK * spectral_peak(values_N)
        tails = [values_N[start:] for start in first.nonzero()[:, 0].tolist()]
        return min((ks_distance(tail_N, alpha), alpha) for tail_N in tails if (alpha := hill_exponent(tail_N)) > 1)[1]


def hill_exponent(tail_N: Tensor) -> float:
    """Alpha = 1 + n / sum_i log(x_i / x_1) of n ascending values: the likeliest power law from the first on."""
    return 1.0 + len(tail_N) / float((tail_N / tail_N[0]).log().sum())


def ks_distance(tail_N: Tensor, alpha: float) -> float:
    """Largest distance of the power law's distribution function 1 - (x / x_1)^(1 - alpha) to that of the values.

    Args:
        tail_N: ascending; before value i lie i / n of them.
        alpha: > 1.
    """
    import torch

    expected_N = 1.0 - (tail_N / tail_N[0]).pow(1.0 - alpha)
    found_N = torch.arange(len(tail_N), dtype=tail_N.dtype) / len(tail_N)
    return float((expected_N - found_N).abs().max())


def spectral_peak(values_N: Tensor) -> float:
    """The lower edge of the fullest bin of the values' logarithms; of equal ones the first."""
    import torch

    logs_N = values_N.log10()
    counts, edges = torch.histogram(logs_N, BINS)
    return float(10.0 ** edges[counts.argmax()])


def proportional(alphas: Sequence[float], sizes: Sequence[int], sparsity: float, epsilon: float) -> list[float]:
    """Sparsities proportional to 1 - epsilon (smallest alpha) to 1 + epsilon (largest), with the mean `sparsity` over
    all weights; they may leave 0 to 1.
    """
    lowest, highest = min(alphas), max(alphas)
    if lowest == highest:
        return [sparsity] * len(alphas)
    factors = [1.0 - epsilon + 2.0 * epsilon * (alpha - lowest) / (highest - lowest) for alpha in alphas]
    scale = sparsity / weighted_mean(factors, sizes)
    return [factor * scale for factor in factors]
