"""The knee of a sweep over sparsity: up to where a model can be pruned before it falls apart.

Essential Sparsity reads it off a plot (Jaiswal et al. 2023, https://arxiv.org/abs/2306.03805); here it is a rule.
"""

import math
from collections.abc import Sequence

from harness.errors import UserError


def knee(
    sparsities: Sequence[float], scores: Sequence[float], *, higher_is_better: bool, delta: float = 0.01
) -> float | None:
    """The last sparsity before the score gets worse, in one step of the sweep, by more than `delta` of itself.

    A step goes from one sparsity to the next larger one; its loss is relative to the score that it starts from.

    Args:
        sparsities: of the sweep, distinct, in any order; 0 (the dense model) may be among them.
        scores: one a sparsity, in the same order; a number that is not finite is worse than any.
        delta: most relative loss of a step, >= 0.

    Returns:
        The largest sparsity when no step loses more, None when already the first score is not finite.

    Raises:
        UserError: nothing to look at, a sparsity twice, or a `delta` below 0.
    """
    if not sparsities or len(sparsities) != len(scores) or len(set(sparsities)) != len(sparsities):
        raise UserError(
            f"{len(sparsities)} sparsities ({len(set(sparsities))} distinct) and {len(scores)} scores make no knee; "
            "allowed: one score for every distinct sparsity, at least one"
        )
    if not delta >= 0.0:
        raise UserError(f"delta={delta:g} is not allowed; allowed: delta >= 0")
    steps = sorted(zip(sparsities, scores, strict=True))
    last, before = steps[0]
    if not math.isfinite(before):
        return None
    for sparsity, score in steps[1:]:
        loss = before - score if higher_is_better else score - before
        if not math.isfinite(score) or loss > delta * abs(before):
            break
        last, before = sparsity, score
    return last
