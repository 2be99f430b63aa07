"""Pruning a whole model at once: what every global method is given, and the reports of what it did."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from harness.blocks.changes import ModelChange
from harness.blocks.inputs import InputObserver, check_reached
from harness.blocks.layers import PrunableLinear, prunable_layers, weight_view
from harness.models.objective import in_float32
from harness.patterns import Pattern
from harness.pruning.context import ModelContext, PruningContext, PruningOutcome
from harness.pruning.layer_reports import layer_report
from harness.record import ERROR_TOKENS

if TYPE_CHECKING:  # methods reach this module through their kind
    from harness.pruning.methods.base import GlobalMethod


def prune_globally(method: GlobalMethod, context: PruningContext) -> PruningOutcome:
    """Prune the whole model at once."""
    given = ModelContext(
        context.device, context.batch_tokens, context.seed, context.reporter, partial(context.clock, "calibrate")
    )
    with context.clock("prune"):
        return prune_modelwise(context.model, method, context.tokens_BL, context.pattern, given)


def prune_modelwise(
    model: PreTrainedModel, method: GlobalMethod, rows_BL: Tensor, pattern: Pattern, context: ModelContext
) -> PruningOutcome:
    """Prune `model` in place, in float32; it is on the context's device afterwards, in its own types again.

    Output errors are measured as in sequential pruning, on the first calibration tokens that reach a layer, with the
    inputs that it has in the dense model.

    Raises:
        UserError: a layer that no calibration token reaches.
    """
    halves = any(weight.dtype != torch.float32 for weight in model.parameters())
    model.to(context.device)  # type: ignore[arg-type]  # transformers annotates `to` with another signature
    linears = prunable_layers(model)
    with in_float32(model):
        context.reporter.start("prune: inputs of the dense model", 1)
        with context.looks_at_data():
            samples = sample_inputs(model, linears, context.batches(rows_BL))
        dense = {name: weight_view(linear).clone() for name, linear in linears.items()}
        done = method.prune_model(model, rows_BL, pattern, context)
    layers = []
    for name, linear in linears.items():
        weights = dense.pop(name), weight_view(linear)
        layers.append(layer_report(name, weights, samples[name], pattern, done.details.get(name, {})))
    change = ModelChange.of_weights({each.name: each.shape for each in layers}, done.tensors)
    notes = (*done.notes, *(["pruned in float32, since gradients are needed"] if halves else []))
    return PruningOutcome(layers, change, notes)


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
