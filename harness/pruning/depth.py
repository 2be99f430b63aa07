"""Depth pruning: whole blocks are taken out of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.blocks.layers import decoder_blocks, prunable_layers, weight_view
from harness.errors import UserError
from harness.patterns import Structured
from harness.pruning.context import PruningContext, PruningOutcome
from harness.pruning.layer_reports import NewLayer, layer_report
from harness.pruning.shares import num_parameters
from harness.surgery.blocks import remove_blocks

if TYPE_CHECKING:  # methods reach this module through their kind
    from torch import nn

    from harness.pruning.methods.whole_model import DepthMethod


def prune_blocks(method: DepthMethod, context: PruningContext) -> PruningOutcome:
    """Take out as many blocks as come closest to the requested share of all parameters.

    Raises:
        UserError: that is none of them, or all.
    """
    model = context.model
    count = _count(model, context.pattern)
    order, notes = method.removals(context, count)
    assert len(set(order)) == count, f"{len(set(order))} blocks were chosen instead of {count}"
    dense = {name: weight_view(linear) for name, linear in prunable_layers(model).items()}
    with context.clock("prune"):
        change = remove_blocks(model, order)
    reports = []
    for name, weight_OI in dense.items():
        gone = change.place_of(name) is None
        left = NewLayer(weight_OI.new_empty(0, 0) if gone else weight_OI)
        reports.append(
            layer_report(name, weight_OI, left, None, float(gone), {"shape_left": list(left.weight_OI.shape)})
        )
    said = f"blocks that are gone, in this order: {', '.join(map(str, order))}"
    return PruningOutcome(reports, change, (said, *notes))


def _count(model: nn.Module, pattern: object) -> int:
    """How many blocks come closest to the requested share."""
    assert isinstance(pattern, Structured), "blocks are counted by their parameters"
    blocks = decoder_blocks(model)[1]
    size = sum(num_parameters(block) for block in blocks) / len(blocks)
    count = round(pattern.share * num_parameters(model) / size)
    if not 0 < count < len(blocks):
        one = size / num_parameters(model)
        raise UserError(
            f"sparsity={pattern.share:g} would take {count} of {len(blocks)} blocks out of {type(model).__name__}, and "
            f"one is {one:.1%} of its parameters; allowed: {one:.3g} to {(len(blocks) - 1) * one:.3g}"
        )
    return count
