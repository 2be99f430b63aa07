"""The walk: calibrate a block, prune it, hand its outputs to the next.

Only one block and the calibration activations need the accelerator; the rest of the model stays where it is.
Layers inside a block see the dense block's activations, but the block's input comes from the pruned prefix
(`propagation=pruned`, as Wanda and SparseGPT do) or from the dense model (`dense`, as OBC does).
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Hashable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from harness.blocks.changes import ModelChange
from harness.blocks.inputs import InputGroup, check_reached
from harness.blocks.layers import (
    PrunableLinear,
    decoder_blocks,
    prunable_linears,
    prunable_shapes,
    unpruned_weights,
    weight_view,
)
from harness.blocks.offload import InMemory, Offloading
from harness.blocks.probe import Probe, Probes
from harness.blocks.runner import BlockRunner, BlockStep, in_batches
from harness.calibration.statistics import Statistic
from harness.job import Propagation
from harness.patterns import Pattern, SemiStructured
from harness.progress import Reporter
from harness.pruning.context import PruningContext, PruningOutcome
from harness.pruning.dense_analysis import BlockTurn, DenseAnalysis, statistics_by_path
from harness.pruning.numerics.permutation import absorb
from harness.pruning.numerics.ranking import PrunableWeights
from harness.record import ERROR_TOKENS, JsonValue, LayerReport

if TYPE_CHECKING:  # methods reach this module through their kind
    from harness.pruning.allocations.base import Allocation
    from harness.pruning.methods.base import LayerwiseMethod, StructuredMethod


PruneBlock = Callable[
    [nn.Module, Sequence[InputGroup], Any, str, Mapping[str, Pattern], Probe | None],
    tuple[dict[str, LayerReport], ModelChange],
]
"""Prunes or cuts the linears of a block from what was observed; reports by path in the block, and the change of it."""


@dataclass(frozen=True, slots=True)
class Walk:
    """How the blocks are walked.

    Args:
        patterns: pattern of every prunable linear, by its path in the model.
        propagation: where the inputs of the next block come from.
        device: where a block is computed.
        batch_tokens: most tokens in one forward pass, >= 1; at least one sequence is run at a time.
        allocation: refines the patterns when a block's turn has come; None = they stand.
        keep: gives what was observed under a key by an earlier job with these calibration sequences on the dense
            model, or observes and keeps it for later ones; None = nothing is kept.
        findings: what methods found from the statistics of every input, by the path of the input's first linear; of
            an earlier walk only if all statistics come out equal; None = nothing is kept.
        prune_one: prunes a block; None = its weights become zero, those of one input together.
    """

    patterns: Mapping[str, Pattern]
    propagation: Propagation
    device: torch.device
    batch_tokens: int
    allocation: Allocation | None = None
    keep: Callable[[Hashable, Callable[[], list[InputGroup]]], list[InputGroup]] | None = None
    findings: MutableMapping[str, dict[Hashable, Any]] | None = None
    prune_one: PruneBlock | None = None

    @property
    def refines(self) -> bool:
        return self.allocation is not None and self.allocation.refines

    def needs(self, method: LayerwiseMethod | StructuredMethod) -> tuple[type[Statistic], ...]:
        """The statistics that the method or the allocation reads, each once."""
        allocation = self.allocation.needs if self.allocation is not None and self.refines else ()
        return tuple(dict.fromkeys((*method.needs, *allocation)))


def check_patterns(patterns: Mapping[str, Pattern], shapes: Mapping[str, tuple[int, int]]) -> None:
    """Raise `UserError` when a layer cannot take its pattern."""
    for name, pattern in patterns.items():
        if isinstance(pattern, SemiStructured):
            pattern.check_width(shapes[name][1], name)


def unpruned_note(model: nn.Module) -> str | None:
    """What layerwise methods do not reach in this model, to be said before the job starts."""
    prefix, blocks = decoder_blocks(model)
    missed = [
        (f"{prefix}.{index}.{name}", math.prod(shape))
        for index, block in enumerate(blocks)
        for name, shape in unpruned_weights(block)
    ]
    if not missed:
        return None
    weights = sum(size for _, size in missed)
    return f"not pruned, being no linear layers: {len(missed)} tensors of {weights:,} weights, first {missed[0][0]}"


def prune_layers(method: LayerwiseMethod, context: PruningContext) -> PruningOutcome:
    """Spread the sparsity over the layers, then prune block by block."""
    with context.clock("prune"):
        weights = PrunableWeights(context.model, context.offloading)
        patterns: Mapping[str, Pattern] | None = method.spread(weights, context.pattern)
    shapes = prunable_shapes(context.model)
    if patterns is None and context.allocation is not None:
        with context.clock("allocate"):
            patterns = context.allocation.spread(_dense_model(method, context))
    patterns = patterns or dict.fromkeys(shapes, context.pattern)
    check_patterns(patterns, shapes)
    walk = Walk(
        patterns,
        context.propagation,
        context.device,
        context.batch_tokens,
        context.allocation,
        context.cache if context.caches_statistics else None,
        _findings(context),
    )
    return prune_model(context.model, method, context.tokens_BL, walk, context.reporter, context.offloading)


def _dense_model(method: LayerwiseMethod, context: PruningContext) -> DenseAnalysis:
    """What an allocation may look at."""
    return DenseAnalysis(
        context.model,
        method,
        context.pattern,
        context.tokens_BL,
        context.device,
        context.batch_tokens,
        context.offloading,
        context.reporter,
        context.held_out,
        lambda key, find: context.cache((context.device, context.batch_tokens, key), find),
    )


def _findings(context: PruningContext) -> MutableMapping[str, dict[Hashable, Any]] | None:
    """What methods found from the dense model's statistics in earlier jobs with this calibration."""
    if context.propagation != "dense" or not context.caches_statistics:
        return None
    # Batches and the device decide the rounding, and with it the last bits of what is found; an allocation that refines
    # sees one sequence at a time.
    refines = context.allocation is not None and context.allocation.refines
    batch_tokens = 1 if refines else context.batch_tokens
    empty: MutableMapping[str, dict[Hashable, Any]] = {}
    return context.cache(("findings", batch_tokens, context.device), lambda: empty)


