"""Minitron: cut the channels and heads whose activations are smallest.  Muralidharan et al. 2024

https://arxiv.org/abs/2407.14679.  Feature j of the input of an output projection or of the layer that reads channels
counts a_j = sqrt(sum over sequences of (mean over tokens of |x_j|)^2) in the dense model; a channel has the a of its
feature, a head the L2 norm of those of its features.  Blocks lose the same, and nothing makes up for it: the published
numbers are of models that were distilled afterwards (`recovery=distill`).

As NVIDIA's Model Optimizer computes it (`mcore_minitron`), but for: grouped queries go with the key and value that
they share, where there heads are first ranked inside a group, and groups by a view that mixes them; widths are what
meets the share of all parameters, no multiples of 64.  Of its other axes the blocks are `shortgpt`'s; hidden
channels are not cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness.calibration.statistics import FeatureActivity, Statistic, Statistics
from harness.pruning.methods.base import METHODS
from harness.pruning.methods.structured import StructuredMethod

if TYPE_CHECKING:
    from torch import Tensor

    from harness.pruning.cutting import Candidates


@METHODS.register("minitron")
@dataclass(frozen=True, slots=True)
class Minitron(StructuredMethod):
    """Keeps the channels and heads that are most active."""

    propagation = "dense"
    has_published_numbers = False
    needs: ClassVar[tuple[type[Statistic], ...]] = (FeatureActivity,)

    def importance(self, candidates: Candidates, stats: Statistics) -> Tensor:
        importance_C: Tensor = stats[FeatureActivity].l2_I[candidates.columns_CK].norm(dim=1)
        return importance_C
