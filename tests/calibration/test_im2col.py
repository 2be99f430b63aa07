"""Convolutions are linears of patches: the same numbers, the same groups of inputs."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.blocks.calls import BlockCall
from harness.blocks.inputs import InputObserver
from harness.blocks.layers import input_rows, prunable_linears, unpruned_weights, weight_view
from harness.calibration.statistics import FeatureNorm

CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "plain": {"kernel_size": 3},
    "padded": {"kernel_size": 3, "padding": 1},
    "strided": {"kernel_size": (3, 2), "stride": (2, 1), "padding": (0, 1)},
    "dilated": {"kernel_size": 2, "dilation": 2, "padding": 1},
    "same": {"kernel_size": (4, 3), "padding": "same"},
    "valid": {"kernel_size": 3, "padding": "valid"},
    "reflected": {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    "circular": {"kernel_size": (3, 5), "padding": "same", "padding_mode": "circular"},
    "1x1": {"kernel_size": 1},
}


@pytest.fixture
def images() -> Tensor:
    """Two images [2, 3, 7, 6]."""
    return torch.randn(2, 3, 7, 6, generator=torch.Generator().manual_seed(0))


# PyTorch says that an even kernel with padding="same" copies its input.
@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=list(CONVOLUTIONS))
@torch.no_grad()
def test_a_convolution_is_its_matrix_times_its_patches(options: dict[str, Any], images: Tensor) -> None:
    """Patches times the flattened filters, plus the bias, are the layer's output at every position; writing to the
    matrix writes to the filters.
    """
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, **options)
    for _ in range(2):
        output_TO = conv(images).permute(0, 2, 3, 1).reshape(-1, 4)
        weight_OI = weight_view(conv)
        assert weight_OI.shape == (4, 3 * conv.kernel_size[0] * conv.kernel_size[1])
        torch.testing.assert_close(input_rows(conv, images) @ weight_OI.T + conv.bias, output_TO)
        weight_OI[:, ::2] = 0.0


def test_columns_are_channels_then_kernel_rows_then_kernel_columns(images: Tensor) -> None:
    """The order that PyTorch stores filters in, read off one patch by plain indices."""
    conv = nn.Conv2d(3, 1, (2, 3))
    row_I = input_rows(conv, images)[1 * 4 + 3]  # position (1, 3) of an output 6 high and 4 wide
    expected = [images[0, c, 1 + y, 3 + x] for c in range(3) for y in range(2) for x in range(3)]
    assert torch.equal(row_I, torch.stack(expected))


class Branches(nn.Module):
    """Convolutions of one input that cut it alike (a, b) and otherwise (c), and a grouped one (d)."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(4, 2, 3, padding=1)
        self.b = nn.Conv2d(4, 5, 3, padding=1)
        self.c = nn.Conv2d(4, 2, 3)
        self.d = nn.Conv2d(4, 4, 3, groups=2)
        self.head = nn.Linear(2 * 4 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.b(x), self.d(x)
        output: Tensor = self.head((self.a(x)[:, :, 1:-1, 1:-1] + self.c(x)).flatten(1))
        return output


@torch.no_grad()
def test_statistics_of_convolutions_count_patches_and_images() -> None:
    """Two convolutions share statistics only when they cut the same input alike; a sequence is an image, a token a
    patch, also in batches of different sizes.
    """
    torch.manual_seed(0)
    block, inputs = Branches(), [torch.randn(3, 4, 6, 6), torch.randn(2, 4, 6, 6)]
    observer = InputObserver(prunable_linears(block), (FeatureNorm,), sample_tokens=50, stop_early=False)
    for x in inputs:
        observer.forward(block, BlockCall((), {}, True), x)
    assert [group.names for group in observer.groups] == [["a", "b"], ["c"], ["head"]]
    for group, positions in zip(observer.groups, (36, 16, 1), strict=True):
        norm = group.statistics[FeatureNorm]
        assert (norm.num_tokens, norm.num_sequences) == (5 * positions, 5)
        if positions > 1:
            rows_TI = torch.cat([input_rows(block.get_submodule(group.names[0]), x) for x in inputs])
            torch.testing.assert_close(norm.sum_of_squares_I, rows_TI.square().sum(0))
            assert torch.equal(group.sample_TI, rows_TI[:50])


def test_grouped_convolutions_are_reported_as_unpruned() -> None:
    """Their filters see different inputs; they are named, not skipped in silence."""
    assert set(prunable_linears(Branches())) == {"a", "b", "c", "head"}
    assert dict(unpruned_weights(nn.ModuleList([Branches()]))) == {"0.d.weight": (4, 2, 3, 3)}
