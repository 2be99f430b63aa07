"""Magnitude: |W|.  Han et al. 2015, https://arxiv.org/abs/1506.02626

The baseline of the LLM papers ranks all weights of one matrix (`granularity=tensor`, the default here); ranking
within each output row is the variant that the Wanda paper shows to be much better.  One threshold over all prunable
weights of the model (`global`) is that of Essential Sparsity, Jaiswal et al. 2023, https://arxiv.org/abs/2306.03805
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness.patterns import Pattern, Unstructured
from harness.pruning.methods.base import METHODS, ScoreMethod
from harness.pruning.numerics.masks import ComparisonGroup, ranks_in_groups

if TYPE_CHECKING:
    from torch import Tensor

    from harness.calibration.statistics import Statistics
    from harness.pruning.dense_analysis import DenseAnalysis


@METHODS.register("magnitude")
@dataclass(frozen=True, slots=True)
class Magnitude(ScoreMethod):
    """Keeps the largest weights; looks at no data.

    Args:
        granularity: weights ranked against each other: those of a `tensor`, of a `row`, or of the whole model
            (`global`: layers differ in sparsity, the model has exactly `int(total * sparsity)` zeros).
    """

    granularity: Literal["tensor", "row", "global"] = "tensor"

    def without_effect(self, pattern: Pattern) -> frozenset[str]:
        return frozenset({"granularity"}) if ranks_in_groups(pattern) else frozenset()

    @property
    def comparison_group(self) -> ComparisonGroup:
        return "row" if self.granularity == "row" else "matrix"

    @property
    def decides_layer_sparsities(self) -> bool:
        return self.granularity == "global"

    def refuses(self, pattern: Pattern) -> str | None:
        if self.granularity == "global" and ranks_in_groups(pattern):
            return f"granularity=global ranks all weights of the model, {pattern.label} those of a group only"
        return ScoreMethod.refuses(self, pattern)

    def spread(self, analysis: DenseAnalysis) -> dict[str, Pattern]:
        from harness.pruning.numerics.ranking import smallest_by_layer

        if self.granularity != "global":
            return ScoreMethod.spread(self, analysis)
        counts = smallest_by_layer(analysis.weights, analysis.pattern.sparsity)
        return {name: Unstructured.of_count(count, size) for name, (count, size) in counts.items()}

    def score(self, weight_OI: Tensor, stats: Statistics) -> Tensor:
        return weight_OI.abs()
