"""Layerwise pruning: the sparsity is spread over the layers, then each is pruned from statistics of its input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from harness.blocks.changes import ModelChange
from harness.patterns import Pattern
from harness.pruning.context import PruningContext, PruningOutcome
from harness.pruning.dense_analysis import DenseAnalysis
from harness.pruning.layer_reports import NewLayer, layer_report
from harness.pruning.numerics.permutation import absorb
from harness.pruning.sequential import ObservedBlock, prune_sequentially, sample_of
from harness.record import LayerReport

if TYPE_CHECKING:  # methods reach this module through their kind
    from harness.pruning.methods.base import LayerwiseMethod


def prune_layers(method: LayerwiseMethod, context: PruningContext) -> PruningOutcome:
    """Spread the sparsity over the layers, then prune block by block.

    Raises:
        UserError: a layer cannot take its pattern, or no calibration token reaches it.
    """
    analysis = DenseAnalysis(context, method)
    with context.clock("prune" if context.allocation is None else "allocate"):
        patterns = (method if context.allocation is None else context.allocation).spread(analysis)
    check_patterns(patterns, analysis.shapes)
    return prune_sequentially(
        context, patterns, method.needs, partial(prune_block, method), with_probes=method.permutes
    )


def check_patterns(patterns: Mapping[str, Pattern], shapes: Mapping[str, tuple[int, int]]) -> None:
    """Raise `UserError` when a layer cannot take its pattern."""
    for name, pattern in patterns.items():
        pattern.check_width(shapes[name][1], name)


def prune_block(method: LayerwiseMethod, block: ObservedBlock, patterns: Mapping[str, Pattern]) -> PruningOutcome:
    """Prune the linears of a block, those of one input together."""
    path = block.step.path
    reports: dict[str, LayerReport] = {}  # by path in the block, as are the orders of columns
    orders: dict[str, Tensor] = {}
    for group in block.groups:
        weights = [block.weights[f"{path}.{name}"] for name in group.names]
        wanted = [patterns[f"{path}.{name}"] for name in group.names]
        pruned = method.prune_group(weights, group.statistics, wanted)
        sample_TI = sample_of(group)
        for name, weight_OI, new, pattern in zip(group.names, weights, pruned, wanted, strict=True):
            new_OI = new.weight_OI.to(weight_OI.dtype)
            left = NewLayer(new_OI)
            reports[name] = layer_report(f"{path}.{name}", weight_OI, left, sample_TI, pattern.sparsity, new.details)
            weight_OI.copy_(new_OI)
            if new.permutation_I is not None:
                orders[name] = new.permutation_I
    change = ModelChange.of_weights({name: report.shape for name, report in reports.items()})
    if orders:
        assert block.probe is not None, "a method that permutes has probes"
        said, moved = absorb(block.step.block, block.probe, orders, path)
        change = change.then(moved)
        reports |= {name: replace(reports[name], details={**reports[name].details, **said[name]}) for name in orders}
    in_order = [reports[name.removeprefix(f"{path}.")] for name in block.weights]
    return PruningOutcome(in_order, change.below(path))
