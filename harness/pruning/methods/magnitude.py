"""Magnitude: |W|.  Han et al. 2015, https://arxiv.org/abs/1506.02626

The baseline of the LLM papers ranks all weights of one matrix (`granularity=tensor`, the default here); ranking
within each output row is the variant that the Wanda paper shows to be much better.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness.pruning.masks import ComparisonGroup
from harness.pruning.methods.base import ScoreMethod
from harness.pruning.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from harness.calibration.statistics import Statistics


@register("magnitude")
@dataclass(frozen=True, slots=True)
class Magnitude(ScoreMethod):
    """Keeps the largest weights; looks at no data.

    Args:
        granularity: weights ranked against each other: those of a `tensor` or of a `row`.
    """

    granularity: Literal["tensor", "row"] = "tensor"

    @property
    def comparison_group(self) -> ComparisonGroup:
        return "matrix" if self.granularity == "tensor" else "row"

    def score(self, weight_OI: Tensor, stats: Statistics) -> Tensor:
        return weight_OI.abs()
