"""How much goes: from a fraction of a model's parameters to numbers of channels, heads and blocks."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.blocks.layers import weight_view
from harness.errors import UserError
from harness.surgery.channels import linear_at
from harness.surgery.dependencies import DependencyGroup


@dataclass(frozen=True, slots=True)
class Cuttable:
    """A dependency group whose channels or heads may go, and the parameters that each of them takes along."""

    group: DependencyGroup
    size: int

    @classmethod
    def of(cls, block: nn.Module, group: DependencyGroup) -> "Cuttable":
        """With the parameters counted: rows of the producers with their biases, norms, columns of the consumer."""
        size = group.columns_CK.shape[1] * len(weight_view(linear_at(block, group.consumer)))
        for name, rows_CM in group.producers.items():
            linear = linear_at(block, name)
            size += rows_CM.shape[1] * (weight_view(linear).shape[1] + (linear.bias is not None))
        for name, rows_CM in group.norms.items():
            size += rows_CM.shape[1] * len(list(block.get_submodule(name).parameters()))
        return cls(group, size)

    @property
    def total(self) -> int:
        """Parameters of all of them."""
        return self.size * self.group.num_channels


def least_first(importance_N: Tensor) -> Tensor:
    """Numbers [N] of channels, heads or blocks, the least important first; of equal ones the one in front.

    Raises:
        ArithmeticError: an importance is not finite.
    """
    if not importance_N.isfinite().all():
        raise ArithmeticError("an importance is not finite: weights or activations overflowed")
    return importance_N.sort(stable=True).indices


def most_important(importance_C: Tensor, count: int) -> Tensor:
    """Numbers of the `count` most important, ascending."""
    return least_first(importance_C)[len(importance_C) - count :].sort().values.cpu()


def all_but_a_slice(importance_C: Tensor, count: int, spared: int) -> Tensor:
    """Numbers, ascending, of the `spared` least important, or as many as stay, and of the most important."""
    order_C = least_first(importance_C).cpu()
    spared = min(spared, count)
    return torch.cat([order_C[:spared], order_C[len(order_C) - count + spared :]]).sort().values


def num_parameters(model: nn.Module) -> int:
    """Of the whole model, tied ones once."""
    return sum(weight.numel() for weight in model.parameters())


def fractions_of_blocks(
    model: nn.Module, blocks: Sequence[Sequence[Cuttable]], share: float, losses: Sequence[float]
) -> list[float]:
    """The fraction that every block loses of what can be cut there, so that a share of all parameters goes.

    Args:
        losses: what the fractions are multiples of; a block of which all but one of every group would go loses that,
            and the others more.

    Raises:
        UserError: there is less.
    """
    fraction = of_the_cuttable(model, blocks, share)
    if len(set(filter(None, losses))) <= 1:
        return [fraction if loss else 0.0 for loss in losses]
    totals = torch.tensor([float(sum(each.total for each in block)) for block in blocks], dtype=torch.float64)
    least = torch.tensor([float(sum(each.size for each in block)) for block in blocks], dtype=torch.float64)
    wanted, weights = fraction * totals.sum(), torch.tensor(losses, dtype=torch.float64) * totals
    gone, room = torch.zeros_like(totals), totals - least
    for _ in blocks:  # every turn fills a block, or is the last
        open_N = gone < room
        gone = torch.where(open_N, (wanted - gone[~open_N].sum()) * weights / weights[open_N].sum(), gone).min(room)
    return (gone / totals.clamp(min=1.0)).tolist()


def of_the_cuttable(model: nn.Module, blocks: Sequence[Sequence[Cuttable]], share: float) -> float:
    """The fraction of what can be cut that makes a share of all parameters.

    Raises:
        UserError: there is less.
    """
    total, most = num_parameters(model), sum(each.total for block in blocks for each in block)
    least = sum(each.size for block in blocks for each in block)  # one of every group stays
    if share * total > most - least:
        raise UserError(
            f"sparsity={share:g} of all parameters cannot be cut out of {type(model).__name__}: what can be cut are "
            f"{(most - least) / total:.1%}; allowed: a smaller fraction"
        )
    return share * total / most


def num_kept(num_channels: int, ratio: float) -> int:
    """How many of a dependency group's channels stay: `round(channels * (1 - ratio))`.

    Raises:
        UserError: none would.
    """
    kept = round(num_channels * (1 - ratio))
    if kept == 0:
        raise UserError(f"sparsity={ratio:g} leaves none of {num_channels} channels; allowed: a smaller fraction")
    return kept


def kept_in_block(block: Sequence[Cuttable], fraction: float) -> list[int]:
    """How many of each group stay in a block that loses a fraction of what can be cut there.

    Groups alike, such as those of the experts of a mixture, lose the same number.  The largest units are rounded first,
    and the smaller ones make up for it: heads are few, channels are many.
    """
    alike = Counter((each.size, each.group.num_channels) for each in block)
    kept: dict[tuple[int, int], int] = {}
    deficit = 0.0
    for (size, channels), groups in sorted(alike.items(), reverse=True):
        deficit += fraction * size * channels * groups
        gone = min(max(round(deficit / (size * groups)), 0), channels - 1)
        kept[size, channels] = channels - gone
        deficit -= gone * size * groups
    return [kept[each.size, each.group.num_channels] for each in block]


def kept_over_model(
    importances: Sequence[Sequence[Tensor]], sizes: Sequence[Sequence[int]], fraction: float
) -> list[list[Tensor]]:
    """Numbers of what stays of every group of every block, when all compete and a fraction of their parameters goes.

    The least important go first, of equal ones those in front, until what is gone comes closest to the fraction; the
    most important one of every group stays.

    Args:
        importances: [C] of every group of every block.
        sizes: parameters of one channel or head of that group.
    """
    groups = [each for block in zip(importances, sizes, strict=True) for each in zip(*block, strict=True)]
    ranked = torch.cat([importance_C.float().cpu() for importance_C, _ in groups])
    weights = torch.cat([torch.full((len(importance_C),), size, dtype=torch.long) for importance_C, size in groups])
    stays = torch.cat([torch.arange(len(scores_C)) == int(scores_C.argmax()) for scores_C, _ in groups])
    order = least_first(ranked)
    order = order[~stays[order]]
    gone_so_far = torch.cat([weights.new_zeros(1), weights[order].cumsum(0)])
    count = int((gone_so_far - fraction * float(weights.sum())).abs().argmin())
    keeps = torch.ones(len(ranked), dtype=torch.bool)
    keeps[order[:count]] = False
    masks = iter(keeps.split([len(importance_C) for importance_C, _ in groups]))
    return [[next(masks).nonzero().flatten() for _ in block] for block in importances]
