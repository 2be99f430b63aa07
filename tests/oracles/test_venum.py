"""Venum from its description, in plain loops over the images: Wanda on the patches that a kernel sees."""

import math

import pytest
import torch
from torch import Tensor, nn

from harness.calibration.capture import BlockCall, InputObserver
from harness.calibration.statistics import FeatureNorm, Statistics
from harness.models.layers import prunable_linears, weight_view
from harness.patterns import Pattern, SemiStructured, Unstructured
from harness.pruning.methods.venum import Venum
from harness.pruning.methods.wanda import Wanda
from tests.oracles.test_masks import oracle


def conv_scores(conv: nn.Conv2d, images: Tensor) -> list[list[float]]:
    """|W[o, c, y, x]| times the norm of everything that this place of the kernel is laid upon; padding 1, stride 2."""
    (height, width), (rows, columns) = images.shape[2:], conv.kernel_size
    norms = []
    for channel in range(conv.in_channels):
        for y in range(rows):
            for x in range(columns):
                total = 0.0
                for image in images:
                    for top in range(-1, height + 2 - rows, 2):
                        for left in range(-1, width + 2 - columns, 2):
                            if 0 <= top + y < height and 0 <= left + x < width:
                                total += float(image[channel, top + y, left + x]) ** 2
                norms.append(math.sqrt(total / len(images)))
    return [
        [abs(float(weight)) * norm for weight, norm in zip(filters.flatten(), norms, strict=True)]
        for filters in conv.weight
    ]


@pytest.mark.parametrize("pattern", [Unstructured(0.5), Unstructured(0.9), SemiStructured(2, 4)], ids=str)
@torch.no_grad()
def test_venum_prunes_every_filter_by_its_patches(pattern: Pattern) -> None:
    """Of each filter the `int(C_in * kh * kw * s)` smallest |W| · ||X|| go, and the others stay as they are."""
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(2, 3, (3, 2), stride=2, padding=1))
    images = torch.randn(4, 2, 5, 7) * torch.tensor([0.3, 2.0])[:, None, None]
    observer = InputObserver(prunable_linears(block), Venum.needs, sample_tokens=1, stop_early=False)
    for batch in images.split(3):
        observer.forward(block, BlockCall((), {}, True), batch)
    conv = block[0]
    assert isinstance(conv, nn.Conv2d)
    scores, (group,) = conv_scores(conv, images), observer.groups
    weight_OI = weight_view(conv)
    torch.testing.assert_close(Venum().score(weight_OI, group.statistics), torch.tensor(scores), rtol=1e-5, atol=1e-6)
    expected_OI = weight_OI * torch.tensor(oracle(scores, pattern, "row"))
    assert torch.equal(Venum().prune(weight_OI, group.statistics, pattern).weight_OI, expected_OI)


def test_venum_is_wanda_on_linears() -> None:
    """The same bits: it says so of itself."""
    stream = torch.Generator().manual_seed(0)
    norm = FeatureNorm.allocate(16, torch.device("cpu"))
    norm.update(torch.randn(40, 16, generator=stream), 2)
    weight_OI, statistics = torch.randn(6, 16, generator=stream), Statistics([norm])
    for pattern in (Unstructured(0.6), SemiStructured(2, 4)):
        venum, wanda = (method.prune(weight_OI, statistics, pattern).weight_OI for method in (Venum(), Wanda()))
        assert torch.equal(venum, wanda)
