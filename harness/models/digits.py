"""A small convolutional network for the digits of scikit-learn, and how it is trained: the convolution column.

It is a transformers model whose blocks lie in a ModuleList, so that it loads, is pruned, saved and loaded again as
language models are.  Its rows are those of `harness.data.corpora.digits`; like the embeddings of a language model, the
stem in front of the blocks is not pruned.
"""

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from harness.data.corpora.digits import PIXELS, digit_rows
from harness.models.recipe import EXPECTED_WEIGHTS, Recipe

SIDE, LABELS = 8, 10
INK = 16
"""Value of the darkest pixel."""


class DigitsConfig(PreTrainedConfig):
    """Shape of the network.

    Args:
        widths: channels that every convolution block gives out.
        inner_widths: channels between the two convolutions of every block.
        hidden_width: features between the two linears of the last block.
    """

    model_type = "digits_cnn"

    def __init__(
        self,
        widths: Sequence[int] = (16, 32),
        inner_widths: Sequence[int] = (16, 32),
        hidden_width: int = 64,
        **options: Any,
    ) -> None:
        super().__init__(**{"num_labels": LABELS, **options})
        self.widths = list(widths)
        self.inner_widths = list(inner_widths)
        self.hidden_width = hidden_width


class ConvolutionBlock(nn.Module):
    """Two convolutions with normalisation and ReLU, then the mean of every 2 x 2 positions."""

    def __init__(self, channels_in: int, inner: int, channels: int) -> None:
        super().__init__()
        self.conv_a = nn.Conv2d(channels_in, inner, 3, padding=1, bias=False)
        self.norm_a = nn.BatchNorm2d(inner)
        self.conv_b = nn.Conv2d(inner, channels, 3, padding=1, bias=False)
        self.norm_b = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm_a(self.conv_a(x)))
        x = functional.relu(self.norm_b(self.conv_b(x)))
        return functional.avg_pool2d(x, 2)  # no maximum: of two equal positions, rounding would choose


class Classifier(nn.Module):
    """Two linears on all features of all positions."""

    def __init__(self, features: int, hidden_width: int, labels: int) -> None:
        super().__init__()
        self.linear_a = nn.Linear(features, hidden_width)
        self.linear_b = nn.Linear(hidden_width, labels)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear_b(functional.relu(self.linear_a(x.flatten(1))))
        return logits


class DigitsCnn(PreTrainedModel):
    """Stem, convolution blocks, classifier; `input_ids` are rows of digits, with or without the label at their end."""

    config_class = DigitsConfig
    base_model_prefix = ""
    main_input_name = "input_ids"

    def __init__(self, config: DigitsConfig) -> None:
        super().__init__(config)
        first = config.widths[0]
        self.stem = nn.Conv2d(1, first, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(first)
        sizes = zip([first, *config.widths[:-1]], config.inner_widths, config.widths, strict=True)
        side = SIDE >> len(config.widths)
        convolutions = [ConvolutionBlock(*of_block) for of_block in sizes]
        features = config.widths[-1] * side * side
        self.blocks = nn.ModuleList([*convolutions, Classifier(features, config.hidden_width, LABELS)])
        self.post_init()  # type: ignore[no-untyped-call]  # transformers does not annotate it

    def forward(self, input_ids: Tensor, **_: object) -> ImageClassifierOutput:
        """Logits [B, 10] of rows [B, 64 or 65]; a label in the row is not looked at."""
        pixels = input_ids[:, :PIXELS].reshape(-1, 1, SIDE, SIDE).to(self.stem.weight.dtype) / INK
        hidden = functional.relu(self.norm(self.stem(pixels)))
        for block in self.blocks:
            hidden = block(hidden)
        return ImageClassifierOutput(logits=hidden)

    def training_loss(self, batch: Tensor) -> Tensor:
        """Mean cross-entropy, in float32 at least, of rows that end in their label, [B, 65]."""
        logits_BV = self(batch).logits
        wide_BV = logits_BV.to(torch.promote_types(logits_BV.dtype, torch.float32))
        return functional.cross_entropy(wide_BV, batch[:, PIXELS])


AutoConfig.register(DigitsConfig.model_type, DigitsConfig)
AutoModelForImageClassification.register(DigitsConfig, DigitsCnn)


def train(recipe: Recipe) -> DigitsCnn:
    """The network trained from nothing, in evaluation mode and float32.

    Weights are drawn and rows shuffled by NumPy, whose numbers are the same everywhere, and trained in float64; what
    comes out is rounded to bfloat16.  So it is the same in every type that it may be loaded in, and the last bits, in
    which machines differ, are gone.
    """
    rows_NR = torch.from_numpy(digit_rows("calibration").copy())
    stream = np.random.default_rng(recipe.seed)
    with torch.random.fork_rng(devices=[]):  # the layers' own first weights, which nobody uses, take no random number
        model = DigitsCnn(DigitsConfig()).double()
    _draw(model, stream)
    steps = recipe.epochs * (len(rows_NR) // recipe.batch)
    optimizer = torch.optim.AdamW(model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    with torch.enable_grad():
        for batch_BR in _shuffled(rows_NR, recipe, stream):
            optimizer.zero_grad()
            model.training_loss(batch_BR).backward()
            optimizer.step()
            schedule.step()
    model.train(False).requires_grad_(False)
    model.to(torch.bfloat16).to(torch.float32)  # type: ignore[arg-type]  # transformers annotates `to` otherwise
    return model


def trained_note(name: str, model: nn.Module) -> tuple[str, ...]:
    """What a record must say when this machine trained other weights than expected."""
    digest = sha256()
    for path, tensor in sorted(model.state_dict().items()):
        digest.update(path.encode() + tensor.cpu().float().numpy().tobytes())
    if digest.hexdigest() == EXPECTED_WEIGHTS[name]:
        return ()
    return (
        f"{name} came out otherwise when it was trained on this machine: its weights are sha256:{digest.hexdigest()}",
    )


def _draw(model: nn.Module, stream: np.random.Generator) -> None:
    """First weights after He et al. 2015 (normal, variance 2 / inputs); biases are zero."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            scale = (2 / module.weight[0].numel()) ** 0.5
            module.weight.data = torch.from_numpy(stream.standard_normal(module.weight.shape) * scale)
            if module.bias is not None:
                module.bias.data.zero_()


def _shuffled(rows_NR: Tensor, recipe: Recipe, stream: np.random.Generator) -> Iterator[Tensor]:
    """Whole batches of every epoch; what is left over is left out."""
    for _ in range(recipe.epochs):
        order_N = torch.from_numpy(stream.permutation(len(rows_NR)))
        for places_B in order_N.split(recipe.batch)[: len(rows_NR) // recipe.batch]:
            yield rows_NR[places_B]
