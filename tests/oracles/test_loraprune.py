"""LoRAPrune's estimate beside true gradients, and what its training leaves of a tiny model."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.blocks.layers import decoder_blocks, prunable_linears, weight_view
from harness.patterns import Structured
from harness.pruning.adapters import Adapter
from harness.pruning.methods.loraprune import LoraPrune
from harness.pruning.numerics.lora_gradients import sensitivity
from tests.contexts import a_context
from tests.families import tiny_model


def test_the_estimate_is_the_gradient_where_the_adapter_can_say_it() -> None:
    """With A of full rank and B = 0 the gradient of B is that of the product times A: G = dB A."""
    generator = torch.Generator().manual_seed(0)
    weight_OI, gradient_OI = (torch.randn(3, 4, generator=generator).double() for _ in range(2))
    a_RI = torch.linalg.qr(torch.randn(4, 4, generator=generator).double()).Q
    b_OR = torch.zeros(3, 4).double()
    found_OI = sensitivity(weight_OI, (a_RI, b_OR), (torch.zeros(4, 4).double(), gradient_OI @ a_RI.T), 2.0)
    torch.testing.assert_close(found_OI, (gradient_OI * weight_OI).abs())


@pytest.mark.parametrize("family", ["llama-gqa", "gpt2"])
def test_training_lowers_the_loss_and_is_in_the_weights(family: str, random_tokens: Callable[..., Tensor]) -> None:
    """The model that is left says the calibration sequences better than the one that was cut without training."""
    tokens_BL, losses, notes = random_tokens(4), [], []
    for rate in (1e-9, 0.01):
        model: Any = tiny_model(family)
        method = LoraPrune(steps=40, batch=4, learning_rate=rate, protect_first=0.0, protect_last=0.0)
        outcome = method.run(a_context(model, tokens_BL, Structured(0.2)))
        assert set(outcome.change.layers) == {report.name for report in outcome.layers}
        notes.append(outcome.notes[0])
        with torch.no_grad():
            losses.append(float(model(tokens_BL, labels=tokens_BL).loss))
    assert losses[1] < 0.95 * losses[0]
    assert "were trained from a loss of" in notes[0]


@torch.no_grad()
def test_what_is_merged_is_what_was_trained() -> None:
    """The linear with its adapter at work and the one that it is added to compute the same."""
    block = decoder_blocks(tiny_model("gpt2"))[1][0]
    name, linear = next(iter(prunable_linears(block).items()))
    adapter = Adapter.of(linear, 4, 8, torch.Generator().manual_seed(0))
    adapter.b_OR += torch.randn(adapter.b_OR.shape, generator=torch.Generator().manual_seed(1))
    x_TI = torch.randn(5, weight_view(linear).shape[1], generator=torch.Generator().manual_seed(2))
    module: Any = block.get_submodule(name)
    before = adapter(module, (x_TI,), module(x_TI))
    adapter.merge()
    torch.testing.assert_close(module(x_TI), before, rtol=1e-5, atol=1e-5)
