"""Orders of input columns in which N:M groups hold more: found, written down, absorbed into a block, and verified.

Zhang et al. 2024, https://openreview.net/forum?id=Tr0lPx9woF (RIA, channel permutation), which sorts columns by the
sum of their scores, deals them to the groups in serpentine order (*heuristic*), and then, one place of the groups
after the other, gives every column of that place to the group where it is worth most (*assignment*, a linear sum
assignment).  Place i of a permuted weight holds column `permutation_I[i]` of the original one.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from harness.blocks.changes import ModelChange
from harness.patterns import Pattern
from harness.pruning.numerics.masks import decision_width, keep_mask, removable

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.record import JsonValue
    from harness.surgery.influence import Run

Permutation = Literal["none", "heuristic", "assignment"]
WORK_ENTRIES = 1 << 24  # of the largest temporary tensor, in entries


def best_permutation(scored: Sequence[tuple[Tensor, Pattern]], permutation: Permutation) -> tuple[Tensor | None, float]:
    """The order of columns that retains most score, one for all linears of one input, and what it gains.

    Args:
        scored: scores [O, I], finite, and pattern of every linear; their groups are of one size.

    Returns:
        The order [I], None where no order that was tried is better than the original one; and the retained score
        over that of the original order, minus 1.
    """
    import torch

    first_OI = scored[0][0]
    identity_I = torch.arange(first_OI.shape[1], device=first_OI.device)
    groups = {decision_width(pattern, len(identity_I)) for _, pattern in scored}
    assert len(groups) == 1, "linears of one input have groups of one size"
    (group,) = groups
    candidates = []
    if permutation != "none":
        sums_I = torch.stack([score_OI.sum(dim=0) for score_OI, _ in scored]).sum(dim=0)
        candidates.append(_dealt(sums_I, group))
        if permutation == "assignment":
            candidates.append(_assigned(candidates[0], scored, group))
    plain = _retained(identity_I, scored)
    best_I, best = None, plain
    for order_I in candidates:
        retained = _retained(order_I, scored)
        if retained > best:
            best_I, best = order_I, retained
    return best_I, best / plain - 1.0 if plain else 0.0


def keep_mask_permuted(scores_OI: Tensor, pattern: Pattern, permutation_I: Tensor) -> Tensor:
    """The mask [O, I], in the original order of columns, whose groups lie in `permutation_I`."""
    import torch

    mask_OI = torch.empty_like(scores_OI, dtype=torch.bool)
    mask_OI[:, permutation_I] = keep_mask(scores_OI[:, permutation_I], pattern, "row")
    return mask_OI


def _retained(order_I: Tensor, scored: Sequence[tuple[Tensor, Pattern]]) -> float:
    """Sum of the scores that survive."""
    import torch

    total = 0.0
    for score_OI, pattern in scored:
        ordered_OI = score_OI[:, order_I]
        total += float((ordered_OI * keep_mask(ordered_OI, pattern, "row")).sum(dtype=torch.float64))
    return total


def _dealt(column_sums_I: Tensor, group: int) -> Tensor:
    """Columns from the best to the worst, dealt to the groups forwards, then backwards, then forwards, ..."""
    order_I = column_sums_I.sort(descending=True, stable=True).indices
    rounds_MG = order_I.view(group, -1).clone()
    rounds_MG[1::2] = rounds_MG[1::2].flip(1)
    return rounds_MG.T.reshape(-1)


def _assigned(order_I: Tensor, scored: Sequence[tuple[Tensor, Pattern]], group: int) -> Tensor:
    """Place after place of the groups, its columns given to the groups so that most score is retained.

    The other columns of group g keep their N - 1 best in every row; a column c adds what it has more than the N-th
    best of them, if anything.  So the gain of every (g, c) is a sum over rows, and the best pairing is found exactly.
    """
    import torch
    from scipy.optimize import linear_sum_assignment

    order_GM = order_I.view(-1, group).clone()
    for place in range(group):
        columns_G = order_GM[:, place]
        others_GM = torch.cat([order_GM[:, :place], order_GM[:, place + 1 :]], dim=1)
        gain_GG = torch.zeros(len(order_GM), len(order_GM), dtype=torch.float64)
        for score_OI, pattern in scored:
            bar_OG = score_OI[:, others_GM].topk(group - removable(pattern, group), dim=2).values[..., -1]
            gain_GG += _gains(score_OI[:, columns_G], bar_OG)
        groups, taken = linear_sum_assignment(gain_GG.numpy(), maximize=True)
        groups_G, taken_G = (torch.as_tensor(each).to(order_GM.device) for each in (groups, taken))
        order_GM[groups_G, place] = columns_G[taken_G]
    return order_GM.reshape(-1)


def _gains(score_OG: Tensor, bar_OG: Tensor) -> Tensor:
    """gain[g, c] = sum over rows of max(0, score[row, c] - bar[row, g]), float64 on the CPU."""
    import torch

    rows, groups = score_OG.shape
    step = max(1, WORK_ENTRIES // (rows * groups))
    parts = [
        (score_OG[:, None, :] - bar_OG[:, start : start + step, None]).clamp_min_(0.0).sum(dim=0, dtype=torch.float64)
        for start in range(0, groups, step)
    ]
    return torch.cat(parts).cpu()


def absorb(
    block: nn.Module, run: Run, orders: Mapping[str, Tensor], prefix: str
) -> tuple[dict[str, dict[str, JsonValue]], ModelChange]:
    """Let channels inside a block change places, so that the columns of its linears lie in `orders`; where they can.

    Where the rows of other linears make a linear's input and nothing else reads it, those rows and its columns change
    places together, and the stored weight has N:M groups as they lie.  Elsewhere, as at the residual stream, the weight
    stays as it is: the function is the same, and the order is in the layer's report.

    Args:
        orders: permutation of the columns, by path in the block; linears of one input have the same tensor.
        prefix: path of the block.

    Returns:
        What the reports say, by path in the block, and what changed of the block.
    """
    from harness.surgery.channels import channel_order, reorder, reorders_cleanly
    from harness.surgery.dependencies import find_dependency_groups

    groups = {group.consumer: group for group in find_dependency_groups(block, run)}
    written: dict[int, str] = {}
    said, change = {}, ModelChange()
    for name, order_I in orders.items():
        group = groups.get(name)
        order_C = channel_order(group, order_I) if group is not None else None
        if group is not None and order_C is not None and reorders_cleanly(block, run, group, order_C):
            change = change.then(reorder(block, group, order_C))
            said[name] = describe(order_I, absorbed=True)
        else:
            said[name] = describe(order_I, absorbed=False, same_as=written.get(id(order_I)))
            written.setdefault(id(order_I), f"{prefix}.{name}")
    return said, change


def describe(permutation_I: Tensor, *, absorbed: bool, same_as: str | None = None) -> dict[str, JsonValue]:
    """What a layer's report says of its permutation.

    Args:
        absorbed: the stored weight has its columns in this order; else in the original one, and the permutation is
            written out (base64 of unsigned little-endian integers of `permutation_bits`).
        same_as: path of a layer whose report has the same permutation written out.
    """
    bits = 16 if len(permutation_I) <= 1 << 16 else 32
    data = permutation_I.cpu().numpy().astype(f"<u{bits // 8}").tobytes()
    said: dict[str, JsonValue] = {
        "permuted": "absorbed" if absorbed else "virtual",
        "permutation_sha256": hashlib.sha256(data).hexdigest(),
    }
    if absorbed:
        return said
    if same_as is not None:
        return said | {"permutation_of": same_as}
    return said | {"permutation_bits": bits, "permutation": base64.b64encode(data).decode()}
