"""Sequential (block-wise) pruning: calibrate a block, prune it, hand its outputs to the next.

Only one block and the calibration activations need the accelerator; the rest of the model stays where it is.
Layers inside a block see the dense block's activations, but the block's input comes from the pruned prefix
(`propagation=pruned`, as Wanda and SparseGPT do) or from the dense model (`dense`, as OBC does).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.blocks.inputs import InputGroup, check_reached
from harness.blocks.layers import prunable_linears, weight_view
from harness.blocks.probe import Probe, Probes
from harness.blocks.runner import BlockRunner, BlockStep, in_batches
from harness.calibration.statistics import Statistic, Statistics
from harness.errors import UserError
from harness.patterns import Pattern
from harness.pruning.context import PruningContext, PruningOutcome
from harness.record import ERROR_TOKENS

WIDER = {"float16": "dtype=bfloat16 or dtype=float32", "bfloat16": "dtype=float32"}
NONE_WIDER = "other calibration sequences, or a checkpoint that stays finite on them"


@dataclass(frozen=True, slots=True)
class ObservedBlock:
    """A dense block, on the device that computes it, whose inputs were observed.  Valid until the next block.

    Args:
        step: the block, how it is called, and the hidden states in front of it.
        groups: its linears by input, with the statistics of each input.
        probe: runs copies of the block, to try a change on; None where no change is to be tried.
    """

    step: BlockStep
    groups: Sequence[InputGroup]
    probe: Probe | None = None

    @property
    def weights(self) -> dict[str, Tensor]:
        """`weight_OI` of every linear by its path in the model, views of the block's own."""
        linears = prunable_linears(self.step.block)
        return {f"{self.step.path}.{name}": weight_view(linear) for name, linear in linears.items()}

    @property
    def statistics(self) -> dict[str, Statistics]:
        """Of every linear's input by the linear's path in the model; linears with one input share them."""
        return {f"{self.step.path}.{name}": group.statistics for group in self.groups for name in group.names}


def sample_of(group: InputGroup) -> Tensor | None:
    """The kept inputs [T, I] in float32; None of an expert that no token reached."""
    return group.sample_TI.float() if group.sample else None


def observed_block(
    step: BlockStep, groups: Sequence[InputGroup], needs: Sequence[type[Statistic]], probe: Probe | None = None
) -> ObservedBlock:
    """The block with what was observed of its inputs; without `needs` also linears that no token reaches are in groups.

    Raises:
        UserError: a linear that no calibration token reaches, or whose inputs overflowed.
    """
    reached = {name for group in groups for name in group.names}
    idle = [] if needs else [name for name in prunable_linears(step.block) if name not in reached]
    block = ObservedBlock(step, [*groups, *(InputGroup([name], Statistics(())) for name in idle)], probe)
    weights = block.weights
    check_reached(weights, block.statistics)
    for group in groups:
        if not (group.statistics.are_finite and (not group.sample or bool(group.sample_TI.isfinite().all()))):
            name = f"{step.path}.{group.names[0]}"
            dtype = str(weights[name].dtype).removeprefix("torch.")
            raise UserError(
                f"the calibration inputs of {name} overflow {dtype}; allowed: {WIDER.get(dtype, NONE_WIDER)}"
            )
    return block


def dense_blocks(context: PruningContext, needs: Sequence[type[Statistic]], task: str) -> Iterator[ObservedBlock]:
    """Every block of the model with statistics of its linears' inputs, all computed by the dense model.

    One block and one buffer of hidden states are in memory at a time; statistics go with their block, and with
    `offload=disk` its weights go, too.

    Raises:
        UserError: a linear that no calibration token reaches, or whose inputs overflow the model's type.
    """
    tokens_BL = context.tokens_BL if needs else context.tokens_BL[:1]
    batches = in_batches(tokens_BL, context.batch_tokens)
    runner = BlockRunner(context.model, batches, context.offloading, context.device)
    context.reporter.start(task, len(runner.blocks))
    for step in runner.rest():
        yield observed_block(step, step.observe(needs, hand_on=not step.is_last), needs)
        context.reporter.advance()


PruneBlock = Callable[[ObservedBlock, Mapping[str, Pattern]], PruningOutcome]
"""Prunes or cuts the linears of a dense block, given their patterns; all paths are from the model."""