@torch.no_grad()
def prune_model(
    model: nn.Module,
    method: LayerwiseMethod | StructuredMethod,
    tokens_BL: Tensor,
    walk: Walk,
    reporter: Reporter,
    offloading: Offloading | None = None,
) -> PruningOutcome:
    """Prune every linear of every decoder block of `model`, in place, one block after the other.

    Args:
        tokens_BL: calibration token ids, all of one length.
        offloading: gives out the blocks of `model`; None = they are in memory.

    Raises:
        UserError: a layer that no calibration token reaches.
    """
    offloading = offloading or InMemory(model)
    outcome = PruningOutcome()
    # An allocation that refines learns from one sequence at a time.
    batch_tokens = 1 if walk.refines else walk.batch_tokens
    reads_all = walk.needs(method) or walk.refines
    batches = in_batches(tokens_BL if reads_all else _error_sample(tokens_BL), batch_tokens)
    reporter.start("prune: record the model's calls", 1)
    with _timed(outcome, "calibrate_s"):
        runner = BlockRunner(model, batches, offloading, walk.device)
        probes = Probes(model, batches, runner.hidden[0], offloading) if method.tries_changes else None
    prune_one: PruneBlock = walk.prune_one or prune_block
    reporter.start("prune: blocks", len(runner.blocks))
    deficit = 0.0  # zeros that patterns of the blocks so far have too few
    for index in range(len(runner.blocks)):
        with runner.next_block(writes=True) as step:
            probe = probes.of_block(index, step.hidden[0], walk.device) if probes is not None else None
            with _timed(outcome, "calibrate_s"):
                observe = partial(_observe, step, method, walk)
                # Nothing is pruned before the first block: every job on the same sequences finds the same there.
                keep = walk.keep if index == 0 and walk.propagation == "pruned" else None
                key = ("inputs of the first block", walk.needs(method), batch_tokens, walk.device)
                groups = observe() if keep is None else keep(key, observe)
            linears = prunable_linears(step.block)
            statistics = statistics_by_path(groups, step.path)
            check_reached((f"{step.path}.{name}" for name in linears), statistics)
            _share_findings(groups, step.path, walk)
            patterns = {f"{step.path}.{name}": walk.patterns[f"{step.path}.{name}"] for name in linears}
            turn = BlockTurn(step, patterns, statistics, deficit)
            patterns = _refined(turn, walk, outcome)
            deficit += _zeros(turn, turn.patterns) - _zeros(turn, patterns)
            with _timed(outcome, "prune_s"):
                reports, change = prune_one(step.block, groups, method, step.path, patterns, probe)
            outcome.layers += [reports[name] for name in linears]
            outcome.change = outcome.change.then(change.below(step.path))
            if walk.propagation == "pruned" and not step.is_last:
                with _timed(outcome, "calibrate_s"):
                    step.hand_on()
        reporter.advance()
    return outcome


def _observe(step: BlockStep, method: LayerwiseMethod | StructuredMethod, walk: Walk) -> list[InputGroup]:
    """Statistics of the block's inputs.

    With dense propagation the hidden states become the block's outputs on the way, unless the allocation still reads
    them.
    """
    hand_on = walk.propagation == "dense" and not step.is_last and not walk.refines
    return step.observe(walk.needs(method), sample_tokens=ERROR_TOKENS, hand_on=hand_on)


def _share_findings(groups: Sequence[InputGroup], prefix: str, walk: Walk) -> None:
    """Give the statistics what methods found from the same ones in earlier jobs."""
    if walk.findings is not None:
        for group in groups:
            group.statistics.findings = walk.findings.setdefault(f"{prefix}.{group.names[0]}", {})


