"""Ranking the weights of a whole model against each other: which go, in exact numbers, over all layers together.

Ties are stable, as in `masks`: among equal scores the earlier layer, then the lower place in row order, goes first.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor

from harness.patterns import Pattern, Unstructured
from harness.pruning.numerics.masks import decision_width, keep_mask, ranks_in_groups, removable

HIGH_BITS = 15
"""Of a magnitude in float32: its exponent and the first seven bits of its fraction; the sign is always 0."""
LOW_BITS = 16


def smallest_by_layer(
    weights: Callable[[], Iterable[tuple[str, Tensor]]], sparsity: float
) -> dict[str, tuple[int, int]]:
    """How many of the `int(total * sparsity)` smallest magnitudes of all layers lie in each, and the layer's size.

    Among equal magnitudes those of earlier layers count first.  Exact: magnitudes are ordered by their bits, and the
    threshold is found in two passes, first its high bits, then its low ones, with one layer in memory at a time.

    Args:
        weights: gives path and weight of every layer, twice the same.
    """
    sizes: dict[str, int] = {}
    histogram = torch.zeros(1 << HIGH_BITS, dtype=torch.int64)
    for name, weight_OI in weights():
        sizes[name] = weight_OI.numel()
        histogram += torch.bincount(_bits(weight_OI) >> LOW_BITS, minlength=1 << HIGH_BITS)
    wanted = int(sum(sizes.values()) * sparsity)
    if wanted == 0:
        return {name: (0, size) for name, size in sizes.items()}
    high = int(torch.searchsorted(histogram.cumsum(0), wanted))  # the high bits of the last magnitude that goes
    below: dict[str, int] = {}
    lows: dict[str, Tensor] = {}  # of the magnitudes with these high bits, how many have which low bits
    for name, weight_OI in weights():
        bits = _bits(weight_OI)
        below[name] = int((bits >> LOW_BITS < high).sum())
        low_bits = bits[bits >> LOW_BITS == high] & ((1 << LOW_BITS) - 1)
        lows[name] = torch.bincount(low_bits, minlength=1 << LOW_BITS).int()
    together = torch.stack(list(lows.values())).sum(dim=0)
    spare = wanted - sum(below.values())
    low = int(torch.searchsorted(together.cumsum(0), spare))
    spare -= int(together[:low].sum())  # of the ties with the threshold
    found = {}
    for name, size in sizes.items():
        ties = min(int(lows[name][low]), spare)
        spare -= ties
        found[name] = (below[name] + int(lows[name][:low].sum()) + ties, size)
    return found


def _bits(weight_OI: Tensor) -> Tensor:
    """Magnitudes as integers of the same order, on the CPU; half precision goes into float32 unchanged."""
    assert weight_OI.dtype.itemsize <= torch.float32.itemsize, f"{weight_OI.dtype} does not fit float32"
    return weight_OI.detach().float().abs().reshape(-1).cpu().view(torch.int32)


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
    counted = sum(int(mask.sum()) for mask in taken.values())
    assert counted <= count, f"{counted} entries are taken already, and {count} asked for"
    total = sum(mask.numel() for mask in taken.values())
    least = torch.finfo(torch.float32).smallest_normal

    def ranks() -> Iterator[tuple[str, Tensor]]:  # 0 for what is taken and more for all else
        for name, score in scores.items():
            yield name, score.float().clamp_min(least).masked_fill(taken[name], 0.0).cpu()

    by_layer = smallest_by_layer(ranks, Unstructured.of_count(count, total).sparsity)
    return {
        name: ~keep_mask(rank, Unstructured.of_count(*by_layer[name]), "matrix").to(scores[name].device)
        for name, rank in ranks()
    }


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
