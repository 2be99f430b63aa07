"""Pruning a whole model at once: what every global method is given, and the reports of what it did."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from harness.blocks.changes import ModelChange
from harness.blocks.inputs import InputObserver, check_reached
from harness.blocks.layers import PrunableLinear, prunable_layers, weight_view
from harness.models.objective import in_float32
from harness.pruning.context import GlobalOutcome, PruningContext, PruningOutcome
from harness.pruning.layer_reports import NewLayer, layer_report
from harness.record import ERROR_TOKENS, LayerReport

if TYPE_CHECKING:  # methods reach this module through their kind
    from harness.pruning.methods.whole_model import GlobalMethod


def prune_globally(method: GlobalMethod, context: PruningContext) -> PruningOutcome:
    """Prune the model at once and in float32; it is on the context's device afterwards, in its own types again.

    Output errors are measured as in sequential pruning, on the first calibration tokens that reach a layer, with the
    inputs that it has in the dense model.

    Raises:
        UserError: a layer that no calibration token reaches.
    """
    model = context.model
    halves = any(weight.dtype != torch.float32 for weight in model.parameters())
    model.to(context.device)  # type: ignore[arg-type]  # transformers annotates `to` with another signature
    linears = prunable_layers(model)
    with context.clock("prune"), in_float32(model):
        context.reporter.start("prune: inputs of the dense model", 1)
        with context.clock("calibrate"):
            samples = sample_inputs(model, linears, context.batches())
        dense = {name: weight_view(linear).clone() for name, linear in linears.items()}
        done = method.prune_model(context)
    layers = _reports(context, done, dense, samples)
    weights = ModelChange.of_weights({name: (len(weight_OI), weight_OI.shape[1]) for name, weight_OI in dense.items()})
    notes = (*done.notes, *(["pruned in float32, since gradients are needed"] if halves else []))
    return PruningOutcome(layers, weights.then(done.change), notes)


def _reports(
    context: PruningContext, done: GlobalOutcome, dense: Mapping[str, Tensor], samples: Mapping[str, Tensor]
) -> list[LayerReport]:
    """Of all layers of the dense model, with output errors where a layer has the shape that it had."""
    now, reports = prunable_layers(context.model), []
    for name, old_OI in dense.items():
        place = done.change.place_of(name)
        new_OI = old_OI.new_empty(0, 0) if place is None else weight_view(now[place])
        sample_TI = samples[name] if new_OI.shape == old_OI.shape else None
        details = done.details.get(name, {})
        reports.append(layer_report(name, old_OI, NewLayer(new_OI), sample_TI, context.pattern.sparsity, details))
    return reports


@torch.no_grad()
def sample_inputs(
    model: nn.Module, linears: Mapping[str, PrunableLinear], batches: list[Tensor], tokens: int = ERROR_TOKENS
) -> dict[str, Tensor]:
    """The first `tokens` inputs [T, I] of every linear; linears given the very same input share them.

    Raises:
        UserError: a linear that no token of any batch reaches.
    """
    observer = InputObserver(linears, (), sample_tokens=tokens, stop_early=True)
    for batch in batches:
        observer.watch(partial(model, input_ids=batch, use_cache=False), len(batch))
        if observer.is_full:
            break
    samples = {name: sample_TI for group in observer.groups for sample_TI in [group.sample_TI] for name in group.names}
    check_reached(linears, samples)
    return samples
