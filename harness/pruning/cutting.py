"""Channels are cut out of a block by their importance, and its layers shrink."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from harness.blocks.changes import ModelChange
from harness.blocks.layers import PrunableLinear, prunable_linears, weight_view
from harness.errors import UserError
from harness.patterns import Pattern, Structured
from harness.pruning.context import PruningOutcome
from harness.pruning.sequential import ObservedBlock
from harness.record import LayerReport
from harness.surgery.channels import consumer_columns, cut, cuts_cleanly, producer_rows
from harness.surgery.dependencies import DependencyGroup
from harness.surgery.free import free_dependency_groups

if TYPE_CHECKING:  # methods reach this module through their kind
    from harness.pruning.methods.base import StructuredMethod


@dataclass(frozen=True, slots=True)
class Channels:
    """The weights of C channels that some layers of a block make and one layer reads; biases are not among them.

    Args:
        producers: [C, N] each, row c being what makes channel c.
        consumer_CN: row c is what reads channel c.
        are_maps: whether convolutions make the channels.
    """

    producers: tuple[Tensor, ...]
    consumer_CN: Tensor
    are_maps: bool = False


def num_kept(num_channels: int, pattern: Structured) -> int:
    """How many of a dependency group's channels stay: `round(channels * (1 - ratio))`.

    Raises:
        UserError: none would.
    """
    kept = round(num_channels * (1 - pattern.ratio))
    if kept == 0:
        raise UserError(
            f"sparsity={pattern.ratio:g} leaves none of {num_channels} {pattern.unit}s; allowed: a smaller fraction"
        )
    return kept


def kept_channels(importance_C: Tensor, count: int) -> Tensor:
    """Numbers of the `count` most important channels, ascending; of equal ones the lower goes first.

    Raises:
        ArithmeticError: an importance is not finite.
    """
    if not importance_C.isfinite().all():
        raise ArithmeticError("the importance of a channel is not finite: weights or activations overflowed")
    order_C = importance_C.sort(stable=True).indices
    return order_C[len(order_C) - count :].sort().values.cpu()


def cut_block(method: StructuredMethod, observed: ObservedBlock, patterns: Mapping[str, Pattern]) -> PruningOutcome:
    """Cut the least important channels of every dependency group out of a block; reports of all its linears.

    Raises:
        UserError: the block's own code needs the channels.
    """
    block, prefix, probe = observed.step.block, observed.step.path, observed.probe
    assert probe is not None, "blocks that are cut have probes"
    linears = prunable_linears(block)
    group_of = {name: group for group in observed.groups for name in group.names}
    dense = {name: weight_view(linear) for name, linear in linears.items()}
    kept: list[tuple[DependencyGroup, Tensor]] = []
    ratios = dict.fromkeys(linears, 0.0)
    for dependency_group in free_dependency_groups(block, probe):
        pattern = patterns[f"{prefix}.{dependency_group.consumer}"]
        assert isinstance(pattern, Structured), f"channels are cut for a structured pattern, not {pattern.label}"
        are_maps = any(isinstance(linears[name], nn.Conv2d) for name in dependency_group.producers)
        channels = Channels(
            tuple(producer_rows(block, dependency_group)), consumer_columns(block, dependency_group), are_maps
        )
        importance_C = method.importance(channels, group_of[dependency_group.consumer].statistics)
        kept.append((dependency_group, kept_channels(importance_C, num_kept(dependency_group.num_channels, pattern))))
        ratios |= dict.fromkeys((*dependency_group.producers, dependency_group.consumer), pattern.ratio)
    change = ModelChange()
    for dependency_group, kept_C in kept:
        if not cuts_cleanly(block, probe, dependency_group, kept_C):
            raise UserError(
                f"{prefix}.{dependency_group.consumer}: the model needs channels that no layer reads; "
                "allowed: other models"
            )
        change = change.then(cut(block, dependency_group, kept_C))
    columns = {
        dependency_group.consumer: dependency_group.columns_CK[kept_C].reshape(-1).sort().values
        for dependency_group, kept_C in kept
    }
    shrunk = {name for dependency_group, _ in kept for name in dependency_group.producers}
    reports = [
        _report(
            f"{prefix}.{name}", (dense[name], linear), ratios[name],
            None if name in shrunk else group_of[name].sample_TI.float(), columns.get(name),
        )
        for name, linear in linears.items()
    ]  # fmt: skip
    return PruningOutcome(reports, change.below(prefix))


def _report(
    name: str,
    layers: tuple[Tensor, PrunableLinear],
    ratio: float,
    sample_TI: Tensor | None,
    columns: Tensor | None,
) -> LayerReport:
    """What became of one layer.

    Args:
        layers: the dense weight [O, I], and the layer as it is now.
        ratio: fraction of its channels that were to go.
        sample_TI: inputs that the output error is measured on; None where outputs were cut out, so that there is
            nothing to compare.
        columns: those of the dense weight that are left, None = all.
    """
    dense_OI, new_OI = layers[0], weight_view(layers[1])
    error = None
    if sample_TI is not None:
        dense_TO = sample_TI @ dense_OI.float().T
        input_TI = sample_TI if columns is None else sample_TI[:, columns.to(sample_TI.device)]
        scale = float(dense_TO.norm())
        error = float((dense_TO - input_TI @ new_OI.float().T).norm()) / scale if scale else None
    return LayerReport(
        name=name,
        shape=(dense_OI.shape[0], dense_OI.shape[1]),
        requested_sparsity=ratio,
        achieved_sparsity=(dense_OI.numel() - new_OI.numel()) / dense_OI.numel(),
        relative_output_error=error,
        error_tokens=0 if sample_TI is None else len(sample_TI),
        details={"shape_left": list(new_OI.shape)},
    )
