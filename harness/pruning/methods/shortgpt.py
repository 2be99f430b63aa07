"""ShortGPT: remove the blocks that change their input least.  Men et al. 2024, https://arxiv.org/abs/2403.03853

The influence of a block is BI = 1 - mean over tokens of cos(x, y) of its input x and output y in the dense model; those
of the lowest go.  Other than https://github.com/icip-cas/ShortGPT: the last block is judged by its own output, before
the model's final normalisation (the published code takes the state behind it, which changes the order).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.pruning.methods.base import METHODS
from harness.pruning.methods.whole_model import DepthMethod

if TYPE_CHECKING:
    from torch import Tensor

    from harness.pruning.context import PruningContext


@METHODS.register("shortgpt")
@dataclass(frozen=True, slots=True)
class ShortGPT(DepthMethod):
    """Keeps the blocks whose output points elsewhere than their input."""

    def removals(self, context: PruningContext, count: int) -> tuple[list[int], list[str]]:
        from harness.pruning.shares import least_first

        influence_N = block_influence(context)
        scores = ", ".join(f"{value:.4g}" for value in influence_N.tolist())
        return least_first(influence_N)[:count].tolist(), [f"influence of the dense model's blocks: {scores}"]


def block_influence(context: PruningContext) -> Tensor:
    """1 - mean cosine of input and output [N] of every dense block over the calibration tokens, float64."""
    import torch
    from torch.nn import functional

    from harness.blocks.runner import BlockRunner, in_batches

    with context.clock("calibrate"), torch.no_grad():
        batches = in_batches(context.tokens_BL, context.batch_tokens)
        runner = BlockRunner(context.model, batches, context.offloading, context.device)
        context.reporter.start("prune: influence of blocks", len(runner.blocks))
        found = []
        for step in runner.rest():
            total, tokens = 0.0, 0
            for input_BLH, output_BLH in step.outputs():
                cosine_BL = functional.cosine_similarity(input_BLH.float(), output_BLH.float(), dim=-1)
                total += float((1.0 - cosine_BL).double().sum())
                tokens += cosine_BL.numel()
            found.append(total / tokens)
            context.reporter.advance()
    return torch.tensor(found, dtype=torch.float64)
