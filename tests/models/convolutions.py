"""Small convolution blocks whose normalisations are not the identity, and a model of them with sizes of its own."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

SIDE = 4


class ConvBlock(nn.Module):
    """conv_a, normalisation, conv_b; with `skips` what conv_a makes is added to what comes out."""

    def __init__(self, channels: int = 4, inner: int = 6, *, skips: bool = False) -> None:
        super().__init__()
        self.conv_a = nn.Conv2d(channels, channels if skips else inner, 3, padding=1)
        self.norm_a = nn.BatchNorm2d(channels if skips else inner)
        self.conv_b = nn.Conv2d(channels if skips else inner, channels, 3, padding=1, bias=False)
        self.skips = skips

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = functional.relu(self.norm_a(self.conv_a(x)))
        output: Tensor = self.conv_b(inner)
        return output + inner if self.skips else output


class FlatBlock(nn.Module):
    """A convolution and a linear that reads all positions of its channels."""

    def __init__(self, channels: int = 4, inner: int = 6) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, inner, 3, padding=1)
        self.norm = nn.BatchNorm2d(inner, affine=False)
        self.linear = nn.Linear(inner * SIDE * SIDE, 5)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.linear(functional.relu(self.norm(self.conv(x))).flatten(1))
        return output


class ConvConfig(PreTrainedConfig):
    """`inner_widths`: channels inside of every block; `flat_width`: inside of the last."""

    model_type = "test_convolutions"

    def __init__(self, channels: int = 4, inner_widths: tuple[int, ...] = (6, 8), flat_width: int = 6, **rest: Any):
        super().__init__(**rest)
        self.channels, self.inner_widths, self.flat_width = channels, list(inner_widths), flat_width


class ConvModel(PreTrainedModel):
    """Reads 16 numbers a row as an image of `channels` equal channels."""

    config_class = ConvConfig
    main_input_name = "input_ids"

    def __init__(self, config: ConvConfig) -> None:
        super().__init__(config)
        inner = [ConvBlock(config.channels, width) for width in config.inner_widths]
        self.blocks = nn.ModuleList([*inner, FlatBlock(config.channels, config.flat_width)])
        self.post_init()

    def forward(self, input_ids: Tensor, **_: object) -> ImageClassifierOutput:
        hidden = input_ids.view(-1, 1, SIDE, SIDE).float().expand(-1, self.config.channels, -1, -1) / 10
        for block in self.blocks:
            hidden = block(hidden)
        return ImageClassifierOutput(logits=hidden)


def randomised(module: nn.Module) -> nn.Module:
    """In evaluation mode with random weights, scales, means and variances."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.5)
    return module.eval()
