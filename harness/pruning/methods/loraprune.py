"""LoRAPrune: train adapters, and let their gradients say what goes on the way.  Zhang et al. 2024

https://arxiv.org/abs/2305.18403.  Every linear W of the blocks gets B A of rank r, of which alone there are gradients.
At every step the gradient of W is estimated as G = dB A + B dA - dB dA, and a weight counts
S = |G (W + alpha / r B A)|; summed over the rows that make a channel or head and the columns that read it, divided by
the layer's L2 norm over all of them, and added over the layers, it enters a running mean, I = 0.9 I + 0.1 S.  Every
tenth step those of the lowest I are switched off for good, of a block so many as the cubic schedule from 10 % to 90 %
of the steps has come to.  At the end B A is added to W, and what is switched off is cut out.

As https://github.com/aim-uofa/LoRAPrune at 4da5272 computes it (AdamW, a linearly falling rate, gradients clipped to
norm 1, the first tenth of the blocks and the last one left whole), but for: what is trained on are the calibration
sequences, and 780 steps stand for its two epochs of 50,000 texts; all in float32, so that G has no scale of mixed
precision; no dropout; the last step meets the share, where the published code rounds down just below it (15 of 32
heads at 50 %); grouped queries go with the key and value that they share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from harness.job import Count, Positive
from harness.pruning.methods.base import METHODS
from harness.pruning.methods.llm_pruner import Part, losses_between
from harness.pruning.methods.structured import StructuredMethod

if TYPE_CHECKING:
    from torch import Tensor

    from harness.calibration.statistics import Statistics
    from harness.pruning.context import PruningContext
    from harness.pruning.cutting import Adapted, Candidates
    from harness.pruning.shares import Cuttable


@METHODS.register("loraprune")
@dataclass(frozen=True, slots=True)
class LoraPrune(StructuredMethod):
    """Keeps the channels and heads of the largest running mean of |estimated gradient * weight| in training.

    Args:
        steps: optimiser steps, >= 1.
        batch: sequences a step, >= 1; all, where there are not so many.
        learning_rate: at the first step, > 0; it falls to 0 linearly.
        rank: of the adapters, >= 1.
        alpha: their product counts alpha / rank times, >= 1.
        every: steps from one switching off to the next, >= 1.
        protect_first: part of the blocks, from the first on, that lose nothing; rounded to whole blocks, 0 <= it < 1.
        protect_last: the same from the last on.
    """

    steps: Count = 780
    batch: Count = 128
    learning_rate: Positive = 1e-4
    rank: Count = 8
    alpha: Count = 16
    every: Annotated[int, Field(ge=1)] = 10
    protect_first: Part = 0.1
    protect_last: Part = 0.03125
    propagation = "dense"
    updates_weights = True
    uses_gradients = True
    needs_whole_model = True
    complexity = "training"
    passes = None

    def losses(self, context: PruningContext, num_blocks: int) -> Sequence[float]:
        return losses_between(self.protect_first, self.protect_last, num_blocks)

    def importance(self, candidates: Candidates, stats: Statistics) -> Tensor:
        raise AssertionError("importances are found in training, of all blocks together")

    def adapt(
        self, context: PruningContext, found: Sequence[Sequence[Cuttable]], counts: Sequence[Sequence[int]]
    ) -> Adapted:
        from harness.pruning.adapters import trained_importances

        return trained_importances(self, context, found, counts)
