"""SLEB: remove the block that the model misses least, again and again.  Song et al. 2024, https://arxiv.org/abs/2402.09025

Every remaining block is left out in turn and the model without it is measured by its mean negative log-likelihood on
held-out sequences; the block of the lowest goes, until enough are gone.  As in
https://github.com/jiwonsong-dev/SLEB the first and the last remaining blocks are no candidates.

Other than the published code: the sequences are those that calibration leaves over, of its length, and `held_out` says
how many (the published number counts lines of text, about four windows of 2048 tokens).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from harness.errors import UserError
from harness.job import Count
from harness.pruning.methods.base import METHODS
from harness.pruning.methods.whole_model import DepthMethod

if TYPE_CHECKING:
    from harness.blocks.trial import Edits
    from harness.pruning.context import PruningContext


@METHODS.register("sleb")
@dataclass(frozen=True, slots=True)
class Sleb(DepthMethod):
    """Keeps the blocks without which the loss would be largest, searched greedily.

    Args:
        held_out: sequences that candidates are measured on, >= 1.
        first: remaining blocks at the start that are no candidates, >= 0.
        last: the same at the end.
    """

    held_out: Count = 4
    first: Annotated[int, Field(ge=0)] = 1
    last: Annotated[int, Field(ge=0)] = 1

    def removals(self, context: PruningContext, count: int) -> tuple[list[int], list[str]]:
        from harness.blocks.layers import decoder_blocks
        from harness.blocks.trial import Skipped

        loss = context.held_out(self.held_out)
        alive = list(range(len(decoder_blocks(context.model)[1])))
        gone: Edits = {}
        notes = []
        for number in range(1, count + 1):
            candidates = alive[self.first : len(alive) - self.last]
            if not candidates:
                raise UserError(
                    f"method.first={self.first} and method.last={self.last} leave no block to remove after {len(gone)} "
                    f"of {count}; allowed: fewer"
                )
            context.reporter.start(f"prune: search block {number} of {count}, candidates", len(candidates))
            losses = {}
            with context.clock("prune"):
                for index in candidates:
                    losses[index] = loss({index: Skipped()}, gone)
                    context.reporter.advance()
            best = min(candidates, key=losses.__getitem__)
            alive.remove(best)
            gone = {**gone, best: Skipped()}
            notes.append(f"without block {best} as well the loss is {losses[best]:.4g}")
        return list(gone), notes
