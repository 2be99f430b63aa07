"""Zeros are counted again after recovery: a table never shows a sparsity that training has undone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.blocks.changes import ModelChange
from harness.record import LayerReport

if TYPE_CHECKING:
    from torch import nn


def recomputed_sparsity(
    layers: Sequence[LayerReport], model: nn.Module, change: ModelChange
) -> tuple[LayerReport, ...]:
    """The reports with the sparsities that the weights have now."""
    from harness.blocks.layers import prunable_layers, weight_view  # here: listing the recoveries must not load torch

    linears = prunable_layers(model)
    found = []
    for report in layers:
        before, after = change.layers.get(report.name, (report.shape, report.shape))
        place = change.place_of(report.name)
        if place is None or before != after:  # it is gone, or cut: nothing is zero that training could undo
            found.append(report)
            continue
        weight_OI = weight_view(linears[place])
        sparsity = float((weight_OI == 0).sum()) / weight_OI.numel()
        assert sparsity >= report.achieved_sparsity, f"recovery brought weights of {report.name} back"
        found.append(replace(report, achieved_sparsity=sparsity))
    return tuple(found)
