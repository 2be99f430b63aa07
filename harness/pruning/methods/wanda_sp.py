"""Wanda-sp: Wanda's scores summed over channels and heads.  An et al. 2024 (FLAP), https://arxiv.org/abs/2312.11983

The structured variant of Wanda that FLAP is compared with, as in https://github.com/CASIA-IVA-Lab/FLAP: the score of an
input feature of the output projection or of the down projection is |W_ij| * ||X_j||_2 averaged over the rows of W; that
of a head is the sum over its features.  Blocks lose the same fraction each, one after the other, and nothing makes up
for what is gone.

Other than the published code: grouped queries are cut with the key and value that they share; norms are over the
sequences that were asked for (the published loop counts sequences that it has not collected as zeros).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness.calibration.statistics import FeatureNorm, Statistic, Statistics
from harness.pruning.methods.base import METHODS
from harness.pruning.methods.structured import StructuredMethod

if TYPE_CHECKING:
    from torch import Tensor

    from harness.pruning.cutting import Candidates


@METHODS.register("wanda-sp")
@dataclass(frozen=True, slots=True)
class WandaSp(StructuredMethod):
    """Keeps the channels and heads with the largest sums of mean |W_ij| * ||X_j||_2."""

    needs: ClassVar[tuple[type[Statistic], ...]] = (FeatureNorm,)

    def importance(self, candidates: Candidates, stats: Statistics) -> Tensor:
        l2_CK = stats[FeatureNorm].l2_I[candidates.columns_CK]
        return (candidates.consumer_COK.float().abs().mean(dim=1) * l2_CK).sum(dim=1)
