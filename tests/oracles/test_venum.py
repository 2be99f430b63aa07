"""Venum from its description, in plain loops: |W| times the norm of what a weight sees, in patches and in tokens."""

import math
from dataclasses import asdict, dataclass
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from harness.blocks.calls import BlockCall
from harness.blocks.inputs import InputObserver
from harness.blocks.layers import prunable_linears, weight_view
from harness.patterns import Pattern, SemiStructured, Unstructured
from harness.pruning.methods.venum import Venum
from tests.oracles.test_masks import oracle


@dataclass(frozen=True)
class Geometry:
    """How a kernel of 3 x 2 moves over the images; the same along both axes."""

    stride: int = 1
    padding: int = 0
    dilation: int = 1

    def starts(self, length: int, kernel: int) -> range:
        """Where the kernel begins along an axis of this length, counted in the image without its padding."""
        return range(-self.padding, length + self.padding - self.dilation * (kernel - 1), self.stride)


def conv_scores(conv: nn.Conv2d, images: Tensor, geometry: Geometry) -> list[list[float]]:
    """|W[o, c, y, x]| times the norm of everything that this place of the kernel is laid upon, averaged over images."""
    (height, width), (rows, columns) = images.shape[2:], conv.kernel_size
    norms = []
    for channel, y, x in product(range(conv.in_channels), range(rows), range(columns)):
        total = 0.0
        for image in images:
            for top, left in product(geometry.starts(height, rows), geometry.starts(width, columns)):
                place = top + y * geometry.dilation, left + x * geometry.dilation
                if 0 <= place[0] < height and 0 <= place[1] < width:
                    total += float(image[channel][place]) ** 2
        norms.append(math.sqrt(total / len(images)))
    return [
        [abs(float(weight)) * norm for weight, norm in zip(filters.flatten(), norms, strict=True)]
        for filters in conv.weight
    ]


def linear_scores(linear: nn.Linear, tokens_BLI: Tensor) -> list[list[float]]:
    """|W_ij| times the norm of input j over all tokens of all sequences, averaged over sequences."""
    norms = []
    for j in range(linear.in_features):
        total = sum(float(token_I[j]) ** 2 for tokens_LI in tokens_BLI for token_I in tokens_LI)
        norms.append(math.sqrt(total / len(tokens_BLI)))
    return [[abs(float(weight)) * norm for weight, norm in zip(row, norms, strict=True)] for row in linear.weight]


def check(block: nn.Sequential, inputs: Tensor, scores: list[list[float]], pattern: Pattern) -> None:
    """Scores and zeros of the only layer, given three inputs and then the rest, are those of the loops."""
    observer = InputObserver(prunable_linears(block), Venum.needs, sample_tokens=1, stop_early=False)
    for batch in inputs.split(3):
        observer.forward(block, BlockCall((), {}, True), batch)
    (group,), weight_OI = observer.groups, weight_view(block[0])  # type: ignore[arg-type]
    torch.testing.assert_close(Venum().score(weight_OI, group.statistics), torch.tensor(scores), rtol=1e-5, atol=1e-6)
    keep_OI = torch.tensor(oracle(scores, pattern, "row"))
    assert torch.equal(Venum().prune(weight_OI, group.statistics, pattern).weight_OI, weight_OI * keep_OI)
    by_weight_OI = torch.tensor(oracle(weight_OI.abs().tolist(), pattern, "row"))
    assert not torch.equal(keep_OI, by_weight_OI), "the inputs decide nothing here"


PATTERNS: list[Pattern] = [Unstructured(0.5), Unstructured(0.9), SemiStructured(2, 4)]
GEOMETRIES = [
    Geometry(),
    Geometry(stride=2, padding=1),
    Geometry(stride=2, dilation=2),
    Geometry(padding=2, dilation=2),
]


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@torch.no_grad()
def test_venum_prunes_every_filter_by_its_patches(geometry: Geometry, pattern: Pattern) -> None:
    """Of each filter the `int(C_in * kh * kw * s)` smallest |W| · ||X|| go, and the others stay as they are."""
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, (3, 2), **asdict(geometry))
    images = torch.randn(4, 2, 5, 7) * torch.tensor([0.3, 2.0])[:, None, None]
    check(nn.Sequential(conv), images, conv_scores(conv, images, geometry), pattern)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@torch.no_grad()
def test_venum_prunes_every_row_of_a_linear_by_its_inputs(pattern: Pattern) -> None:
    """Of each row the `int(in_features * s)` smallest |W| · ||X|| go, and the others stay as they are."""
    torch.manual_seed(0)
    linear, tokens_BLI = nn.Linear(16, 6), torch.randn(4, 5, 16) * torch.linspace(0.1, 4.0, 16)
    check(nn.Sequential(linear), tokens_BLI, linear_scores(linear, tokens_BLI), pattern)
