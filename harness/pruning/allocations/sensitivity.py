"""Sensitivity: as many zeros as a layer bears alone.  The scan of satabios/sconce, https://github.com/satabios/sconce

One layer at a time is pruned by the job's method, all others dense, at 95 %, 90 %, ... 10 %; the first sparsity whose
loss on held-out data is within a tolerance of the dense model's is what the layer bears (0 if none is).  Then layers
are brought to the requested total: where they bear more than was asked for, every sparsity is scaled down; where they
bear less, every density is.  (The published mode has no request: its layers keep what they bear.  It also takes a gain
in accuracy beyond the tolerance for a loss, and where nothing is tolerated the sparsity of the best accuracy.)

What layers bear does not depend on the request: jobs of a sweep that differ in the sparsity share one scan.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from harness.data.corpora.base import CORPORA
from harness.job import Count, NotNegative
from harness.patterns import Pattern, Unstructured
from harness.pruning.allocations.base import ALLOCATIONS, Allocation
from harness.pruning.numerics.budget import meet_total, weighted_mean

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from harness.calibration.statistics import Statistics
    from harness.job import CalibrationSpec
    from harness.pruning.dense_analysis import DenseAnalysis

SCANNED_PERCENT: tuple[int, ...] = (0, *range(10, 100, 5))
"""What a layer may bear; 0 is not measured."""
MOST_TRIALS = len(SCANNED_PERCENT) - 1
"""Of a layer, one after the other; halving what is left takes as many as the number has bits."""
LONG_FLOP = 1e14
"""Operations that are worth a warning."""


@ALLOCATIONS.register("sensitivity")
@dataclass(frozen=True, slots=True)
class Sensitivity(Allocation):
    """Layerwise sparsities from a scan: a layer is measured up to 18 times (`scan`) or 5 times (`bisect`).

    Args:
        tolerance: how much more loss is tolerated, >= 0: in nats a token for language models (0.012 is about 1.2 % of
            perplexity), as a fraction of the images for classifiers (published: 1.2 points of accuracy).
        search: `scan` tries from 95 % down, as published; `bisect` finds the same where a layer's loss rises with its
            sparsity.
        held_out: sequences that share nothing with those of the calibration and that a language model is measured on,
            >= 1, fewer where an array has none left; a classifier is measured on all images that calibration leaves.
    """

    tolerance: NotNegative = 0.012
    search: Literal["scan", "bisect"] = "scan"
    held_out: Count = 16
    measures_trials = True

    def warning(
        self, shapes: Mapping[str, tuple[int, int]], device: torch.device, calibration: CalibrationSpec
    ) -> str | None:
        from harness.pruning.numerics.speed import seconds_per_flop

        if CORPORA.get(calibration.corpus).reads == "images":
            return None
        trials = len(shapes) * (MOST_TRIALS if self.search == "scan" else MOST_TRIALS.bit_length())
        flop = trials * self.held_out * calibration.seq_len * sum(math.prod(shape) for shape in shapes.values())
        if flop < LONG_FLOP:
            return None
        return (
            f"allocation=sensitivity measures this model up to {trials} times on {self.held_out} sequences, from the "
            f"changed block on: at most {flop * seconds_per_flop(device) / 3600:.1f} hours on {device.type}, from a "
            "short trial, once for all sparsities of a sweep; allocation.search=bisect and a smaller "
            "allocation.held_out take less"
        )

    def spread(self, analysis: DenseAnalysis) -> dict[str, Pattern]:
        tolerated = analysis.cached((self, analysis.method), lambda: self._tolerated(analysis))
        wanted = scaled(tolerated, analysis.shapes, analysis.pattern.sparsity)
        return dict(meet_total(wanted, analysis.shapes, analysis.pattern.sparsity))

    def _tolerated(self, analysis: DenseAnalysis) -> dict[str, float]:
        """The sparsity that each layer bears alone."""
        trial_loss = analysis.trials(self.held_out)
        most = trial_loss({}) + self.tolerance
        if not math.isfinite(most):
            raise ArithmeticError("the loss of the dense model on held-out text is not finite: nothing to compare with")

        def bears(name: str, weight_OI: Tensor, statistics: Statistics, percent: int) -> bool:
            trial_OI = analysis.method.prune(weight_OI, statistics, Unstructured(percent / 100)).weight_OI
            return trial_loss({name: trial_OI}) <= most

        tolerated = {}
        for block in analysis.observed_blocks(analysis.method.needs):
            for name, weight_OI in block.weights.items():
                statistics = block.statistics[name]
                if statistics.cache is None:
                    statistics.cache = {}  # a method that traces does so once for all these sparsities
                tolerated[name] = self._most(partial(bears, name, weight_OI, statistics)) / 100
        return tolerated

    def _most(self, bears: Callable[[int], bool]) -> int:
        """The per cent that a layer bears."""
        if self.search == "scan":
            return next((percent for percent in reversed(SCANNED_PERCENT[1:]) if bears(percent)), 0)
        place: int = bisect_left(SCANNED_PERCENT[1:], True, key=lambda percent: not bears(percent))
        return SCANNED_PERCENT[place]


def scaled(tolerated: Mapping[str, float], shapes: Mapping[str, tuple[int, int]], total: float) -> dict[str, float]:
    """Sparsities in the order of `tolerated` whose mean over all weights is `total`; none leaves 0 to 1."""
    mean = weighted_mean(tolerated.values(), [math.prod(shapes[name]) for name in tolerated])
    if mean >= total:
        return {name: sparsity * total / mean for name, sparsity in tolerated.items()}
    return {name: 1.0 - (1.0 - sparsity) * (1.0 - total) / (1.0 - mean) for name, sparsity in tolerated.items()}
