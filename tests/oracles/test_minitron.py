"""Minitron beside its formula, one number at a time."""

import math

import pytest
import torch

from harness.calibration.statistics import FeatureActivity, Statistics
from harness.pruning.cutting import Candidates
from harness.pruning.methods.minitron import Minitron


@pytest.mark.parametrize(("unit", "count"), [("channel", 6), ("head", 3)])
def test_activities_are_those_of_the_inputs(unit: str, count: int) -> None:
    """Mean magnitude over the tokens of a sequence, L2 over sequences, L2 over the features of a head."""
    x_BTI = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))
    stats = Statistics([FeatureActivity(6, torch.device("cpu"))])
    stats.update(x_BTI.flatten(0, 1), 4)
    columns_CK = torch.arange(6).view(count, -1)
    candidates = Candidates("head" if unit == "head" else "channel", (torch.ones(count, 6 // count, 2),), columns_CK)
    importance_C = Minitron().importance(candidates, stats)
    for each, columns_K in enumerate(columns_CK.tolist()):
        means = [
            sum(abs(float(x_BTI[row, token, column])) for token in range(5)) / 5
            for column in columns_K
            for row in range(4)
        ]
        assert float(importance_C[each]) == pytest.approx(math.hypot(*means), rel=1e-5)
