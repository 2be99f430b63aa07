"""What allocations may look at: the dense model block by block, trials of pruned weights, and a block at its turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from harness.blocks.inputs import InputGroup, check_reached
from harness.blocks.layers import decoder_blocks, prunable_linears, prunable_shapes, weight_view
from harness.blocks.offload import Offloading
from harness.blocks.runner import BlockRunner, BlockStep, in_batches
from harness.calibration.statistics import Statistic, Statistics
from harness.patterns import Pattern
from harness.progress import Reporter
from harness.pruning.context import Cache, HeldOutLoss

if TYPE_CHECKING:  # methods reach this module through the walk
    from harness.pruning.methods.base import LayerwiseMethod


@dataclass(frozen=True, slots=True)
class DenseBlock:
    """One dense block of an analysis's walk.  Valid until the walk goes on: with `offload=disk` its weights go then.

    Args:
        index: of the block.
        weights: `weight_OI` of every linear by its path in the model, views not to be written to.
        statistics: of every linear's input, by the linear's path; linears with one input share them.
    """

    index: int
    weights: Mapping[str, Tensor]
    statistics: Mapping[str, Statistics]


@dataclass(frozen=True, slots=True)
class BlockTurn:
    """A block whose turn has come in the pruning walk: still dense, and what comes in is what will come in.

    Args:
        step: the block, on the device that computes it, and how it is called with one sequence at a time.
        patterns: of its linears by path in the model, as `Allocation.spread` gave them.
        statistics: of every linear's input by path in the model: those of the method and of the allocation.
        deficit: zeros that the patterns of the blocks before have too few, or below 0 too many.
    """

    step: BlockStep
    patterns: Mapping[str, Pattern]
    statistics: Mapping[str, Statistics]
    deficit: float = 0.0

    @property
    def weights(self) -> dict[str, Tensor]:
        """`weight_OI` of every linear by its path in the model, views not to be written to."""
        linears = prunable_linears(self.step.block)
        return {f"{self.step.path}.{name}": weight_view(linear) for name, linear in linears.items()}


@dataclass(frozen=True, slots=True)
class DenseAnalysis:
    """The dense model and what was asked for.  Nothing is computed before an allocation asks for it.

    Args:
        model: its blocks wherever `offloading` has them.
        method: what will prune the layers.
        pattern: what was asked for, of the whole model.
        tokens_BL: calibration token ids, all of one length.
        device: where a block is computed.
        batch_tokens: most tokens in one forward pass, >= 1; at least one sequence is run at a time.
        held_out: makes what measures trials, on at most that many held-out sequences (a classifier: on all).
        keep: keeps what does not depend on the requested pattern.
    """

    model: nn.Module
    method: LayerwiseMethod
    pattern: Pattern
    tokens_BL: Tensor
    device: torch.device
    batch_tokens: int
    offloading: Offloading
    reporter: Reporter
    held_out: Callable[[int], HeldOutLoss]
    keep: Cache

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """(out_features, in_features) of every prunable linear by its path in the model, in model order."""
        return prunable_shapes(self.model)

    @property
    def blocks(self) -> list[list[str]]:
        """Paths of the prunable linears of every block, in model order."""
        prefix, blocks = decoder_blocks(self.model)
        return [[f"{prefix}.{index}.{name}" for name in prunable_linears(block)] for index, block in enumerate(blocks)]

    def weights(self, index: int) -> dict[str, Tensor]:
        """Copies of `weight_OI` of every linear of the dense block with that index, by path in the model."""
        prefix = decoder_blocks(self.model)[0]
        with self.offloading.block(index, self.device) as block:
            linears = prunable_linears(block)
            return {f"{prefix}.{index}.{name}": weight_view(linear).clone() for name, linear in linears.items()}

    def walk(self, needs: Sequence[type[Statistic]]) -> Iterator[DenseBlock]:
        """Every block with statistics of its linears' inputs, all computed by the dense model.

        One block and one buffer of hidden states are in memory at a time; statistics go with their block.

        Raises:
            UserError: a linear that no calibration token reaches.
        """
        batches = in_batches(self.tokens_BL, self.batch_tokens)
        runner = BlockRunner(self.model, batches, self.offloading, self.device)
        self.reporter.start("allocate: blocks", len(runner.blocks))
        for step in runner.rest():
            groups = step.observe(needs, hand_on=not step.is_last)
            linears, statistics = prunable_linears(step.block), statistics_by_path(groups, step.path)
            weights = {f"{step.path}.{name}": weight_view(linear) for name, linear in linears.items()}
            check_reached(weights, statistics)
            yield DenseBlock(step.index, weights, statistics)
            self.reporter.advance()

    def trials(self, num_sequences: int) -> Callable[[Mapping[str, Tensor]], float]:
        """The loss on held-out sequences with other weights in some layers; the model is left dense.

        What it returns takes `weight_OI` by path in the model, on any device; all other layers are dense.  Trials that
        change one block after the other, from the first on, are the fastest.

        Args:
            num_sequences: most held-out sequences that a language model is measured on, >= 1.
        """
        prefix = decoder_blocks(self.model)[0]
        loss = self.held_out(num_sequences)

        def trial_loss(weights: Mapping[str, Tensor]) -> float:
            changed = (int(name.removeprefix(f"{prefix}.").partition(".")[0]) for name in weights)
            return loss(_Trial(self.model, self.offloading, weights), min(changed, default=0))

        return trial_loss


def statistics_by_path(groups: Sequence[InputGroup], prefix: str) -> dict[str, Statistics]:
    """The statistics of every linear's input by the linear's path in the model."""
    return {f"{prefix}.{name}": group.statistics for group in groups for name in group.names}


class _Trial:
    """A model with other weights in some layers; the layers themselves are never written to."""

    def __init__(self, model: nn.Module, offloading: Offloading, weights: Mapping[str, Tensor]) -> None:
        self._prefix = decoder_blocks(model)[0]
        self._residency = offloading
        self._weights = weights

    @contextmanager
    def block(self, index: int, device: torch.device, *, writes: bool = False) -> Iterator[nn.Module]:
        assert not writes, "a trial is only measured"
        with self._residency.block(index, device) as block:
            dense = []
            for name, linear in prunable_linears(block).items():
                trial_OI = self._weights.get(f"{self._prefix}.{index}.{name}")
                if trial_OI is not None:
                    dense.append((linear, linear.weight.data))
                    linear.weight.data = linear.weight.data.clone()
                    weight_view(linear).copy_(trial_OI)
            try:
                yield block
            finally:
                for linear, old in dense:
                    linear.weight.data = old

    def activations(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return self._residency.activations(shape, dtype)

    def save(self, folder: Path) -> None:
        raise AssertionError("a trial is only measured")
