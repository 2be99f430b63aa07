"""Wanda and magnitude from their papers' sentences, in float64 loops."""

import math

import pytest
import torch
from torch import Tensor

from harness.calibration.statistics import FeatureNorm, Statistics
from harness.patterns import Pattern, SemiStructured, Unstructured
from harness.pruning.methods.magnitude import Magnitude
from harness.pruning.methods.wanda import Wanda
from tests.oracles.test_masks import oracle

OUT, IN = 6, 16
PATTERNS: list[Pattern] = [Unstructured(0.5), Unstructured(0.3), SemiStructured(2, 4), SemiStructured(3, 8)]


@pytest.fixture
def weight_OI() -> Tensor:
    """A small random weight."""
    return torch.randn(OUT, IN, generator=torch.Generator().manual_seed(0))


def wanda_scores(weight_OI: Tensor, sequences: list[Tensor]) -> list[list[float]]:
    """|W_ij| · ||X_j||₂, the norm over all tokens (a common factor, the number of sequences, changes no rank)."""
    norms = [
        math.sqrt(sum(float(x[token, j]) ** 2 for x in sequences for token in range(len(x))) / len(sequences))
        for j in range(weight_OI.shape[1])
    ]
    return [[abs(float(weight)) * norm for weight, norm in zip(row, norms, strict=True)] for row in weight_OI]


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_wanda(weight_OI: Tensor, pattern: Pattern) -> None:
    """Score, mask and weights of one linear: within each row, the smallest |W| · ||X|| go, the others stay as they
    are.
    """
    stream = torch.Generator().manual_seed(1)
    sequences = [torch.randn(9, IN, generator=stream) * torch.linspace(0.1, 4.0, IN) for _ in range(3)]
    norm = FeatureNorm(IN, torch.device("cpu"))
    for x in sequences:
        norm.update(x, 1)
    statistics = Statistics([norm])
    scores = wanda_scores(weight_OI, sequences)
    torch.testing.assert_close(Wanda().score(weight_OI, statistics), torch.tensor(scores), rtol=1e-5, atol=1e-6)
    expected_OI = weight_OI * torch.tensor(oracle(scores, pattern, "row"))
    assert torch.equal(Wanda().prune(weight_OI, statistics, pattern).weight_OI, expected_OI)
    assert not torch.equal(expected_OI, Magnitude("row").prune(weight_OI, statistics, pattern).weight_OI)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize(("granularity", "group"), [("tensor", "matrix"), ("row", "row")])
def test_magnitude(weight_OI: Tensor, pattern: Pattern, granularity: str, group: str) -> None:
    """The smallest |W| of the matrix (or of each row) go."""
    method = Magnitude(granularity)  # type: ignore[arg-type]
    scores = [[abs(float(weight)) for weight in row] for row in weight_OI]
    expected_OI = weight_OI * torch.tensor(oracle(scores, pattern, group))  # type: ignore[arg-type]
    assert torch.equal(method.prune(weight_OI, Statistics([]), pattern).weight_OI, expected_OI)
