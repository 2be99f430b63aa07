"""RIA: |W| relative to its row and column, times the input's norm.  https://openreview.net/forum?id=Tr0lPx9woF

Zhang et al. 2024, "Plug-and-Play: An Efficient Post-training Pruning Method for Large Language Models":
RIA_ij = (|W_ij| / sum_i |W_ij| + |W_ij| / sum_j |W_ij|) * ||X_j||_2 ** a.  The published code computes the relative
importance in half precision; here it is float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.calibration.statistics import FeatureNorm, Statistics
from harness.job import NotNegative
from harness.patterns import Pattern
from harness.pruning.methods.base import METHODS, PrunedWeight, ScoreMethod
from harness.pruning.numerics.masks import ComparisonGroup, keep_mask, ranks_in_groups
from harness.pruning.numerics.permutation import Permutation, best_permutation, keep_mask_permuted

if TYPE_CHECKING:
    from torch import Tensor


@METHODS.register("ria")
@dataclass(frozen=True, slots=True)
class RIA(ScoreMethod):
    """Relative importance and activations; with N:M also the permutation of input channels.

    Args:
        activation_power: a, finite and >= 0; 0 leaves activations out, which the paper calls RI.
        comparison_group: weights ranked against each other in an unstructured pattern: of a `matrix`, as published, or
            of a `row`.
        permutation: order of the columns that N:M groups are made in: `none` = as they lie; `heuristic` = dealt by
            their scores; `assignment` = dealt, then improved by linear sum assignments.  Linears of one input share
            an order, and where none that was tried retains more, columns stay as they lie.
    """

    activation_power: NotNegative = 0.5
    comparison_group: ComparisonGroup = "matrix"
    permutation: Permutation = "none"
    needs = (FeatureNorm,)

    def without_effect(self, pattern: Pattern) -> frozenset[str]:
        return frozenset({"comparison_group"}) if ranks_in_groups(pattern) else frozenset()

    @property
    def permutes(self) -> bool:
        return self.permutation != "none"

    @property
    def passes(self) -> float | None:
        return None if self.permutes else ScoreMethod.passes.__get__(self)

    def refuses(self, pattern: Pattern) -> str | None:
        if (refusal := ScoreMethod.refuses(self, pattern)) is not None:
            return refusal
        if self.permutes and not ranks_in_groups(pattern):
            return f"permutation={self.permutation} orders the groups of N:M; allowed: permutation=none"
        return None

    def score(self, weight_OI: Tensor, stats: Statistics) -> Tensor:
        weight_OI = weight_OI.abs().float()
        relative_OI = _share(weight_OI, dim=0) + _share(weight_OI, dim=1)
        return relative_OI * stats[FeatureNorm].l2_I ** self.activation_power

    def prune(self, weight_OI: Tensor, stats: Statistics, pattern: Pattern) -> PrunedWeight:
        return self.prune_group([weight_OI], stats, [pattern])[0]

    def prune_group(
        self, weights: Sequence[Tensor], stats: Statistics, patterns: Sequence[Pattern]
    ) -> list[PrunedWeight]:
        """With a permutation the N:M linears of one input share it."""
        scores = [self.finite_score(weight_OI, stats) for weight_OI in weights]
        n_of_m = [(score, kind) for score, kind in zip(scores, patterns, strict=True) if ranks_in_groups(kind)]
        permutation_I, gain = best_permutation(n_of_m, self.permutation) if n_of_m else (None, 0.0)
        pruned = []
        for weight_OI, score_OI, pattern in zip(weights, scores, patterns, strict=True):
            if permutation_I is None or not ranks_in_groups(pattern):
                pruned.append(PrunedWeight(weight_OI * keep_mask(score_OI, pattern, self.comparison_group)))
            else:
                mask_OI = keep_mask_permuted(score_OI, pattern, permutation_I)
                pruned.append(PrunedWeight(weight_OI * mask_OI, {"retained_score_gain": gain}, permutation_I))
        return pruned


def _share(weight_OI: Tensor, dim: int) -> Tensor:
    """Every weight's part of the sum along `dim`; 0 where all are 0."""
    sums = weight_OI.sum(dim=dim, keepdim=True)
    return weight_OI / sums.masked_fill(sums == 0, 1.0)