@torch.no_grad()
def prune_sequentially(
    context: PruningContext,
    patterns: Mapping[str, Pattern],
    needs: Sequence[type[Statistic]],
    prune_block: PruneBlock,
    *,
    with_probes: bool = False,
) -> PruningOutcome:
    """Have `prune_block` prune every block of the context's model, in place, one after the other.

    Args:
        patterns: of every prunable linear by path in the model; the context's allocation may refine them.
        needs: the statistics of linears' inputs that `prune_block` reads.
        with_probes: give `prune_block` probes of the blocks.

    Raises:
        UserError: a layer that no calibration token reaches, though data are needed, or whose inputs overflow its type.
    """
    refining, clock, outcome = context.refining_allocation, context.clock, PruningOutcome()
    needs = tuple(dict.fromkeys((*needs, *(refining.needs if refining is not None else ()))))
    tokens_BL = context.tokens_BL if needs or refining is not None else _error_sample(context.tokens_BL)
    batches = in_batches(tokens_BL, context.observed_tokens)
    context.reporter.start("prune: record the model's calls", 1)
    with clock("calibrate"):
        runner = BlockRunner(context.model, batches, context.offloading, context.device)
        probes = Probes(runner) if with_probes else None
    context.reporter.start("prune: blocks", len(runner.blocks))
    deficit = 0.0  # zeros that patterns of the blocks so far have too few
    for _ in runner.blocks:
        with runner.next_block(writes=True) as step:
            with clock("calibrate"):
                probe = probes.of(step) if probes is not None else None
                block = observed_block(step, _observed(context, step, needs), needs, probe)
            sizes = {name: weight_OI.numel() for name, weight_OI in block.weights.items()}
            wanted = {name: patterns[name] for name in sizes}
            given = _refined(context, block, wanted, deficit)
            deficit += _zeros(wanted, sizes) - _zeros(given, sizes)
            with clock("prune"):
                outcome = outcome.then(prune_block(block, given))
            if context.propagation == "pruned" and not step.is_last:
                with clock("calibrate"):
                    step.hand_on()
        context.reporter.advance()
    return outcome


def _observed(context: PruningContext, step: BlockStep, needs: tuple[type[Statistic], ...]) -> list[InputGroup]:
    """Statistics of the block's inputs; with dense propagation its outputs take the place of its inputs on the way.

    Not while an allocation still reads the inputs.
    """
    hand_on = context.propagation == "dense" and not step.is_last and context.refining_allocation is None

    def observe() -> list[InputGroup]:
        return step.observe(needs, sample_tokens=ERROR_TOKENS, hand_on=hand_on)

    if not context.caches_statistics:
        return observe()
    # The device and the batches decide the rounding, and with it the last bits of statistics and what is found in them.
    made_by = context.observed_tokens, context.device
    if context.propagation == "dense":
        groups = observe()
        for group in groups:
            group.statistics.cache = context.cache(("from inputs of", step.path, *group.names, *made_by), dict)
        return groups
    if step.index == 0:  # nothing is pruned before it: every job on the same sequences finds the same there
        return context.cache(("inputs of the first block", needs, *made_by), observe)
    return observe()


def _refined(
    context: PruningContext, block: ObservedBlock, wanted: Mapping[str, Pattern], deficit: float
) -> Mapping[str, Pattern]:
    """The block's patterns as the allocation wants them, now that it has seen the block's inputs."""
    allocation = context.refining_allocation
    if allocation is None:
        return wanted
    with context.clock("allocate"):
        patterns = allocation.refine(block, wanted, deficit)
    if context.propagation == "dense" and not block.step.is_last:
        with context.clock("calibrate"):
            block.step.hand_on()
    return patterns


def _zeros(patterns: Mapping[str, Pattern], sizes: Mapping[str, int]) -> float:
    """How many zeros patterns make in a block."""
    return sum(patterns[name].sparsity * size for name, size in sizes.items())


def _error_sample(tokens_BL: Tensor) -> Tensor:
    """The sequences that errors are measured on: all that a method without statistics needs to run."""
    return tokens_BL[: math.ceil(ERROR_TOKENS / tokens_BL.shape[1])]
