"""PruneMe: take out the run of blocks that turns its input least.  Gromov et al. 2024, https://arxiv.org/abs/2403.17887

For every run of n blocks the angular distance arccos(cos(x, y)) / pi of its input x and output y at the last token of a
sequence in the dense model, averaged over the sequences; the run of the least distance goes.

Other than https://github.com/arcee-ai/PruneMe: a run may begin with the first block (there it never does), and one that
ends with the last block is judged by its own output, before the model's final normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.pruning.methods.base import METHODS
from harness.pruning.methods.whole_model import DepthMethod

if TYPE_CHECKING:
    from torch import Tensor

    from harness.pruning.context import PruningContext


@METHODS.register("pruneme")
@dataclass(frozen=True, slots=True)
class PruneMe(DepthMethod):
    """Takes out blocks that follow one another."""

    def removals(self, context: PruningContext, count: int) -> tuple[list[int], list[str]]:
        from harness.pruning.shares import least_first

        distance_N = angular_distances(context, count)
        start = int(least_first(distance_N)[0])
        said = ", ".join(f"{value:.4g}" for value in distance_N.tolist())
        return list(range(start, start + count)), [f"angular distances over runs of {count} blocks: {said}"]


def angular_distances(context: PruningContext, count: int) -> Tensor:
    """Of the input and the output of every run of `count` blocks of the dense model, as a part of pi, in float64."""
    import torch
    from torch.nn import functional

    from harness.blocks.runner import BlockRunner, in_batches

    with context.clock("calibrate"), torch.no_grad():
        batches = in_batches(context.tokens_BL, context.batch_tokens)
        runner = BlockRunner(context.model, batches, context.offloading, context.device)
        context.reporter.start("prune: angles between blocks", len(runner.blocks))
        states = [torch.cat([hidden_BLH[:, -1].double().cpu() for hidden_BLH in runner.hidden])]
        for step in runner.rest():
            step.hand_on()
            states.append(torch.cat([hidden_BLH[:, -1].double().cpu() for hidden_BLH in runner.hidden]))
            context.reporter.advance()
    pairs = zip(states, states[count:], strict=False)
    cosines = [functional.cosine_similarity(before_BH, after_BH, dim=-1).clamp(-1, 1) for before_BH, after_BH in pairs]
    return torch.stack([cosine_B.arccos().mean() / torch.pi for cosine_B in cosines])
