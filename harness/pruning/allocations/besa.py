"""BESA: each linear's rate is learned, block by block.  Xu et al. 2024, https://arxiv.org/abs/2402.16880

Before a block is pruned, the rates of all its linears are learned together: masks come from Wanda's ranks, and the
error of the block's output against the dense block pays for a penalty on the mean rate (`numerics.learned_rates`
has the formulas).  The ranks are Wanda's whatever method prunes the block afterwards.

Where we differ from the published code: the penalty only draws the mean rate near the request, so the learned rates are
shifted by one amount until the block's counted zeros are the requested ones.  Logits go through no sigmoid unless asked
for: it keeps every rate from 0.376 to 0.624, so that 70 % cannot be learned.  One rate serves a whole matrix, as in the
published layer-wise variant; rates of single rows are no pattern that methods take.  The error is against the dense
block on the inputs that the pruned prefix makes; the published layer-wise scripts take the dense model's outputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness.calibration.statistics import FeatureNorm
from harness.job import Count, NotNegative, Positive
from harness.patterns import Pattern
from harness.pruning.allocations.base import ALLOCATIONS, Allocation
from harness.pruning.methods.wanda import Wanda
from harness.pruning.numerics.budget import meet_total, weighted_mean

if TYPE_CHECKING:
    from harness.pruning.sequential import ObservedBlock


@ALLOCATIONS.register("besa")
@dataclass(frozen=True, slots=True)
class Besa(Allocation):
    """Blockwise parameter-efficient sparsity allocation (section 3).

    Args:
        penalty: strength of the pull of the mean rate to the request, >= 0 (published: 5 in the scripts, 1 by default).
        smoothing: ``sigmoid``: logits go through one, as published by default; ``none``: they do not.
        epochs: passes over the calibration sequences, >= 1 (published: 1).
        d_coef: of the optimiser Prodigy, > 0: how fast its step grows (published: 0.05 to 50, 5 for 7B and 13B).
    """

    penalty: NotNegative = 5.0
    smoothing: Literal["none", "sigmoid"] = "none"
    epochs: Count = 1
    d_coef: Positive = 5.0
    refines = True
    needs = (FeatureNorm,)

    def refine(self, block: ObservedBlock, patterns: Mapping[str, Pattern], deficit: float) -> Mapping[str, Pattern]:
        from harness.pruning.numerics.learned_rates import LearningPlan, RatedWeight, learn_rates

        wanda, step = Wanda(), block.step
        start = len(step.path) + 1
        weights, statistics = block.weights, block.statistics
        shapes = {name: (weight_OI.shape[0], weight_OI.shape[1]) for name, weight_OI in weights.items()}
        sizes = [math.prod(shape) for shape in shapes.values()]
        target = weighted_mean([patterns[name].sparsity for name in weights], sizes)
        rated = {
            name[start:]: RatedWeight(weight_OI, wanda.score(weight_OI, statistics[name]), rows=1)
            for name, weight_OI in weights.items()
        }
        plan = LearningPlan(target, self.penalty, self.smoothing, self.epochs, d_coef=self.d_coef)
        for _ in learn_rates(step.block, rated, list(zip(step.calls, step.hidden, strict=True)), plan):
            pass
        rates = {name: rated[name[start:]].learned_rate(self.smoothing) for name in weights}
        total = target + deficit / sum(sizes)  # what narrow rows of the blocks before rounded off, or on
        return meet_total(rates, shapes, min(max(total, 0.0), 1.0))
