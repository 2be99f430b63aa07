"""Structured pruning: channels and heads are found, scored, chosen, cut out of the layers, and made up for.

What stays is chosen block by block, from the inputs that the block has behind the cut ones before it, or over the whole
model at once, from the dense model's inputs; the method says which.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from harness.blocks.layers import decoder_blocks, prunable_shapes
from harness.blocks.probe import Probe, Probes
from harness.blocks.runner import BlockRunner
from harness.errors import UserError
from harness.patterns import Channels, Pattern, Structured, Unit
from harness.pruning.context import PruningContext, PruningOutcome
from harness.pruning.cutting import Cut, candidates, cut_block
from harness.pruning.gradients import gradient_moments
from harness.pruning.sequential import ObservedBlock, dense_blocks, observed_block, prune_sequentially
from harness.pruning.shares import (
    Cuttable,
    fractions_of_blocks,
    kept_in_block,
    most_important,
    num_kept,
    of_the_cuttable,
)
from harness.surgery.configuration import fields_after
from harness.surgery.declaration import check_declarable, declare, declared_note
from harness.surgery.free import free_dependency_groups

if TYPE_CHECKING:  # methods reach this module through their kind
    from harness.pruning.methods.structured import StructuredMethod


def prune_structured(method: StructuredMethod, context: PruningContext) -> PruningOutcome:
    """Cut the least important channels and heads out, and have the model's configuration say so where it can.

    Layers of which nothing can be cut are left as they are; their reports say that nothing of them was asked for.

    Raises:
        UserError: there is too little to cut, the model is to be saved and its configuration cannot say that it was
            cut, or no calibration token reaches a layer.
    """
    pattern = context.pattern
    assert isinstance(pattern, Channels | Structured), f"a structured method makes no {pattern.label} pattern"
    context.reporter.start("prune: find what can be cut", 1)
    units: tuple[Unit, ...] = method.units if isinstance(pattern, Structured) else ("channel",)
    with context.clock("prune"):
        found, first = find_cuttable(context, units)
        losses = method.losses(context, len(found))
        found = [groups if loss else [] for groups, loss in zip(found, losses, strict=True)]
        counts = _counts(context, found, pattern, losses)
        alike = method.scope == "block" and len(set(losses)) == 1
        fields = _fields(context, found, counts, first) if alike else {}
        if context.saves and not fields:
            check_declarable(context.model, experts_differ=method.scope == "model")
    chosen, outcome = _chosen(method, context, found, counts, units)
    if chosen is not None:
        context = replace(context, propagation="dense")

    def cut(observed: ObservedBlock, _: Mapping[str, Pattern]) -> PruningOutcome:
        index = observed.step.index
        stays = counts[index] if chosen is None else chosen[index]
        return cut_block(
            method, observed, _cuts(method, context, observed, list(zip(found[index], stays, strict=True)))
        )

    patterns: dict[str, Pattern] = dict.fromkeys(prunable_shapes(context.model), pattern)
    outcome = outcome.then(prune_sequentially(context, patterns, method.needs, cut, with_probes=True))
    change = declare(context.model, fields)
    return outcome.then(PruningOutcome(change=change, notes=(declared_note(context.model, change),)))


def find_cuttable(context: PruningContext, units: tuple[Unit, ...]) -> tuple[list[list[Cuttable]], Probe]:
    """What of every block can be cut, and the probe of the first one; the model is left as it is.

    Blocks of the same shapes are taken to have the same dependency groups, so that only the first of them is looked at;
    every cut is proved before it is made.

    Raises:
        UserError: there is nothing to cut.
    """
    found: list[list[Cuttable]] = []
    first: Probe | None = None
    with torch.no_grad():
        runner = BlockRunner(context.model, [context.tokens_BL[:1]], context.offloading, context.device)
        probes = Probes(runner)
        shapes = [{name: tensor.shape for name, tensor in block.state_dict().items()} for block in runner.blocks]
        alike = all(shape == shapes[0] for shape in shapes)
        for step in runner.rest():
            probe = probes.of(step)
            groups = free_dependency_groups(step.block, probe, units)
            found.append([Cuttable.of(step.block, group) for group in groups])
            first = probe if step.index == 0 else first
            if alike:
                break
            step.hand_on()
    if not any(found):
        raise UserError(
            f"{type(context.model).__name__} has no {' and no '.join(f'{unit}s' for unit in units)} to cut out: in no "
            "block do linear layers alone make the inputs of another; allowed: models with feed-forward layers of "
            "plain linears"
        )
    assert first is not None, "a model has blocks"
    return found * len(runner.blocks) if alike else found, first


def _counts(
    context: PruningContext,
    found: Sequence[Sequence[Cuttable]],
    pattern: Channels | Structured,
    losses: Sequence[float],
) -> list[list[int]]:
    """How many of every group of every block stay."""
    if isinstance(pattern, Channels):
        return [[num_kept(each.group.num_channels, pattern.ratio) for each in block] for block in found]
    fractions = fractions_of_blocks(context.model, found, pattern.share, losses)
    return [kept_in_block(block, fraction) for block, fraction in zip(found, fractions, strict=True)]


def _fields(
    context: PruningContext, found: Sequence[Sequence[Cuttable]], counts: Sequence[Sequence[int]], probe: Probe
) -> dict[str, object]:
    """The fields of the configuration that say what is to stay; none where they cannot."""
    cuts = [
        [(each.group, count) for each, count in zip(groups, kept, strict=True)]
        for groups, kept in zip(found, counts, strict=True)
    ]
    try:
        with context.offloading.block(0, context.device) as first:
            return fields_after(context.model, cuts, first, probe)
    except UserError:
        return {}


def _chosen(
    method: StructuredMethod,
    context: PruningContext,
    found: Sequence[Sequence[Cuttable]],
    counts: Sequence[Sequence[int]],
    units: tuple[Unit, ...],
) -> tuple[list[list[Tensor]] | None, PruningOutcome]:
    """Numbers of what stays of every group of every block, and what was done to the model to find them; None where
    every block decides for itself when its turn comes.
    """
    adapted = method.adapt(context, found, counts)
    if adapted is None and method.scope == "block" and not method.uses_gradients:
        return None, PruningOutcome()
    importances = _of_dense_model(method, context, found, units) if adapted is None else adapted.importances
    outcome = PruningOutcome() if adapted is None else adapted.outcome
    if method.scope == "model":
        assert isinstance(context.pattern, Structured), "what competes over the model are parameters"
        fraction = of_the_cuttable(context.model, found, context.pattern.share)
        return method.choose(importances, [[each.size for each in block] for block in found], fraction), outcome
    return [list(map(most_important, *block)) for block in zip(importances, counts, strict=True)], outcome


def _cuts(
    method: StructuredMethod,
    context: PruningContext,
    observed: ObservedBlock,
    stays: Sequence[tuple[Cuttable, Tensor | int]],
) -> Iterator[Cut]:
    """The cuts of one block: all at once, or of its heads and, when these are made, of its channels.

    Args:
        stays: of every dependency group the numbers of what stays, or how many the method is to keep.
    """
    ratio = context.pattern.ratio if isinstance(context.pattern, Channels) else None
    units: tuple[tuple[Unit, ...], ...] = (("channel", "head"),)
    if method.heads_first and context.propagation == "pruned":
        units = (("head",), ("channel",))
    for stage in units:
        if stage == ("channel",):
            with context.clock("calibrate"):
                groups = observed.step.observe(method.needs)
                observed = observed_block(observed.step, groups, method.needs, observed.probe)
        cuts = []
        for each, wanted in stays:
            if each.group.unit in stage:
                stats = observed.statistics[f"{observed.step.path}.{each.group.consumer}"]
                kept_C = method.kept(candidates(observed, each.group), stats, wanted) if type(wanted) is int else wanted
                assert isinstance(kept_C, Tensor), "numbers of what stays"
                requested = 1 - len(kept_C) / each.group.num_channels if ratio is None else ratio
                cuts.append(Cut(each.group, kept_C, requested, stats))
        yield from cuts


def _importance(
    method: StructuredMethod, observed: ObservedBlock, each: Cuttable, gradients: Sequence[Mapping[str, Tensor]]
) -> Tensor:
    """Importance [C] of the channels or heads of one group.

    Args:
        gradients: moments by path in the model.
    """
    path, group = observed.step.path, each.group
    of_block = [{name: moment[f"{path}.{name}"] for name in (*group.producers, group.consumer)} for moment in gradients]
    stats = observed.statistics[f"{path}.{group.consumer}"]
    return method.importance(candidates(observed, group, of_block), stats)


def _of_dense_model(
    method: StructuredMethod, context: PruningContext, found: Sequence[Sequence[Cuttable]], units: tuple[Unit, ...]
) -> list[list[Tensor]]:
    """Importances [C] of every group of every block, from inputs and gradients of the dense model."""

    def find() -> list[list[Tensor]]:
        gradients: Sequence[Mapping[str, Tensor]] = ()
        if method.uses_gradients:
            prefix = decoder_blocks(context.model)[0]
            names = {
                f"{prefix}.{index}.{name}"
                for index, groups in enumerate(found)
                for each in groups
                for name in (*each.group.producers, each.group.consumer)
            }
            gradients = gradient_moments(context, names, method.gradient_moments)
        blocks = dense_blocks(context, method.needs, "prune: score blocks")
        return [
            [_importance(method, observed, each, gradients) for each in groups]
            for observed, groups in zip(blocks, found, strict=True)
        ]

    with context.clock("calibrate"):  # a sweep over sparsities scores once
        return context.cache((method, units, context.device, context.batch_tokens), find)
