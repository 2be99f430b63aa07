"""OWL: fewer zeros where more weights stand out.  Yin et al. 2023, https://arxiv.org/abs/2310.05175

In the dense model, r_l is the share of block l's weights whose Wanda score |W_ij| ||X_j||_2 exceeds M times the mean of
the block's scores.  The densities of blocks are r, stretched to a band of width 2 lambda and shifted so that their mean
is the requested density; all linears of a block share one.  N:M patterns get a whole N for each block.

Where we differ from the published code: the mean counts weights, not blocks (the same for blocks of one size), and
the rounding to whole weights is spread over layers so that the total is the requested one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from harness.calibration.statistics import FeatureNorm
from harness.job import Positive
from harness.patterns import Pattern, SemiStructured, Unstructured
from harness.pruning.allocations.base import ALLOCATIONS, Allocation
from harness.pruning.methods.wanda import Wanda
from harness.pruning.numerics.budget import beyond_blocks, spread_blocks

if TYPE_CHECKING:
    from harness.pruning.dense_analysis import DenseAnalysis
    from harness.pruning.sequential import ObservedBlock


@ALLOCATIONS.register("owl")
@dataclass(frozen=True, slots=True)
class Owl(Allocation):
    """Outlier-weighed layerwise sparsity (section 3.2).

    Args:
        outlier_threshold: M, > 0: a weight stands out when its score exceeds M times the block's mean (published: 5
            for unstructured LLaMA, 6 for N:M).
        width: lambda, > 0 and <= 0.5: sparsities lie in a band of twice this width (published: 0.08 unstructured;
            2 of 8 columns, so 0.25, for N:M).
    """

    outlier_threshold: Positive = 5.0
    width: Annotated[float, Field(gt=0, le=0.5)] = 0.08
    patterns = (Unstructured, SemiStructured)

    def refuses(self, pattern: Pattern) -> str | None:
        return Allocation.refuses(self, pattern) or beyond_blocks(pattern)

    def spread(self, analysis: DenseAnalysis) -> dict[str, Pattern]:
        blocks = analysis.observed_blocks((FeatureNorm,))
        ratios = [self.outlier_ratio(block) for block in blocks]
        sparsities = block_sparsities(ratios, analysis.pattern.sparsity, self.width)
        return spread_blocks(sparsities, analysis.blocks, analysis.shapes, analysis.pattern)

    def outlier_ratio(self, block: ObservedBlock) -> float:
        """The share of the block's weights that stand out."""
        wanda, weights, statistics = Wanda(), block.weights, block.statistics
        total, size = 0.0, 0
        for name, weight_OI in weights.items():
            scores_OI = wanda.score(weight_OI, statistics[name])
            total += float(scores_OI.double().sum())
            size += scores_OI.numel()
        threshold = self.outlier_threshold * total / size
        # The scores are made twice, so that those of one layer only are in memory at a time.
        above = [
            int((wanda.score(weight_OI, statistics[name]) > threshold).sum()) for name, weight_OI in weights.items()
        ]
        return sum(above) / size


def block_sparsities(ratios: Sequence[float], sparsity: float, width: float) -> list[float]:
    """The sparsity of every block from its share of outliers, with the mean `sparsity`; all alike if ratios are."""
    lowest, highest = min(ratios), max(ratios)
    if lowest == highest:
        return [sparsity] * len(ratios)
    stretched = [(ratio - lowest) / (highest - lowest) * 2 * width for ratio in ratios]
    mean = sum(stretched) / len(stretched)
    return [sparsity - value + mean for value in stretched]
