"""Which weights of a whole model go, step by step: an exact number of the smallest, over all layers together.

Ties are stable, as in `masks`: among equal scores the earlier layer, then the lower place in row order, goes first.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.patterns import Pattern, Unstructured
from harness.pruning.numerics.masks import decision_width, keep_mask, ranks_in_groups, removable
from harness.pruning.numerics.ranking import smallest_by_layer


def none_removed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Masks of a model that is dense yet."""
    return {name: torch.zeros_like(weight_OI, dtype=torch.bool) for name, weight_OI in weights.items()}


def remove_globally(
    scores: Mapping[str, Tensor], removed: Mapping[str, Tensor], pattern: Pattern, progress: float = 1.0
) -> dict[str, Tensor]:
    """Masks of what is removed in the end, given what is removed already.

    Unstructured: `int(weights * sparsity * progress)` weights in all, the smallest of the whole model.  N:M: of all
    the groups in the model `int(groups * progress)` lose their M - N smallest weights, those groups first in which
    these sum up to least.

    Args:
        scores: of every weight [O, I], >= 0; higher = keep.
        removed: boolean masks [O, I]; these stay removed and count.
        progress: fraction of the way to the pattern, in (0, 1].

    Raises:
        ArithmeticError: scores that are not finite.
    """
    for name, scores_OI in scores.items():
        if not scores_OI.isfinite().all():
            raise ArithmeticError(f"scores of {name} are not finite: activations or gradients overflowed")
    if ranks_in_groups(pattern):
        return _remove_in_groups(scores, removed, pattern, progress)
    total = sum(mask_OI.numel() for mask_OI in removed.values())
    return smallest(scores, removed, int(total * pattern.sparsity * progress))


def smallest(scores: Mapping[str, Tensor], taken: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Boolean masks of exactly `count` entries in all: what is `taken` already, and the smallest of the others.

    Args:
        scores: finite, >= 0; any one shape a layer.
    """
    ranks = _TakenFirst(scores, taken)
    counted = sum(int(mask.sum()) for mask in taken.values())
    assert counted <= count, f"{counted} entries are taken already, and {count} asked for"
    total = sum(mask.numel() for mask in taken.values())
    by_layer = smallest_by_layer(ranks, Unstructured.of_count(count, total).sparsity)
    return {
        name: ~keep_mask(rank, Unstructured.of_count(*by_layer[name]), "matrix").to(scores[name].device)
        for name, rank in ranks
    }


@dataclass(frozen=True, slots=True)
class _TakenFirst:
    """The scores in float32 on the CPU, 0 for what is taken and more for all else."""

    scores: Mapping[str, Tensor]
    taken: Mapping[str, Tensor]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        least = torch.finfo(torch.float32).smallest_normal
        for name, score in self.scores.items():
            yield name, score.float().clamp_min(least).masked_fill(self.taken[name], 0.0).cpu()


def _remove_in_groups(
    scores: Mapping[str, Tensor], removed: Mapping[str, Tensor], pattern: Pattern, progress: float
) -> dict[str, Tensor]:
    group, away = decision_width(pattern, 0), removable(pattern, 0)
    sums, begun = {}, {}
    for name, scores_OI in scores.items():
        groups_GM = scores_OI.reshape(-1, group)
        sums[name] = groups_GM.topk(away, dim=1, largest=False).values.sum(dim=1)
        begun[name] = removed[name].reshape(-1, group).any(dim=1)
    chosen = smallest(sums, begun, int(sum(mask.numel() for mask in begun.values()) * progress))
    outcome = {}
    for name, scores_OI in scores.items():
        new_G1 = (chosen[name] & ~begun[name])[:, None]
        leaves_OI = ~keep_mask(scores_OI, pattern, "row")
        outcome[name] = removed[name] | (leaves_OI.reshape(-1, group) & new_G1).view_as(leaves_OI)
    return outcome
