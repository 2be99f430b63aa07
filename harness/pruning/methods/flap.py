"""FLAP: cut the features that fluctuate least, over the whole model.  An et al. 2024, https://arxiv.org/abs/2312.11983

The score of feature j of the input of an output projection or down projection is the variance of that feature over the
calibration tokens times ||W_:,j||^2 (WIFV), in the dense model; that of attention features is squared once more, as in
https://github.com/CASIA-IVA-Lab/FLAP.  Scores become z-scores within each layer; a head takes the mean over its
features; heads and channels of the whole model compete, each with its parameters as its weight ("AL-AM").  What is cut
out is replaced by its mean, which goes into a bias of the layer that read it.

Other than the published code: the variance is exact and over all tokens; heads count by their parameters (170 channels
each, whatever their size); the share is met as closely as can be.  `as_released` has the published estimate, whole
numbers as weights, and a threshold whose own channel goes too.  Published numbers were calibrated on WikiText-2, which
they are also measured on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness.calibration.statistics import FeatureFluctuation, FeatureNorm, Statistics
from harness.pruning.methods.base import METHODS
from harness.pruning.methods.structured import Compensation, StructuredMethod

if TYPE_CHECKING:
    from torch import Tensor

    from harness.pruning.cutting import Candidates


@METHODS.register("flap")
@dataclass(frozen=True, slots=True)
class Flap(StructuredMethod):
    """Keeps the channels and heads with the largest standardised fluctuation; makes up for the others by their mean.

    Args:
        metric: `wifv` = variance times ||W_:,j||^2; `ifv` = the variance alone; `wifn` = the mean over rows of
            |W_ij| ||X_j||_2.
        as_released: what the published code computes.
    """

    metric: Literal["wifv", "ifv", "wifn"] = "wifv"
    as_released: bool = False
    updates_weights = True
    propagation = "dense"
    scope = "model"
    needs_whole_model = True  # a bias that a checkpoint has no place for cannot be put back into its files
    needs = (FeatureFluctuation, FeatureNorm)

    def importance(self, candidates: Candidates, stats: Statistics) -> Tensor:
        scores_CK = self.scores(candidates, stats)
        return ((scores_CK - scores_CK.mean()) / scores_CK.std()).mean(dim=1)

    def scores(self, candidates: Candidates, stats: Statistics) -> Tensor:
        """The metric of every feature [C, K]."""
        fluctuation, weight_COK = stats[FeatureFluctuation], candidates.consumer_COK.float()
        variance_I = fluctuation.published_I if self.as_released else fluctuation.variance_I
        variance_CK = variance_I[candidates.columns_CK]
        if self.metric == "ifv":
            scores_CK = variance_CK
        elif self.metric == "wifv":
            scores_CK = variance_CK * weight_COK.square().sum(dim=1)
        else:
            scores_CK = weight_COK.abs().mean(dim=1) * stats[FeatureNorm].l2_I[candidates.columns_CK]
        return scores_CK.square() if candidates.unit == "head" else scores_CK

    def choose(
        self, importances: Sequence[Sequence[Tensor]], sizes: Sequence[Sequence[int]], fraction: float
    ) -> list[list[Tensor]]:
        if not self.as_released:
            return StructuredMethod.choose(self, importances, sizes, fraction)
        import torch

        one = min(size for block in sizes for size in block)
        flat = [each for block in zip(importances, sizes, strict=True) for each in zip(*block, strict=True)]
        scores = torch.cat([scores_C for scores_C, _ in flat])
        weights = torch.cat([torch.full_like(scores_C, size // one) for scores_C, size in flat])
        order = scores.sort(descending=True, stable=True).indices
        kept_so_far = weights[order].cumsum(0)
        threshold = scores[order][(kept_so_far - (1 - fraction) * weights.sum()).abs().argmin()]
        return [[(scores_C > threshold).nonzero().flatten().cpu() for scores_C in block] for block in importances]

    def compensation(self, weight_OI: Tensor, kept: Tensor, stats: Statistics) -> Compensation:
        mean_I = stats[FeatureFluctuation].mean_I.clone()
        mean_I[kept] = 0.0
        return Compensation(bias_O=weight_OI.float() @ mean_I)
