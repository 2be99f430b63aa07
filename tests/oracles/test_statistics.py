"""Statistics against their formulas, in float64 and one number at a time."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.calibration.statistics import FeatureActivity, FeatureCovariance, FeatureMoments, FeatureNorm, InputHessian

LENGTH, IN = 7, 5
CPU = torch.device("cpu")


@pytest.fixture
def sequences() -> list[Tensor]:
    """Five sequences of activations of uneven scale."""
    stream = torch.Generator().manual_seed(3)
    return [torch.randn(LENGTH, IN, generator=stream) * (n + 1) for n in range(5)]


@pytest.mark.parametrize("batches", [[1, 1, 1, 1, 1], [5], [2, 3]])
def test_feature_norm(sequences: list[Tensor], batches: list[int]) -> None:
    """The square root of the mean over sequences of the sum over tokens of x², for any batching."""
    statistic = FeatureNorm(IN, CPU)
    start = 0
    for size in batches:
        statistic.update(torch.cat(sequences[start : start + size]), size)
        start += size
    for feature in range(IN):
        total = sum(float(x[token, feature]) ** 2 for x in sequences for token in range(LENGTH))
        assert float(statistic.l2_I[feature]) == pytest.approx(math.sqrt(total / len(sequences)), rel=1e-6)


def test_feature_norm_is_the_published_running_mean(sequences: list[Tensor]) -> None:
    """Wanda's own recurrence, `s = s (n-1)/n + ||X_n||² / n`, has the same outcome."""
    statistic = FeatureNorm(IN, CPU)
    scaler_I = np.zeros(IN)
    for n, x in enumerate(sequences, start=1):
        statistic.update(x, 1)
        scaler_I = scaler_I * (n - 1) / n + np.linalg.norm(x.double().numpy(), axis=0) ** 2 / n
    np.testing.assert_allclose(statistic.l2_I.numpy(), np.sqrt(scaler_I), rtol=1e-6)


@pytest.mark.parametrize("batches", [[1, 1, 1, 1, 1], [5], [2, 3]])
def test_input_hessian(sequences: list[Tensor], batches: list[int]) -> None:
    """H = 2/n Σ_sequences Σ_tokens x xᵀ, n = sequences, for any batching."""
    statistic = InputHessian(IN, CPU)
    start = 0
    for size in batches:
        statistic.update(torch.cat(sequences[start : start + size]), size)
        start += size
    expected_II = np.zeros((IN, IN))
    for x in sequences:
        for token in x.double().numpy():
            for i in range(IN):
                for j in range(IN):
                    expected_II[i, j] += 2.0 / len(sequences) * token[i] * token[j]
    np.testing.assert_allclose(statistic.hessian_II.numpy(), expected_II, rtol=1e-5, atol=1e-4)


def test_feature_activity(sequences: list[Tensor]) -> None:
    """Means of magnitudes within sequences, squares over them, for any batching."""
    statistic = FeatureActivity(IN, CPU)
    for first, size in ((0, 2), (2, 3)):
        statistic.update(torch.cat(sequences[first : first + size]), size)
    for feature in range(IN):
        means = [sum(abs(float(value)) for value in x[:, feature]) / LENGTH for x in sequences]
        assert float(statistic.l2_I[feature]) == pytest.approx(math.hypot(*means), rel=1e-6)


@pytest.mark.parametrize("batches", [[1, 1, 1, 1, 1], [5], [2, 3]])
def test_feature_covariance(sequences: list[Tensor], batches: list[int]) -> None:
    """Mean over tokens, and of the products of deviations from it, far from 0 and for any batching."""
    statistic = FeatureCovariance(IN, CPU)
    shifted, start = [x + 10.0 for x in sequences], 0
    for size in batches:
        statistic.update(torch.cat(shifted[start : start + size]), size)
        start += size
    rows_TI = torch.cat(shifted).double().numpy()
    np.testing.assert_allclose(statistic.mean_I.numpy(), rows_TI.mean(axis=0), rtol=1e-6)
    expected_II = np.cov(rows_TI, rowvar=False, bias=True)
    np.testing.assert_allclose(statistic.covariance_II.numpy(), expected_II, rtol=1e-5, atol=1e-4)
    assert (statistic.num_tokens, statistic.num_sequences) == (5 * LENGTH, 5)


