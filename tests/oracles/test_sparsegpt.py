"""SparseGPT against optimal brain surgery written out: no Cholesky factor, no lazy updates, float64, one row at a time.

Removing column j of the columns that are left changes the others by -w_j / [A^-1]_jj * A^-1[:, j], where A is the
Hessian of the columns from j on (Hassibi & Stork 1993; Frantar & Alistarh 2023, section 3).  The inverse is computed
anew for every column.
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.calibration.statistics import InputHessian, Statistics
from harness.patterns import Pattern, SemiStructured, Unstructured
from harness.pruning.methods.sparsegpt import SparseGPT
from tests.contexts import hessian_of
from tests.oracles.test_masks import oracle as mask_oracle

OUT, IN = 6, 16
PATTERNS: list[Pattern] = [Unstructured(0.5), Unstructured(0.7), SemiStructured(2, 4), SemiStructured(3, 8)]


def weight(out_features: int = OUT) -> Tensor:
    """A small random weight."""
    return torch.randn(out_features, IN, generator=torch.Generator().manual_seed(0))


def inputs(dead: tuple[int, ...] = ()) -> Tensor:
    """Correlated inputs; the features `dead` are always 0."""
    stream = torch.Generator().manual_seed(1)
    x_TI = torch.randn(60, IN, generator=stream) @ torch.randn(IN, IN, generator=stream)
    x_TI[:, list(dead)] = 0.0
    return x_TI


def statistics_of(x_TI: Tensor) -> Statistics:
    """The Hessian of inputs that are one sequence."""
    hessian = InputHessian(x_TI.shape[1], torch.device("cpu"))
    hessian.update(x_TI, 1)
    return Statistics([hessian])


def of_matrix(hessian: list[list[float]]) -> Statistics:
    """A Hessian that no inputs have."""
    return Statistics([hessian_of(torch.tensor(hessian))])


def oracle(weight_OI: Tensor, x_TI: Tensor, pattern: Pattern, block_size: int, damping: float = 0.01) -> Any:
    """New weights [O, I] in float64."""
    w, x = weight_OI.double().numpy().copy(), x_TI.double().numpy()
    hessian = 2.0 * x.T @ x
    for j in range(IN):
        if hessian[j, j] == 0.0:
            hessian[j, j] = 1.0
            w[:, j] = 0.0
    hessian += damping * np.mean(np.diag(hessian)) * np.eye(IN)
    inverses = [np.linalg.inv(hessian[j:, j:]) for j in range(IN)]
    width = pattern.group if isinstance(pattern, SemiStructured) else block_size
    keep = np.ones((OUT, IN), dtype=bool)
    for j in range(IN):
        if j % width == 0:  # the mask of the next columns, from the weights as they are by now
            span = range(j, min(j + width, IN))
            scores = [[w[row, c] ** 2 / inverses[c][0, 0] for c in span] for row in range(OUT)]
            keep[:, span] = mask_oracle(scores, pattern, "matrix")
        for row in range(OUT):
            if not keep[row, j]:
                w[row, j:] -= w[row, j] / inverses[j][0, 0] * inverses[j][:, 0]
                w[row, j] = 0.0
    return w


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("block_size", [8, 16, 128])
def test_masks_and_weights_are_those_of_optimal_brain_surgery(pattern: Pattern, block_size: int) -> None:
    """The same zeros, and the kept weights agree, with blocks narrower than the layer and wider."""
    expected = oracle(weight(), inputs(), pattern, block_size)
    outcome = SparseGPT(block_size=block_size).prune(weight(), statistics_of(inputs()), pattern)
    np.testing.assert_array_equal(outcome.weight_OI.numpy() == 0, expected == 0)
    np.testing.assert_allclose(outcome.weight_OI.numpy(), expected, rtol=1e-3, atol=1e-4)
    assert outcome.details == {"damping": 0.01, "dead_features": 0}


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_the_update_is_worth_it(pattern: Pattern) -> None:
    """On a layer of some width with correlated inputs, the same zeros cost less with the weights updated."""
    stream = torch.Generator().manual_seed(2)
    x_TI = torch.randn(400, 64, generator=stream) @ (torch.eye(64) + 0.2 * torch.randn(64, 64, generator=stream))
    weight_OI = torch.randn(48, 64, generator=stream)
    new_OI = SparseGPT().prune(weight_OI, statistics_of(x_TI), pattern).weight_OI
    masked_OI = weight_OI * (new_OI != 0)
    wanted_TO = x_TI @ weight_OI.T
    assert (x_TI @ new_OI.T - wanted_TO).norm() < 0.95 * (x_TI @ masked_OI.T - wanted_TO).norm()


@pytest.mark.parametrize("pattern", [SemiStructured(2, 4), SemiStructured(1, 2)], ids=str)
def test_lazy_updates_change_nothing(pattern: Pattern) -> None:
    """N:M masks are chosen group by group, so block sizes of 1 to more than the layer give the same zeros and, within
    rounding, the same weights.
    """
    reference = SparseGPT(block_size=128).prune(weight(), statistics_of(inputs()), pattern).weight_OI
    for block_size in (1, 4, 7, 8, 16):
        other = SparseGPT(block_size=block_size).prune(weight(), statistics_of(inputs()), pattern).weight_OI
        assert torch.equal(other == 0, reference == 0)
        assert float((other - reference).norm() / reference.norm()) <= 1e-5


def test_every_block_of_columns_has_its_exact_share_of_zeros() -> None:
    """Unstructured masks are chosen for each block of columns, over all rows, with exact counts."""
    outcome = SparseGPT(block_size=5).prune(weight(), statistics_of(inputs()), Unstructured(0.5))
    zeros_OI = outcome.weight_OI == 0
    counts = [int(part.sum()) for part in zeros_OI.split(5, dim=1)]
    assert counts == [int(OUT * width * 0.5) for width in (5, 5, 5, 1)]
    assert len(set(zeros_OI.sum(dim=1).tolist())) > 1, "rows compete with each other"


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_dead_features(pattern: Pattern) -> None:
    """Features that are always 0 get zero weights, are counted, and disturb no other column."""
    dead = (2, 7)
    expected = oracle(weight(), inputs(dead), pattern, 128)
    outcome = SparseGPT().prune(weight(), statistics_of(inputs(dead)), pattern)
    assert outcome.details["dead_features"] == 2
    assert not outcome.weight_OI[:, list(dead)].any()
    np.testing.assert_array_equal(outcome.weight_OI.numpy() == 0, expected == 0)
    np.testing.assert_allclose(outcome.weight_OI.numpy(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("off_diagonal", "start", "used"), [(0.5, 0.01, 0.01), (1.05, 0.01, 0.1), (1.5, 0.01, 1.0), (1.5, 0.3, 1.0)]
)
def test_the_ladder_of_dampings(off_diagonal: float, start: float, used: float) -> None:
    """A Hessian that is not positive definite is damped by 0.1, then 1.0 of its mean diagonal; the report says which.

    [[1, r], [r, 1]] has the eigenvalue 1 - r, so that it takes a damping above r - 1.
    """
    statistics = of_matrix([[1.0, off_diagonal], [off_diagonal, 1.0]])
    outcome = SparseGPT(damping=start).prune(torch.tensor([[1.0, 3.0]]), statistics, Unstructured(0.5))
    assert outcome.details["damping"] == used
    # The kept weight makes up for the removed one: w_1 += w_0 H_01 / H_11, with the damped H.
    assert outcome.weight_OI.tolist()[0] == pytest.approx([0.0, 3.0 + off_diagonal / (1.0 + used)], rel=1e-5)


@pytest.mark.parametrize("hessian", [[[1.0, 3.0], [3.0, 1.0]], [[1.0, float("nan")], [float("nan"), 1.0]]])
def test_a_hessian_beyond_the_ladder_fails(hessian: list[list[float]]) -> None:
    """No identity in its place: the layer fails, and the message holds the dampings that were tried."""
    with pytest.raises(ArithmeticError, match=r"\[0\.01, 0\.1, 1\.0\]"):
        SparseGPT().prune(torch.tensor([[1.0, 2.0]]), of_matrix(hessian), Unstructured(0.5))


def test_damping_is_of_the_mean_diagonal() -> None:
    """Scaling all inputs scales the Hessian and its damping alike: the outcome stays."""
    for damping in (0.01, 1.0):
        small = SparseGPT(damping=damping).prune(weight(), statistics_of(inputs()), SemiStructured(2, 4))
        large = SparseGPT(damping=damping).prune(weight(), statistics_of(inputs() * 8.0), SemiStructured(2, 4))
        torch.testing.assert_close(small.weight_OI, large.weight_OI, rtol=1e-4, atol=1e-5)
    expected = oracle(weight(), inputs(), SemiStructured(2, 4), 128, damping=1.0)
    np.testing.assert_allclose(large.weight_OI.numpy(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("block_size", [3, 8, 128])
def test_linears_that_share_a_factorisation_are_pruned_as_if_alone(block_size: int) -> None:
    """q, k and v go through the columns together, but each has its own masks and may have its own pattern."""
    stream = torch.Generator().manual_seed(5)
    weights = [torch.randn(rows, IN, generator=stream) for rows in (6, 2, 4)]
    patterns = [SemiStructured(2, 4), Unstructured(0.6), SemiStructured(4, 8)]
    method, statistics = SparseGPT(block_size=block_size), statistics_of(inputs())
    together = method.prune_group(weights, statistics, patterns)
    for weight_OI, pattern, outcome in zip(weights, patterns, together, strict=True):
        if isinstance(pattern, Unstructured) and block_size < 8:
            continue  # the columns that one mask is chosen over are whole groups of the others
        alone = method.prune_group([weight_OI], statistics, [pattern])[0]
        assert torch.equal(outcome.weight_OI == 0, alone.weight_OI == 0)
        torch.testing.assert_close(outcome.weight_OI, alone.weight_OI, rtol=1e-4, atol=1e-5)


def test_column_blocks_cut_no_group_of_any_pattern() -> None:
    """Groups of 3 and of 4 in one input: blocks are multiples of both."""
    x_TI = torch.randn(60, 24, generator=torch.Generator().manual_seed(0))
    weights = [torch.randn(4, 24, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    patterns = [SemiStructured(2, 4), SemiStructured(1, 3)]
    together = SparseGPT(block_size=8).prune_group(weights, statistics_of(x_TI), patterns)
    for outcome, pattern in zip(together, patterns, strict=True):
        kept = (outcome.weight_OI != 0).reshape(-1, pattern.group).sum(dim=1)
        assert kept.unique().tolist() == [pattern.keep]
