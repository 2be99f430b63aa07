"""Random: any weights go; the floor that every method must beat.

Compare Liu et al. 2022, https://arxiv.org/abs/2202.02643: they train networks that are pruned so, here nothing
is trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from harness.pruning.fingerprints import uniform_like
from harness.pruning.methods.base import METHODS, ScoreMethod
from harness.pruning.numerics.masks import ComparisonGroup, ranks_in_groups

if TYPE_CHECKING:
    from torch import Tensor

    from harness.calibration.statistics import Statistics
    from harness.patterns import Pattern


@METHODS.register("random")
@dataclass(frozen=True, slots=True)
class Random(ScoreMethod):
    """S_ij uniform on [0, 1): independent of the weights' order; looks at no data.

    The draw starts from the seed, the layer's shape and its weights, so that no two layers share a mask, the same
    layer gets the same one in every job, process and number format that holds the weights exactly, and on every device.

    Args:
        seed: of the draws, >= 0; another seed is another set of masks.  The job's, unless it is given.
        granularity: weights that a pattern's zeros are counted over: those of a `tensor` or of a `row`.
    """

    seed: Annotated[int, Field(ge=0)] = 0
    granularity: Literal["tensor", "row"] = "tensor"

    def without_effect(self, pattern: Pattern) -> frozenset[str]:
        return frozenset({"granularity"}) if ranks_in_groups(pattern) else frozenset()

    @property
    def comparison_group(self) -> ComparisonGroup:
        return "matrix" if self.granularity == "tensor" else "row"

    def score(self, weight_OI: Tensor, stats: Statistics) -> Tensor:
        return uniform_like(weight_OI, tuple(weight_OI.shape), self.seed)
