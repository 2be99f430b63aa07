"""Wanda: |W| times the norm of the input feature.  Sun et al. 2023, https://arxiv.org/abs/2306.11695"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.calibration.statistics import FeatureNorm, Statistics
from harness.pruning.methods.base import METHODS, ScoreMethod

if TYPE_CHECKING:
    from torch import Tensor


@METHODS.register("wanda")
@dataclass(frozen=True, slots=True)
class Wanda(ScoreMethod):
    """S_ij = |W_ij| * ||X_j||_2, ranked within each output row (section 3); weights are not updated."""

    needs = (FeatureNorm,)

    def score(self, weight_OI: Tensor, stats: Statistics) -> Tensor:
        return weight_OI.abs() * stats[FeatureNorm].l2_I