def _refined(turn: BlockTurn, walk: Walk, outcome: PruningOutcome) -> dict[str, Pattern]:
    """The block's patterns as the allocation wants them, now that it has seen the block's inputs."""
    if walk.allocation is None or not walk.refines:
        return dict(turn.patterns)
    with _timed(outcome, "allocate_s"):
        patterns = dict(walk.allocation.refine(turn))
    if walk.propagation == "dense" and not turn.step.is_last:
        with _timed(outcome, "calibrate_s"):
            turn.step.hand_on()
    return patterns


def _zeros(turn: BlockTurn, patterns: Mapping[str, Pattern]) -> float:
    """How many zeros patterns make in a block."""
    return sum(patterns[name].sparsity * weight_OI.numel() for name, weight_OI in turn.weights.items())


def prune_block(
    block: nn.Module,
    groups: Sequence[InputGroup],
    method: LayerwiseMethod,
    prefix: str,
    patterns: Mapping[str, Pattern],
    probe: Probe | None,
) -> tuple[dict[str, LayerReport], ModelChange]:
    """Prune the linears of a block, those of one input together; reports by path in the block."""
    linears = prunable_linears(block)
    reports: dict[str, LayerReport] = {}
    orders: dict[str, Tensor] = {}
    for group in groups:
        pruned = _prune_group(group, linears, method, prefix, patterns)
        reports |= {name: report for name, (report, _) in pruned.items()}
        orders |= {name: order_I for name, (_, order_I) in pruned.items() if order_I is not None}
    change = ModelChange.of_weights({name: report.shape for name, report in reports.items()})
    if orders:
        assert probe is not None, "a method that permutes has probes"
        said, moved = absorb(block, probe, orders, prefix)
        change = change.then(moved)
        reports |= {name: replace(reports[name], details={**reports[name].details, **said[name]}) for name in orders}
    return reports, change


def _prune_group(
    group: InputGroup,
    linears: Mapping[str, PrunableLinear],
    method: LayerwiseMethod,
    prefix: str,
    patterns: Mapping[str, Pattern],
) -> dict[str, tuple[LayerReport, Tensor | None]]:
    """Prune the linears of one input together; reports and permutations by path in the block."""
    weights = [weight_view(linears[name]) for name in group.names]
    wanted = [patterns[f"{prefix}.{name}"] for name in group.names]
    pruned = method.prune_group(weights, group.statistics, wanted)
    sample_TI = group.sample_TI.float()
    reports = {}
    for name, weight_OI, outcome, pattern in zip(group.names, weights, pruned, wanted, strict=True):
        new_OI = outcome.weight_OI.to(weight_OI.dtype)
        path = f"{prefix}.{name}"
        report = layer_report(path, (weight_OI, new_OI), sample_TI, pattern, outcome.details)
        reports[name] = (report, outcome.permutation_I)
        weight_OI.copy_(new_OI)
    return reports


def layer_report(
    name: str, weights: tuple[Tensor, Tensor], sample_TI: Tensor, pattern: Pattern, details: Mapping[str, JsonValue]
) -> LayerReport:
    """What became of one layer.

    Args:
        weights: before and after, [O, I].
        sample_TI: inputs in float32 that the output error is measured on.
    """
    old_OI, new_OI = weights
    dense_TO = sample_TI @ old_OI.float().T
    error_TO = dense_TO - sample_TI @ new_OI.float().T
    scale = float(dense_TO.norm())
    return LayerReport(
        name=name,
        shape=(new_OI.shape[0], new_OI.shape[1]),
        requested_sparsity=pattern.sparsity,
        achieved_sparsity=float((new_OI == 0).sum()) / new_OI.numel(),
        relative_output_error=float(error_TO.norm()) / scale if scale else None,
        error_tokens=len(sample_TI),
        details=details,
    )


def _error_sample(tokens_BL: Tensor) -> Tensor:
    """The sequences that errors are measured on: all that a method without statistics needs to run."""
    return tokens_BL[: math.ceil(ERROR_TOKENS / tokens_BL.shape[1])]


class _timed:
    """Adds the wall time of its body to a field of the outcome."""

    def __init__(self, outcome: PruningOutcome, name: str) -> None:
        self._outcome, self._name = outcome, name

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        elapsed = time.perf_counter() - self._start
        setattr(self._outcome, self._name, getattr(self._outcome, self._name) + elapsed)


def achieved_sparsity(layers: Sequence[LayerReport], unreached: int = 0) -> float:
    """Zeros, or weights that were cut out, over all weights of the dense blocks' matrices, counted.

    Args:
        unreached: weights of matrices that the method did not reach; they count as kept.
    """
    zeros = sum(report.achieved_sparsity * math.prod(report.shape) for report in layers)
    return zeros / (unreached + sum(math.prod(report.shape) for report in layers))


def weights_fingerprint(model: nn.Module, offloading: Offloading | None = None) -> str:
    """sha256 over the weights of the prunable linears, to recognise them when a job is made again."""
    offloading = offloading or InMemory(model)
    digest = hashlib.sha256()
    for index in range(len(decoder_blocks(model)[1])):
        with offloading.block(index, torch.device("cpu")) as block:
            for linear in prunable_linears(block).values():
                digest.update(linear.weight.data.contiguous().view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"
