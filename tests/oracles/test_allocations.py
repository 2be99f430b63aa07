"""OWL's outlier shares and BESA's keep probabilities from their definitions, in plain loops."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.calibration.statistics import FeatureNorm, Statistics
from harness.pruning.allocations.owl import Owl, block_sparsities
from harness.pruning.allocations.sensitivity import Sensitivity
from harness.pruning.methods.magnitude import Magnitude
from harness.pruning.numerics.learned_rates import (
    CANDIDATES_D,
    LearningPlan,
    RatedWeight,
    _gradients,
    penalty,
    relative_error,
)


def a_block(seed: int) -> tuple[Any, dict[str, np.ndarray], dict[str, list[np.ndarray]]]:
    """Two linears with inputs of their own, as an analysis gives them and as plain arrays."""
    stream = np.random.default_rng(seed)
    weights = {"a": stream.normal(size=(7, 5)), "b": stream.normal(size=(4, 9))}
    inputs = {
        name: [stream.standard_t(2, size=(6, weight.shape[1])) for _ in range(3)] for name, weight in weights.items()
    }
    statistics = {}
    for name, sequences in inputs.items():
        norm = FeatureNorm(weights[name].shape[1], torch.device("cpu"))
        for x in sequences:
            norm.update(torch.from_numpy(x).float(), 1)
        statistics[name] = Statistics([norm])
    tensors = {name: torch.from_numpy(weight).float() for name, weight in weights.items()}
    block = SimpleNamespace(weights=tensors, statistics=statistics)
    return block, weights, inputs


@pytest.mark.parametrize("threshold", [1.5, 3.0, 5.0])
@pytest.mark.parametrize("seed", range(5))
def test_the_share_of_outliers(threshold: float, seed: int) -> None:
    """Wanda scores of all linears of the block together, those above M times their mean counted."""
    block, weights, inputs = a_block(seed)
    scores = []
    for name, weight in weights.items():
        for row in weight:
            for column, value in enumerate(row):
                power = sum(x[token, column] ** 2 for x in inputs[name] for token in range(len(x))) / 3
                scores.append(abs(value) * math.sqrt(power))
    mean = sum(scores) / len(scores)
    expected = sum(score > threshold * mean for score in scores) / len(scores)
    assert Owl(outlier_threshold=threshold).outlier_ratio(block) == expected


def test_sparsities_by_hand() -> None:
    """Three blocks at 70 %, lambda 0.08: densities 0.3 - 0.08 + 0.16 (r - min) / (max - min), mean preserved."""
    assert block_sparsities([0.1, 0.2, 0.3], 0.7, 0.08) == pytest.approx([0.78, 0.7, 0.62])
    assert sum(block_sparsities([0.1, 0.1, 0.4], 0.7, 0.08)) / 3 == pytest.approx(0.7)


def loop_probability(beta_D: list[float], columns: int) -> list[float]:
    """Of every rank: one minus the weights of the rates that prune more ranks than lie before it."""
    kept = []
    for rank in range(columns):
        pruned = 0.0
        for rate, beta in zip(CANDIDATES_D.tolist(), beta_D, strict=True):
            if int(columns * rate) > rank:
                pruned += beta
        kept.append(1.0 - pruned)
    return kept


@pytest.mark.parametrize("smoothing", ["sigmoid", "none"])
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("columns", [12, 37, 128])
def test_keep_probabilities_and_masks(smoothing: str, rows: int, columns: int) -> None:
    """Probabilities by rank, rates, and masks of the lowest ranks; of equal scores the left is lower."""
    stream = torch.Generator().manual_seed(columns)
    weight_OI = torch.randn(4, columns, generator=stream)
    scores_OI = torch.randint(0, 6, (4, columns), generator=stream).float()
    weight = RatedWeight(weight_OI, scores_OI, rows)
    weight.logits_RD = torch.randn(rows, 101, generator=stream).mul(3).requires_grad_()
    beta_RD = weight.candidate_weights(smoothing)  # type: ignore[arg-type]
    probability_OI, alpha_R = weight.keep_probability(beta_RD).detach(), weight.rates(beta_RD).detach()
    keep_OI = weight.hard_mask(alpha_R)
    for row in range(4):
        logits = weight.logits_RD[row % rows].tolist()
        if smoothing == "sigmoid":
            logits = [1 / (1 + math.exp(-logit)) for logit in logits]
        shares = [math.exp(logit) for logit in logits]
        beta = [share / sum(shares) for share in shares]
        rate = sum(share * candidate for share, candidate in zip(beta, CANDIDATES_D.tolist(), strict=True))
        order = sorted(range(columns), key=lambda column: (float(scores_OI[row, column]), column))
        by_rank = loop_probability(beta, columns)
        for rank, column in enumerate(order):
            assert float(probability_OI[row, column]) == pytest.approx(by_rank[rank], abs=1e-5)
            assert bool(keep_OI[row, column]) == (rank >= int(columns * rate))
        assert float(alpha_R[row % rows]) == pytest.approx(rate, abs=1e-5)
    assert torch.equal(weight.masked(beta_RD).detach(), weight_OI * keep_OI)


def test_the_gradient_is_that_of_the_probabilities() -> None:
    """Straight through: the gradient of a linear function of the masked weight is that of the same function of
    probability times weight, here by finite differences in float64.
    """
    stream = torch.Generator().manual_seed(3)
    weight_OI, direction_OI = (torch.randn(4, 20, generator=stream) for _ in range(2))
    weight = RatedWeight(weight_OI, weight_OI.abs(), 1)
    weight.logits_RD = torch.randn(1, 101, generator=stream).requires_grad_()
    (gradient_RD,) = torch.autograd.grad(
        (weight.masked(weight.candidate_weights("none")) * direction_OI).sum(), weight.logits_RD
    )

    def value(logits_RD: Tensor) -> float:
        weight.logits_RD = logits_RD
        return float((weight.keep_probability(weight.candidate_weights("none")) * weight_OI * direction_OI).sum())

    logits_RD = weight.logits_RD.detach().double()
    for place in (0, 30, 55, 100):
        step = torch.zeros_like(logits_RD)
        step[0, place] = 1e-5
        slope = (value(logits_RD + step) - value(logits_RD - step)) / 2e-5
        assert float(gradient_RD[0, place]) == pytest.approx(slope, rel=1e-3, abs=1e-6)


def test_the_loss_by_loops() -> None:
    """Every channel's squared error over its squared norm, averaged over channels; a channel of zeros is not scaled."""
    stream = np.random.default_rng(0)
    reference, output = stream.normal(size=(6, 3)), stream.normal(size=(6, 3))
    reference[:, 1] = 0.0
    expected = 0.0
    for channel in range(3):
        norm = math.sqrt(sum(reference[token, channel] ** 2 for token in range(6))) or 1.0
        expected += sum(((reference[token, channel] - output[token, channel]) / norm) ** 2 for token in range(6)) / 3
    found = relative_error(torch.from_numpy(reference)[None], torch.from_numpy(output)[None])
    assert found.item() == pytest.approx(expected, rel=1e-5)
    # Convolutions: two images of 1 x 3 positions are six tokens.
    images = [torch.from_numpy(part).reshape(2, 1, 3, 3).movedim(-1, 1) for part in (reference, output)]
    assert relative_error(images[0], images[1]).item() == pytest.approx(expected, rel=1e-5)