def test_batching_changes_no_bit_of_the_hessian(sequences: list[Tensor]) -> None:
    """Sequences are added one after the other however they are batched: ties break the same way."""
    one, many = InputHessian(IN, CPU), InputHessian(IN, CPU)
    for x in sequences:
        one.update(x, 1)
    many.update(torch.cat(sequences), len(sequences))
    assert torch.equal(one.hessian_II, many.hessian_II)


@pytest.mark.parametrize("features", [511, 512, 514])
def test_hessians_of_wide_layers(features: int) -> None:
    """Wide or narrow, the whole symmetric matrix is there; every entry is the sum over all sequences."""
    stream = torch.Generator().manual_seed(0)
    sequences = [torch.randn(4, features, generator=stream) for _ in range(3)]
    statistic = InputHessian(features, CPU)
    statistic.update(torch.cat(sequences[:2]), 2)
    statistic.update(sequences[2], 1)
    x_TI = torch.cat(sequences).double().numpy()
    hessian_II = statistic.hessian_II
    assert torch.equal(hessian_II, hessian_II.T)
    np.testing.assert_allclose(hessian_II.numpy(), 2.0 / 3.0 * x_TI.T @ x_TI, rtol=1e-4, atol=1e-5)


def test_many_tokens_are_all_counted() -> None:
    """Features of thousands of tokens in one update: none is left out."""
    x_TI = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
    statistic = FeatureNorm(3, CPU)
    statistic.update(x_TI, 4)
    np.testing.assert_allclose(statistic.l2_I.numpy(), (x_TI.double() ** 2).sum(0).div(4).sqrt().numpy(), rtol=1e-6)


def test_hessian_of_tokens_that_are_no_whole_sequences() -> None:
    """An expert sees 7 tokens of 2 sequences: they are added at once, with n = 2."""
    x_TI = torch.randn(7, IN, generator=torch.Generator().manual_seed(0))
    statistic = InputHessian(IN, CPU)
    statistic.update(x_TI, 2)
    torch.testing.assert_close(statistic.hessian_II, x_TI.T @ x_TI)
    assert (statistic.num_tokens, statistic.num_sequences) == (7, 2)


@pytest.mark.parametrize("batches", [[1, 1, 1, 1, 1], [5], [2, 3]])
def test_feature_moments(sequences: list[Tensor], batches: list[int]) -> None:
    """Mean over sequences of the token sums; variances within sequences, weighted with tokens."""
    statistic = FeatureMoments(IN, CPU)
    start = 0
    for size in batches:
        statistic.update(torch.cat(sequences[start : start + size]), size)
        start += size
    for feature in range(IN):
        columns = [x[:, feature].double().numpy() for x in sequences]
        total = sum(column.sum() for column in columns) / len(columns)
        assert float(statistic.mean_sum_I[feature]) == pytest.approx(total, rel=1e-5)
        variance = sum(len(column) * column.var() for column in columns) / sum(len(column) for column in columns)
        assert float(statistic.variance_I[feature]) == pytest.approx(variance, rel=1e-5)


def test_feature_moments_of_sequences_of_uneven_length(sequences: list[Tensor]) -> None:
    """Longer sequences weigh more in the variance, not in the mean of the sums."""
    statistic = FeatureMoments(IN, CPU)
    parts = [x[: n + 2].double().numpy() for n, x in enumerate(sequences)]
    for n, x in enumerate(sequences):
        statistic.update(x[: n + 2], 1)
    np.testing.assert_allclose(statistic.mean_sum_I.numpy(), sum(x.sum(axis=0) for x in parts) / 5, rtol=1e-5)
    variance = sum(len(x) * x.var(axis=0) for x in parts) / sum(len(x) for x in parts)
    np.testing.assert_allclose(statistic.variance_I.numpy(), variance, rtol=1e-5)


def test_feature_moments_keep_their_digits_far_from_0() -> None:
    """Around 1000 with a spread of 0.01 a difference of squares would be off by more than the variance itself."""
    x_TI = 1000.0 + 0.01 * torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    statistic = FeatureMoments(2, CPU)
    statistic.update(x_TI, 4)
    expected = np.mean([part.double().numpy().var(axis=0) for part in x_TI.split(1000)], axis=0)
    np.testing.assert_allclose(statistic.variance_I.numpy(), expected, rtol=1e-3)


def test_feature_moments_of_an_input_that_never_changes() -> None:
    """Its variance is exactly 0."""
    statistic = FeatureMoments(2, CPU)
    statistic.update(torch.full((8, 2), 0.5), 2)
    assert statistic.variance_I.tolist() == [0.0, 0.0]
    assert statistic.mean_sum_I.tolist() == [2.0, 2.0]
