"""OWL from its formulas, on more blocks than two: outlier ratios, densities, and the zeros that Wanda then makes.

The inputs of linears are those that hooks see in whole forward passes of the model; all else is loops.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from harness.blocks.layers import prunable_shapes
from harness.calibration.statistics import FeatureNorm
from harness.patterns import Unstructured
from harness.pruning.allocations.owl import Owl, block_sparsities
from harness.pruning.dense_analysis import DenseAnalysis
from harness.pruning.methods.wanda import Wanda
from tests.contexts import a_context, prune_to
from tests.families import tiny_model
from tests.oracles.test_engine import inputs_of
from tests.oracles.test_masks import prune_smallest

CPU = torch.device("cpu")
SPARSITY = 0.6
POWERS = (2.0, 3.0, 1.0, 4.0, 2.5)
"""How uneven the columns of each block's weights are."""
BLOCKS = len(POWERS)


def weight_of(model: PreTrainedModel, name: str) -> Tensor:
    """The weight of a linear, to be read and written."""
    return model.get_parameter(f"{name}.weight").data


def block_names(model: PreTrainedModel, index: int) -> list[str]:
    """Paths of a block's linears."""
    return [name for name in prunable_shapes(model) if name.startswith(f"model.layers.{index}.")]


def five_blocks() -> PreTrainedModel:
    """A model with outliers: some columns of its weights are large, in some blocks fewer than in others."""
    model = tiny_model("llama-gqa", num_hidden_layers=BLOCKS)
    stream = torch.Generator().manual_seed(5)
    for index, power in enumerate(POWERS):
        for name in block_names(model, index):
            weight_OI = weight_of(model, name)
            weight_OI *= 3.0 * torch.rand(weight_OI.shape[1], generator=stream) ** power
    return model


def analysis_of(model: PreTrainedModel, tokens_BL: Tensor) -> DenseAnalysis:
    """Of that model, as a job for Wanda makes it."""
    return DenseAnalysis(a_context(model, tokens_BL, Unstructured(SPARSITY)), Wanda())


def scores_of(model: PreTrainedModel, name: str, inputs: list[Tensor]) -> list[list[float]]:
    """|W_ij| ||X_j||_2, the norm over all tokens, its square averaged over sequences; float64."""
    weight_OI = weight_of(model, name).double().tolist()
    columns = range(len(weight_OI[0]))
    sums = [sum(float(x_LI[:, j].double().square().sum()) for x_LI in inputs) for j in columns]
    return [[abs(row[j]) * math.sqrt(sums[j] / len(inputs)) for j in columns] for row in weight_OI]


def ratios_of(model: PreTrainedModel, tokens_BL: Tensor, threshold: float) -> list[float]:
    """Of every dense block: the share of its weights whose score exceeds so many times the mean of the block's."""
    inputs = inputs_of(model, list(prunable_shapes(model)), tokens_BL)
    ratios = []
    for index in range(BLOCKS):
        rows = [row for name in block_names(model, index) for row in scores_of(model, name, inputs[name])]
        scores = [score for row in rows for score in row]
        mean = sum(scores) / len(scores)
        ratios.append(sum(score > threshold * mean for score in scores) / len(scores))
    return ratios


def densities_of(ratios: list[float], width: float) -> list[float]:
    """The ratios stretched, r' = 2 lambda (r - min) / (max - min), then shifted, r' - mean(r') + 1 - S."""
    stretched = [2 * width * (ratio - min(ratios)) / (max(ratios) - min(ratios)) for ratio in ratios]
    return [value - sum(stretched) / BLOCKS + 1 - SPARSITY for value in stretched]


@pytest.mark.parametrize(("threshold", "width"), [(2.0, 0.08), (3.0, 0.2)])
def test_ratios_and_densities(threshold: float, width: float, random_tokens: Callable[..., Tensor]) -> None:
    """Ratios exactly, densities to rounding; those of inner blocks lie inside the band, where only ratios put them."""
    model, tokens_BL, owl = five_blocks(), random_tokens(6), Owl(threshold, width)
    expected = ratios_of(model, tokens_BL, threshold)
    assert len(set(expected)) == BLOCKS
    found = [owl.outlier_ratio(block) for block in analysis_of(model, tokens_BL).observed_blocks((FeatureNorm,))]
    assert found == expected
    densities = densities_of(expected, width)
    assert [1 - value for value in block_sparsities(found, SPARSITY, width)] == pytest.approx(densities, abs=1e-12)
    places = sorted((density - min(densities)) / (2 * width) for density in densities)
    assert (places[0], places[-1]) == pytest.approx((0.0, 1.0))
    assert all(0.02 < place < 0.98 for place in places[1:-1]), places


def prune_obviously(model: PreTrainedModel, tokens_BL: Tensor, counts: list[dict[str, int]]) -> None:
    """Wanda in place with so many zeros in every row, block after block on the inputs that the pruned ones give."""
    for index in range(BLOCKS):
        inputs = inputs_of(model, block_names(model, index), tokens_BL)
        for name in block_names(model, index):
            scores = scores_of(model, name, inputs[name])
            mask_OI = torch.tensor([prune_smallest(row, counts[index][name]) for row in scores])
            weight_of(model, name).mul_(mask_OI)


@pytest.mark.parametrize("published", [True, False])
def test_the_zeros(published: bool, random_tokens: Callable[..., Tensor]) -> None:
    """`int(in_features * sparsity)` zeros a row, as published; the registered allocation gives less than one more or
    less, so that the total is right.
    """
    owl, tokens_BL = Owl(2.0, 0.08), random_tokens(6)
    expected, model = five_blocks(), five_blocks()
    shapes = prunable_shapes(model)
    densities = densities_of(ratios_of(model, tokens_BL, 2.0), 0.08)
    exact = {name: shapes[name][1] * (1 - densities[i]) for i in range(BLOCKS) for name in block_names(model, i)}
    analysis = analysis_of(model, tokens_BL)
    if published:
        ratios = [owl.outlier_ratio(block) for block in analysis.observed_blocks((FeatureNorm,))]
        sparsities = block_sparsities(ratios, SPARSITY, 0.08)
        patterns = {n: Unstructured(sparsities[i]) for i in range(BLOCKS) for n in block_names(model, i)}
        counts = {name: int(value) for name, value in exact.items()}
    else:
        patterns = owl.spread(analysis)  # type: ignore[assignment]
        counts = {name: int(shapes[name][1] * pattern.sparsity) for name, pattern in patterns.items()}
        assert all(abs(counts[name] - exact[name]) < 1 for name in counts)
        removed = sum(counts[name] * shapes[name][0] for name in counts)
        assert removed == pytest.approx(SPARSITY * sum(math.prod(shape) for shape in shapes.values()), rel=1e-3)
    by_block = [{name: counts[name] for name in block_names(model, index)} for index in range(BLOCKS)]
    prune_obviously(expected, tokens_BL, by_block)
    prune_to(patterns, Wanda(), analysis.context)
    for name in shapes:
        assert torch.equal(weight_of(model, name), weight_of(expected, name)), name
