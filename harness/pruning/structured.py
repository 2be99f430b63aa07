"""Structured pruning of a model: what can be cut is seen before anything is, and the configuration shrinks with it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedModel

from harness.blocks.layers import prunable_shapes
from harness.blocks.offload import Offloading
from harness.blocks.probe import Probes
from harness.blocks.runner import BlockRunner
from harness.errors import UserError
from harness.patterns import Pattern, Structured
from harness.pruning.context import PruningContext, PruningOutcome
from harness.pruning.cutting import cut_block, num_kept
from harness.pruning.sequential import prune_sequentially
from harness.surgery.configuration import BlockCuts, apply_fields, fields_after
from harness.surgery.free import free_dependency_groups

if TYPE_CHECKING:  # methods reach this module through their kind
    from harness.pruning.methods.base import StructuredMethod


def prune_channels(method: StructuredMethod, context: PruningContext) -> PruningOutcome:
    """Cut the least important channels out of every block, and have the model's configuration say so.

    The same number goes in blocks of one shape.  Layers that have no channels of their own, such as those of an
    attention, are left as they are, and their reports say that nothing of them was asked for.

    Raises:
        UserError: there is nothing to cut, the configuration cannot say that it was cut, or no calibration token
            reaches a layer.
    """
    model, pattern = context.model, context.pattern
    assert isinstance(pattern, Structured), f"a structured method makes no {pattern.label} pattern"
    context.reporter.start("prune: find the channels", 1)
    with context.clock("prune"):
        fields = configuration_fields(model, pattern, context.tokens_BL, context.offloading, context.device)
    patterns: dict[str, Pattern] = dict.fromkeys(prunable_shapes(model), pattern)
    cut = partial(cut_block, method)
    outcome = prune_sequentially(context, patterns, method.needs, cut, with_probes=True)
    sizes = ", ".join(f"{name}={value}" for name, value in fields.items())
    said = f"the model's configuration has now {sizes}"
    return outcome.then(PruningOutcome(change=apply_fields(model, fields), notes=(said,)))


def configuration_fields(
    model: PreTrainedModel, pattern: Structured, tokens_BL: Tensor, offloading: Offloading, device: torch.device
) -> dict[str, object]:
    """What of the model's configuration changes with the cuts that `pattern` asks for; the model is left as it is.

    Blocks of the same shapes are taken to have the same dependency groups, so that only the first of them is looked at;
    each is looked at again before it is cut.

    Raises:
        UserError: there is nothing to cut, or the configuration cannot say that it was cut.
    """
    with torch.no_grad():
        runner = BlockRunner(model, [tokens_BL[:1]], offloading, device)
        probes = Probes(model, [tokens_BL], runner.hidden[0], offloading)
        shapes = [{name: tensor.shape for name, tensor in block.state_dict().items()} for block in runner.blocks]
        alike = all(shape == shapes[0] for shape in shapes)
        cuts: list[BlockCuts] = []
        for step in runner.rest():
            dependency_groups = free_dependency_groups(step.block, probes.of_block(step.index, step.hidden[0], device))
            cuts.append([(each, num_kept(each.num_channels, pattern)) for each in dependency_groups])
            if alike:
                break
            step.hand_on()
    if not any(cuts):
        raise UserError(
            f"{type(model).__name__} has no {pattern.unit}s to cut out: in no block do linear layers alone make the "
            "inputs of another; allowed: models with feed-forward layers of plain linears"
        )
    return fields_after(model, cuts * len(runner.blocks) if alike else cuts)
