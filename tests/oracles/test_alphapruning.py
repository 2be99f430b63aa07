"""AlphaPruning's exponents and sparsities against loops over plain numbers."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.pruning.allocations.alphapruning import AlphaPruning, proportional


def slow_alpha(weight: np.ndarray) -> float:
    """From the eigenvalues of W W^T, every candidate with its own loops."""
    values = sorted(max(float(value), 0.0) for value in np.linalg.eigvalsh(weight @ weight.T))
    low, width = math.log10(values[0]), (math.log10(values[-1]) - math.log10(values[0])) / 100
    places = [min(int((math.log10(value) - low) / width), 99) for value in values]
    fullest = max(range(100), key=lambda place: (places.count(place), -place))
    most = 1.5 * 10 ** (low + fullest * width)
    best = (math.inf, math.nan)
    for start, smallest in enumerate(values[:-1]):
        if smallest > most:
            break
        tail = values[start:]
        alpha = 1 + len(tail) / sum(math.log(value / smallest) for value in tail)
        distances = [abs(1 - (value / smallest) ** (1 - alpha) - index / len(tail)) for index, value in enumerate(tail)]
        best = min(best, (max(distances), alpha))
    return best[1]


@pytest.mark.parametrize("seed", range(4))
def test_exponents(seed: int) -> None:
    """A light and a heavy tail, wide and tall; the heavier tail has the smaller exponent."""
    generator = np.random.default_rng(seed)
    light = generator.normal(size=(40, 200))
    heavy = light * np.exp(2 * generator.normal(size=(40, 1)))
    found = []
    for weight in (light, heavy):
        expected = slow_alpha(weight)
        for oriented in (weight, weight.T):
            alpha = AlphaPruning().alpha(torch.from_numpy(oriented.astype(np.float32)))
            assert alpha == pytest.approx(expected, rel=1e-3)
        found.append(expected)
    assert found[1] < found[0]


def test_values_of_a_power_law_give_its_exponent() -> None:
    """Squared singular values drawn from p(x) ~ x^-3 above 1: alpha is 3 but for the error of a thousand draws."""
    draws = 1.0 / torch.rand(1000, generator=torch.Generator().manual_seed(1), dtype=torch.float64).sqrt()
    assert AlphaPruning().alpha(draws.sqrt().diag()) == pytest.approx(3.0, abs=0.25)


def test_a_weight_without_a_tail_fails_loudly() -> None:
    """All values alike, or none: there is no exponent that could be made up."""
    for weight_OI in (torch.eye(8), torch.zeros(8, 8)):
        with pytest.raises(ArithmeticError, match="no tail to fit"):
            AlphaPruning().alpha(weight_OI)


@given(
    alphas=st.lists(st.floats(1.1, 8.0), min_size=2, max_size=8),
    sizes=st.lists(st.integers(1, 1000), min_size=8, max_size=8),
    sparsity=st.floats(0.05, 0.7),
    epsilon=st.floats(0.0, 0.4),
)
def test_sparsities(alphas: list[float], sizes: list[int], sparsity: float, epsilon: float) -> None:
    """The mean over weights is the request, larger exponents get more, and the extremes are as (1 - e) : (1 + e)."""
    sizes = sizes[: len(alphas)]
    found = proportional(alphas, sizes, sparsity, epsilon)
    assert sum(value * size for value, size in zip(found, sizes, strict=True)) / sum(sizes) == pytest.approx(sparsity)
    order = sorted(range(len(alphas)), key=alphas.__getitem__)
    assert all(found[one] <= found[other] + 1e-12 for one, other in pairwise(order))
    if min(alphas) < max(alphas):
        assert min(found) * (1 + epsilon) == pytest.approx(max(found) * (1 - epsilon))
