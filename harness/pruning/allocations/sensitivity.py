"""Sensitivity: as many zeros as a layer bears alone.  The scan of satabios/sconce, https://github.com/satabios/sconce

One layer at a time is pruned by the job's method, all others dense, at 95 %, 90 %, ... 10 %; the first sparsity whose
loss on held-out data is within a tolerance of the dense model's is what the layer bears (0 if none is).  Then layers
are brought to the requested total: where they bear more than was asked for, every sparsity is scaled down; where they
bear less, every density is.  (The published mode has no request: its layers keep what they bear.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import UserError
from harness.patterns import Pattern, Unstructured
from harness.pruning.allocations.base import Allocation
from harness.pruning.budget import meet_total, weighted_mean
from harness.pruning.registry import register_allocation

if TYPE_CHECKING:
    from torch import Tensor

    from harness.calibration.statistics import Statistics
    from harness.pruning.survey import Survey

SCANNED_PERCENT = range(95, 5, -5)


@register_allocation("sensitivity")
@dataclass(frozen=True, slots=True)
class Sensitivity(Allocation):
    """Layerwise sparsities from a scan; up to 18 measurements of the whole model a layer.

    Args:
        tolerance: how much more loss is borne, >= 0: in nats a token for language models (0.012 is about 1.2 % of
            perplexity), as a fraction of the images for classifiers (published: 1.2 points of accuracy).
    """

    tolerance: float = 0.012

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < math.inf:
            raise UserError(f"allocation.tolerance={self.tolerance:g} is not allowed; allowed: a finite number >= 0")

    def spread(self, survey: Survey) -> dict[str, Pattern]:
        most = survey.trial_loss({}) + self.tolerance
        if not math.isfinite(most):
            raise ArithmeticError("the loss of the dense model on held-out text is not finite: nothing to compare with")
        borne = {
            name: self._borne(survey, name, weight_OI, block.statistics[name], most)
            for block in survey.walk(survey.method.needs)
            for name, weight_OI in block.weights.items()
        }
        wanted = scaled(borne, survey.shapes, survey.pattern.sparsity)
        return dict(meet_total(wanted, survey.shapes, survey.pattern.sparsity))

    def _borne(self, survey: Survey, name: str, weight_OI: Tensor, statistics: Statistics, most: float) -> float:
        if statistics.findings is None:
            statistics.findings = {}  # a method that traces does so once for all these sparsities
        for percent in SCANNED_PERCENT:
            trial_OI = survey.method.prune(weight_OI, statistics, Unstructured(percent / 100)).weight_OI
            if survey.trial_loss({name: trial_OI}) <= most:
                return percent / 100
        return 0.0


def scaled(borne: Mapping[str, float], shapes: Mapping[str, tuple[int, int]], total: float) -> dict[str, float]:
    """Sparsities in the order of `borne` whose mean over all weights is `total`; none leaves 0 to 1."""
    mean = weighted_mean(borne.values(), [math.prod(shapes[name]) for name in borne])
    if mean >= total:
        return {name: sparsity * total / mean for name, sparsity in borne.items()}
    return {name: 1.0 - (1.0 - sparsity) * (1.0 - total) / (1.0 - mean) for name, sparsity in borne.items()}
