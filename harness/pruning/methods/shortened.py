"""Shortened LLaMA: take out the blocks of the least importance at once.  Kim et al. 2024, https://arxiv.org/abs/2402.02834

A block counts the loss of the model without it alone (`perplexity`), sum |w g| over the weights of its matrices with g
the gradient of the mean loss of the calibration sequences (`taylor`), or sum |w| (`magnitude`).  As in
https://github.com/Nota-NetsPresso/shortened-llm the first four and the last two of 32 blocks stay, whatever they count
(the "+" of the paper's names).

Other than the published code: its norms count with a block's matrices, ours do not; `perplexity` is measured on
sequences that calibration leaves over.  With nothing protected, `perplexity` is the static schedule of layer skipping.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from harness.errors import UserError
from harness.job import Count
from harness.pruning.methods.base import METHODS
from harness.pruning.methods.whole_model import DepthMethod

if TYPE_CHECKING:
    from harness.patterns import Pattern
    from harness.pruning.context import PruningContext

Part = Annotated[float, Field(ge=0, lt=1)]


@METHODS.register("shortened")
@dataclass(frozen=True, slots=True)
class Shortened(DepthMethod):
    """Keeps the blocks of the largest importance, each judged with all others there.

    Args:
        criterion: what a block counts, see above.
        protect_first: part of the blocks, from the first on, that stay; rounded to whole blocks, 0 <= it < 1.
        protect_last: the same from the last on.
        held_out: sequences that `perplexity` is measured on, >= 1.
    """

    criterion: Literal["perplexity", "taylor", "magnitude"] = "perplexity"
    protect_first: Part = 0.125
    protect_last: Part = 0.0625
    held_out: Count = 10

    @property
    def gradient_moments(self) -> int:
        return int(self.criterion == "taylor")

    def without_effect(self, pattern: Pattern) -> frozenset[str]:
        return frozenset() if self.criterion == "perplexity" else frozenset({"held_out"})

    def removals(self, context: PruningContext, count: int) -> tuple[list[int], list[str]]:
        import torch

        from harness.blocks.layers import decoder_blocks
        from harness.pruning.shares import least_first

        total = len(decoder_blocks(context.model)[1])
        free = range(round(self.protect_first * total), total - round(self.protect_last * total))
        if len(free) < count:
            raise UserError(
                f"method.protect_first={self.protect_first:g} and method.protect_last={self.protect_last:g} leave "
                f"{len(free)} of {total} blocks to take {count} of; allowed: smaller parts, or a smaller sparsity"
            )
        importance = self._of_loss(context, free) if self.criterion == "perplexity" else self._of_weights(context, free)
        order = [free[place] for place in least_first(torch.tensor(importance, dtype=torch.float64))[:count].tolist()]
        said = ", ".join(f"{index}: {value:.4g}" for index, value in zip(free, importance, strict=True))
        return order, [f"{self.criterion} of blocks: {said}"]

    def _of_loss(self, context: PruningContext, free: range) -> list[float]:
        """The loss without each block."""
        from harness.blocks.trial import Skipped

        loss = context.held_out(self.held_out)
        context.reporter.start("prune: loss without each block", len(free))
        found = []
        with context.clock("prune"):
            for index in free:
                found.append(loss({index: Skipped()}))
                context.reporter.advance()
        return found

    def _of_weights(self, context: PruningContext, free: range) -> list[float]:
        from harness.blocks.layers import decoder_blocks, prunable_linears, weight_view
        from harness.pruning.gradients import gradient_moments

        prefix, blocks = decoder_blocks(context.model)
        linears = {index: prunable_linears(blocks[index]) for index in free}
        weights = {
            index: {f"{prefix}.{index}.{name}": weight_view(linear).float() for name, linear in of_block.items()}
            for index, of_block in linears.items()
        }
        if self.criterion == "taylor":
            names = [name for of_block in weights.values() for name in of_block]
            with context.clock("calibrate"):
                (mean,) = gradient_moments(context, names, 1)
            weights = {
                index: {name: weight_OI.to(mean[name].device) * mean[name] for name, weight_OI in of_block.items()}
                for index, of_block in weights.items()
            }
        return [sum(float(each.abs().sum()) for each in of_block.values()) for of_block in weights.values()]
