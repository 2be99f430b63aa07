"""Scores and a pattern become a keep mask: the only place that knows N:M.

Counts are exact and ties are stable: among equal scores the lower column (then the lower row) is pruned first.  The
published codes' `scores <= threshold` prunes one weight too many per comparison group, and every tie.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from harness.patterns import Pattern, SemiStructured

if TYPE_CHECKING:
    from torch import Tensor

ComparisonGroup = Literal["row", "matrix"]
"""The weights that are ranked against each other: those of one output, or of the whole matrix.  N:M ranks within
its groups of M whatever the comparison group."""


def keep_mask(scores_OI: Tensor, pattern: Pattern, comparison_group: ComparisonGroup) -> Tensor:
    """Boolean mask [O, I] of the weights to keep; higher scores are kept.

    Unstructured removes exactly `int(size * sparsity)` weights of every comparison group of that size.
    """
    if isinstance(pattern, SemiStructured):
        return _keep_n_of_m(scores_OI, pattern)
    if comparison_group == "matrix":
        return _keep_largest(scores_OI.reshape(1, -1), pattern.sparsity).view_as(scores_OI)
    return _keep_largest(scores_OI, pattern.sparsity)


def ranks_in_groups(pattern: Pattern) -> bool:
    """Whether weights are ranked within groups of neighbouring columns, whatever the comparison group."""
    return isinstance(pattern, SemiStructured)


def decision_width(pattern: Pattern, width: int) -> int:
    """How many neighbouring columns are decided on together: a group's, or all of the `width`."""
    return pattern.group if isinstance(pattern, SemiStructured) else width


def removable(pattern: Pattern, width: int) -> int:
    """How many of the `decision_width` columns a row may lose at most."""
    return pattern.group - pattern.keep if isinstance(pattern, SemiStructured) else width


def keeping(count: int, pattern: Pattern) -> Pattern:
    """N:M with the groups of `pattern`, of which `count` weights stay each."""
    assert isinstance(pattern, SemiStructured), f"{pattern.label} has no groups"
    return SemiStructured(count, pattern.group)


def _keep_largest(scores_GN: Tensor, sparsity: float) -> Tensor:
    """Keep all but the `int(N * sparsity)` smallest of every row G."""
    import torch

    removed = int(scores_GN.shape[1] * sparsity)
    if removed == 0:
        return torch.ones_like(scores_GN, dtype=torch.bool)
    threshold_G1 = scores_GN.kthvalue(removed, dim=1, keepdim=True).values
    below_GN = scores_GN < threshold_G1
    ties_GN = scores_GN == threshold_G1
    spare_G1 = removed - below_GN.sum(dim=1, keepdim=True)
    return ~(below_GN | (ties_GN & (ties_GN.cumsum(dim=1) <= spare_G1)))


def _keep_n_of_m(scores_OI: Tensor, pattern: SemiStructured) -> Tensor:
    """Keep the `keep` largest of every `group` consecutive columns.

    A weight's rank is the number of weights of its group that go before it: smaller ones, and equal ones to its left.
    Counting pairs is several times faster than a stable sort of very short rows.
    """
    import torch

    groups = scores_OI.reshape(-1, pattern.group).unbind(dim=1)
    keep = []
    for place, score in enumerate(groups):
        rank = torch.zeros_like(score, dtype=torch.int16)
        for other_place, other in enumerate(groups):
            if other_place < place:
                rank += other <= score
            elif other_place > place:
                rank += other < score
        keep.append(rank >= pattern.group - pattern.keep)
    return torch.stack(keep, dim=1).view_as(scores_OI)
