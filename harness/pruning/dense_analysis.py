"""Analysis of the dense model, for allocations: its observed blocks, and the loss with other weights in some layers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from harness.blocks.layers import decoder_blocks, prunable_linears, prunable_shapes, weight_view
from harness.blocks.trial import OtherWeights
from harness.calibration.statistics import Statistic
from harness.patterns import Pattern
from harness.pruning.context import FoundT, PruningContext
from harness.pruning.sequential import ObservedBlock, dense_blocks

if TYPE_CHECKING:  # methods reach this module through their kind
    from harness.pruning.methods.base import LayerwiseMethod


@dataclass(frozen=True, slots=True)
class DenseAnalysis:
    """The dense model and what was asked for.  Nothing is computed before an allocation asks for it.

    Args:
        context: of the pruning to come.
        method: what will prune the layers.
    """

    context: PruningContext
    method: LayerwiseMethod

    @property
    def pattern(self) -> Pattern:
        """What was asked for, of the whole model."""
        return self.context.pattern

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """(out_features, in_features) of every prunable linear by its path in the model, in model order."""
        return prunable_shapes(self.context.model)

    @property
    def blocks(self) -> list[list[str]]:
        """Paths of the prunable linears of every block, in model order."""
        prefix, blocks = decoder_blocks(self.context.model)
        return [[f"{prefix}.{index}.{name}" for name in prunable_linears(block)] for index, block in enumerate(blocks)]

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Path and weight [O, I] of every prunable linear in model order, each there until the next is asked for."""
        for index, names in enumerate(self.blocks):
            with self.context.offloading.block(index, self.context.device) as block:
                yield from zip(names, map(weight_view, prunable_linears(block).values()), strict=True)

    def observed_blocks(self, needs: Sequence[type[Statistic]]) -> Iterator[ObservedBlock]:
        """Every block with statistics of its linears' inputs, all computed by the dense model."""
        return dense_blocks(self.context, needs, "allocate: blocks")

    def cached(self, key: Hashable, find: Callable[[], FoundT]) -> FoundT:
        """What earlier jobs with this calibration found under `key`, or is found now; not of the requested pattern."""
        return self.context.cache((self.context.device, self.context.batch_tokens, key), find)

    def trials(self, num_sequences: int) -> Callable[[Mapping[str, Tensor]], float]:
        """The loss on held-out sequences with other weights in some layers; the model is left dense.

        What it returns takes `weight_OI` by path in the model, on any device; all other layers are dense.  Trials that
        change one block after the other, from the first on, are the fastest.

        Args:
            num_sequences: most held-out sequences that a language model is measured on, >= 1.
        """
        prefix = decoder_blocks(self.context.model)[0]
        loss = self.context.held_out(num_sequences)

        def trial_loss(weights: Mapping[str, Tensor]) -> float:
            changed: defaultdict[int, dict[str, Tensor]] = defaultdict(dict)
            for name, weight_OI in weights.items():
                index, _, path = name.removeprefix(f"{prefix}.").partition(".")
                changed[int(index)][path] = weight_OI
            return loss({index: OtherWeights(in_block) for index, in_block in changed.items()})

        return trial_loss
