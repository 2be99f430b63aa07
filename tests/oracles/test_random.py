"""Random masks: exact counts, the same every time, and no two layers alike."""

import pytest
import torch
from torch import Tensor

from harness.calibration.statistics import Statistics
from harness.patterns import Pattern, SemiStructured, Unstructured
from harness.pruning.methods.random import Random

NOTHING = Statistics([])


def weight(out_features: int = 24, in_features: int = 40, *, seed: int = 0) -> Tensor:
    """A weight without zeros; its values fit bfloat16 exactly."""
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(out_features, in_features, generator=stream).bfloat16().float()


def mask(method: Random, weight_OI: Tensor, pattern: Pattern) -> Tensor:
    """Where the pruned weight is zero."""
    return method.prune(weight_OI, NOTHING, pattern).weight_OI == 0


@pytest.mark.parametrize("sparsity", [0.001, 0.29, 0.5, 0.999])
def test_the_counts_are_exact(sparsity: float) -> None:
    """`int(size * sparsity)` zeros of the matrix, or of every row."""
    pattern = Unstructured(sparsity)
    assert int(mask(Random(), weight(), pattern).sum()) == int(24 * 40 * sparsity)
    assert mask(Random(granularity="row"), weight(), pattern).sum(dim=1).tolist() == [int(40 * sparsity)] * 24
    kept_G = (~mask(Random(), weight(), SemiStructured(3, 8))).reshape(-1, 8).sum(dim=1)
    assert kept_G.unique().tolist() == [3]


def test_the_same_layer_gets_the_same_mask_in_every_number_format_that_holds_it() -> None:
    """A checkpoint in bfloat16 that is loaded as float32 is pruned alike; so is a transposed view."""
    expected_OI = mask(Random(), weight(), Unstructured(0.5))
    assert torch.equal(mask(Random(), weight(), Unstructured(0.5)), expected_OI)
    assert torch.equal(mask(Random(), weight().bfloat16(), Unstructured(0.5)), expected_OI)
    assert torch.equal(mask(Random(), weight().T.contiguous().T, Unstructured(0.5)), expected_OI)


def test_layers_and_seeds_share_no_mask() -> None:
    """Another seed, other weights or another shape: masks agree as often as chance has it."""
    first_OI = mask(Random(), weight(), Unstructured(0.5))
    for other_OI in (
        mask(Random(seed=1), weight(), Unstructured(0.5)),
        mask(Random(), weight(seed=1), Unstructured(0.5)),
        mask(Random(), weight().view(40, 24), Unstructured(0.5)).view(24, 40),
    ):
        assert 0.4 < float((other_OI == first_OI).float().mean()) < 0.6


def test_every_weight_goes_equally_often() -> None:
    """Over 400 seeds a weight is pruned 400 * 0.3 times, give or take five standard deviations (9.2 each)."""
    counts_OI = torch.zeros(6, 10)
    for seed in range(400):
        counts_OI += mask(Random(seed=seed), weight(6, 10), Unstructured(0.3))
    assert int(counts_OI.sum()) == 400 * 18
    assert float((counts_OI - 120).abs().max()) <= 46
