"""Every registered method on small convolutional networks: a new method is tested unasked."""

import copy
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.data.corpora.digits import digit_rows
from harness.job import Choice
from harness.models.digits import DigitsCnn, DigitsConfig
from harness.patterns import Pattern, SemiStructured
from harness.pruning.methods.base import METHODS, LayerwiseMethod
from tests.contracts.test_families import cases, check_pruned, label, prune
from tests.contracts.test_methods import choices_of
from tests.models.convolutions import ConvConfig, ConvModel, randomised
from tests.permutations import layers_that_are_not

TWO_OF_FOUR = SemiStructured(2, 4)
ROWS = torch.from_numpy(digit_rows("calibration")[:6].copy())


def permuting() -> list[Choice]:
    """Every method that may order the columns that N:M groups lie in, with each way that it has."""
    methods = [(choice, METHODS.build(choice)) for name in METHODS.all() for choice in choices_of(name)]
    return [choice for choice, method in methods if isinstance(method, LayerwiseMethod) and method.permutes]


@cache
def dense_network() -> DigitsCnn:
    """An untrained network with normalisations that do something; every layer is a multiple of 4 wide."""
    model = DigitsCnn(DigitsConfig(widths=(4, 8), inner_widths=(4, 8), hidden_width=16)).eval()
    stream = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.dim() >= 2:  # normal with a variance of 2 / inputs, which keeps the signal's size
                tensor.copy_(torch.randn(tensor.shape, generator=stream) * (2 / tensor[0].numel()) ** 0.5)
            elif tensor.is_floating_point():
                low = -0.5 if name.endswith("mean") else 0.5  # biases are positive, so that few channels are always 0
                tensor.copy_(torch.rand(tensor.shape, generator=stream) + low)
        model.blocks[-1].linear_a.bias.add_(2.0)
    return model


def pointwise_network() -> Any:
    """Every second convolution sees one position, so that its columns are the channels of a normalised convolution with
    biases; behind the last there is a linear on a flattened image.
    """
    model = ConvModel(ConvConfig(inner_widths=(16, 24), flat_width=4))
    for block in model.blocks[:2]:
        block.conv_b = nn.Conv2d(block.conv_a.out_channels, 4, 1)
    return randomised(model)


def images() -> Tensor:
    """Rows of 16 numbers, as that network takes them."""
    return torch.arange(16 * 12).view(12, 16) % 11


@torch.no_grad()
def logits(model: Any, rows: Tensor) -> Tensor:
    """What the network says."""
    output: Tensor = model(input_ids=rows).logits
    return output


@pytest.mark.parametrize(
    ("choice", "pattern"), [*cases(), *((choice, TWO_OF_FOUR) for choice in permuting())], ids=label
)
def test_every_method_prunes_convolutions(choice: Choice, pattern: Pattern) -> None:
    """Filters are pruned as matrices: exact counts in convolutions and linears, N:M along in_features in the order that
    the report has, no other parameter and no running statistic changed unless the method says so, and logits that are
    numbers.
    """
    model = copy.deepcopy(dense_network())
    check_pruned(dense_network(), model, choice, pattern, prune(model, choice, pattern, ROWS))
    found, dense = logits(model, ROWS), logits(dense_network(), ROWS)
    assert found.isfinite().all()
    assert not torch.equal(found, dense)


@pytest.mark.parametrize("network", ["digits", "pointwise"])
@pytest.mark.parametrize("choice", permuting(), ids=label)
def test_a_permuted_network_is_the_pruned_one(choice: Choice, network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where channels changed places, outputs are those of the network with the same zeros in which none did: features
    of a linear, and channels of a convolution whose kernel sees one position.  The others' orders are recorded only.
    """
    rows = ROWS if network == "digits" else images()
    dense = dense_network() if network == "digits" else pointwise_network()
    permuted, plain = copy.deepcopy(dense), copy.deepcopy(dense)
    # The dense network's inputs: those of a permuted one differ by rounding, which may choose another order.
    layers = prune(permuted, choice, TWO_OF_FOUR, rows, "dense").layers
    can_be = {"blocks.2.linear_b"} if network == "digits" else {"blocks.0.conv_b", "blocks.1.conv_b"}
    assert layers_that_are_not(TWO_OF_FOUR, layers, permuted) == []
    said = {report.name: report.details.get("permuted") for report in layers}
    assert {how for name, how in said.items() if name in can_be} == {"absorbed"}
    assert {how for name, how in said.items() if name not in can_be} <= {"virtual", None}
    monkeypatch.setattr("harness.surgery.dependencies.find_dependency_groups", lambda *_: [])
    layers = prune(plain, choice, TWO_OF_FOUR, rows, "dense").layers
    assert "absorbed" not in {report.details.get("permuted") for report in layers}
    torch.testing.assert_close(logits(permuted, rows), logits(plain, rows), rtol=1e-4, atol=1e-4)
