"""What decides a job's weights: the patterns of its layers, and the walk over the model."""

import time
from collections.abc import Hashable, MutableMapping
from typing import Any

import torch
from torch import Tensor

from harness.blocks.layers import prunable_shapes
from harness.config.request import JobRequest
from harness.jobs.calibrate import drawn_with, held_out_loss, kept_calibration
from harness.models.loading import (
    LoadedModel,
    resolve_device,
)
from harness.progress import Clock, Reporter
from harness.pruning.allocations.base import ALLOCATIONS, UNIFORM
from harness.pruning.dense_analysis import Survey
from harness.pruning.global_pruning import prune_modelwise
from harness.pruning.layerwise import (
    PruningOutcome,
    Walk,
    check_patterns,
    prune_model,
)
from harness.pruning.methods.base import METHODS, LayerwiseMethod, ModelContext, ModelwiseMethod, StructuredMethod
from harness.pruning.numerics.ranking import PrunableWeights
from harness.pruning.structured import shrink_model


def prune(
    request: JobRequest, loaded: LoadedModel, device: torch.device, clock: Clock, reporter: Reporter
) -> PruningOutcome:
    """Prune the model of a job, in place.

    Raises:
        UserError: a layer cannot take its pattern, or the calibration cannot be had.
    """
    spec = request.spec
    assert spec.pattern is not None, "a job that prunes has a pattern"
    assert spec.calibration is not None, "a job that prunes has calibration"
    method = METHODS.build(spec.method)
    shapes = prunable_shapes(loaded.model)
    check_patterns(dict.fromkeys(shapes, spec.pattern), shapes)
    with clock("calibrate"):
        tokens_BL = kept_calibration(request, loaded)
    batch_tokens = request.options.batch_tokens
    if isinstance(method, ModelwiseMethod):
        context = ModelContext(device, batch_tokens, spec.seed, reporter)
        outcome = prune_modelwise(loaded.model, method, tokens_BL, spec.pattern, context)
    elif isinstance(method, StructuredMethod):
        walk = Walk(dict.fromkeys(shapes, spec.pattern), spec.calibration.propagation, device, batch_tokens)
        outcome = shrink_model(loaded.model, method, tokens_BL, walk, reporter, loaded.residency)
    else:
        assert isinstance(method, LayerwiseMethod), f"{spec.method.name} takes a pattern and is of no known kind"
        walk = _layerwise_walk(request, loaded, method, tokens_BL, clock, reporter)
        outcome = prune_model(loaded.model, method, tokens_BL, walk, reporter, loaded.residency)
        if spec.allocation.name != UNIFORM:
            clock.add("allocate", outcome.allocate_s)
    clock.add("calibrate", outcome.calibrate_s)
    clock.add("prune", outcome.prune_s)
    return outcome


def _layerwise_walk(
    request: JobRequest,
    loaded: LoadedModel,
    method: LayerwiseMethod,
    tokens_BL: Tensor,
    clock: Clock,
    reporter: Reporter,
) -> Walk:
    """Spread the sparsity over the layers, and say how the blocks are walked."""
    spec, options = request.spec, request.options
    assert spec.pattern is not None, "a job that prunes has a pattern"
    assert spec.calibration is not None, "a job that prunes has calibration"
    device, shapes = resolve_device(options.device), prunable_shapes(loaded.model)
    drawn = drawn_with(request)
    allocation = ALLOCATIONS.build(spec.allocation)
    with clock("prune"):
        patterns = method.spread(PrunableWeights(loaded.model, loaded.residency), spec.pattern)
    if patterns is None:
        survey = Survey(
            loaded.model,
            method,
            spec.pattern,
            tokens_BL,
            device,
            options.batch_tokens,
            loaded.residency,
            reporter,
            lambda num_sequences: held_out_loss(request, loaded, device, num_sequences),
            lambda key, find: loaded.cache.of((device, options.batch_tokens, key), find, scope=drawn),
        )
        start = time.perf_counter()
        patterns = allocation.spread(survey)
        if spec.allocation.name != UNIFORM:
            clock.add("allocate", time.perf_counter() - start)
    check_patterns(patterns, shapes)
    # Blocks that are not all in memory leave no room for statistics of other jobs.
    keep = None if options.offload != "none" else lambda key, observe: loaded.cache.of(key, observe, scope=drawn)
    findings = _findings(request, loaded, device)
    return Walk(patterns, spec.calibration.propagation, device, options.batch_tokens, allocation, keep, findings)


def _findings(
    request: JobRequest, loaded: LoadedModel, device: torch.device
) -> MutableMapping[str, dict[Hashable, Any]] | None:
    """What methods found from the dense model's statistics in earlier jobs with this calibration."""
    calibration, options = request.spec.calibration, request.options
    assert calibration is not None, "a job that prunes has calibration"
    if calibration.propagation != "dense" or options.offload != "none":
        return None
    # Batches and the device decide the rounding, and with it the last bits of what is found; an allocation that refines
    # sees one sequence at a time.
    batch_tokens = 1 if ALLOCATIONS.build(request.spec.allocation).refines else options.batch_tokens
    empty: MutableMapping[str, dict[Hashable, Any]] = {}
    return loaded.cache.of(("findings", batch_tokens, device), lambda: empty, scope=drawn_with(request))