def test_the_penalty_by_hand() -> None:
    """Rates 0.4 (mean of two rows) and 0.7 of 300 and 100 weights: mean 0.475; 5 ((0.475 - 0.5) / 0.5)^2."""
    rates = [torch.tensor([0.3, 0.5]), torch.tensor([0.7])]
    found = penalty(rates, [300, 100], LearningPlan(target=0.5, penalty=5.0, smoothing="none"))
    assert found.item() == pytest.approx(5 * 0.05**2, rel=1e-5)


def test_a_scan_from_an_infinite_loss_is_no_scan() -> None:
    """Everything is as good as infinity: a uniform allocation must not come out of it."""
    analysis = SimpleNamespace(
        method=Magnitude(), cached=lambda key, find: find(), trials=lambda num_sequences: lambda weights: math.inf
    )
    with pytest.raises(ArithmeticError, match="not finite"):
        Sensitivity().spread(analysis)


@pytest.mark.parametrize("error", [5e-8, 1e-3, 40.0])
def test_gradients_through_float16_are_those_of_float32(error: float) -> None:
    """Small ones do not underflow, and the scaling that saves them does not overflow large ones."""
    found = []
    for dtype in (torch.float16, torch.float32):
        logits = torch.full((4,), 0.5, requires_grad=True)
        output = torch.ones(4, dtype=dtype) * logits.to(dtype)
        found.append(_gradients((output.float() * error).sum(), [logits], half=dtype == torch.float16)[0])
    torch.testing.assert_close(*found, rtol=2e-3, atol=0)


def test_a_gradient_that_is_no_number_fails_loudly() -> None:
    """It would become the rate of a layer."""
    logits = torch.zeros(2, requires_grad=True)
    with pytest.raises(ArithmeticError, match="not finite"):
        _gradients((logits.sqrt() * torch.nan).sum(), [logits], half=True)
