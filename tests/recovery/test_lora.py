"""LoRA after pruning: what is merged is what was trained, and what a model had learnt comes back."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from harness.blocks.layers import prunable_layers, weight_view
from harness.models.kinds.causal_lm import next_token_loss
from harness.models.training import Schedule, train
from harness.patterns import SemiStructured
from harness.progress import Silent
from harness.pruning.methods.magnitude import Magnitude
from harness.recovery.base import RecoveryContext
from harness.recovery.lora import Lora
from tests.contexts import a_context
from tests.families import tiny_model
from tests.recovery.test_masked_finetune import CPU, pruned


@pytest.mark.parametrize("family", ["llama-gqa", "gpt2", "mixtral"])
@torch.no_grad()
def test_what_is_merged_is_what_was_trained(family: str, random_tokens: Callable[..., Tensor]) -> None:
    """W + (alpha / rank) B A where W is not zero, by the formula; the model says after the merge what it did before."""
    model, rows_BL = pruned(family), random_tokens(3)
    before = {name: weight_view(linear).clone() for name, linear in prunable_layers(model).items()}
    plain = model(input_ids=rows_BL).logits
    with Lora(rank=2, alpha=6).learnt(model, seed=0) as adapters:
        assert torch.equal(model(input_ids=rows_BL).logits, plain)  # B begins at zero
        weights = [adapter.weight for adapter in adapters]
        for number, weight in enumerate(weights):
            weight.data.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(number)))
        trained = model(input_ids=rows_BL).logits.detach()
    assert len(weights) == 2 * len(before)
    for down_RI, up_OR, (name, weight_OI) in zip(weights[::2], weights[1::2], before.items(), strict=True):
        expected_OI = weight_OI + 3.0 * (up_OR @ down_RI) * (weight_OI != 0)
        torch.testing.assert_close(weight_view(prunable_layers(model)[name]), expected_OI)
    torch.testing.assert_close(model(input_ids=rows_BL).logits, trained)
    assert not torch.allclose(trained, plain)


def counting(count: int, seed: int) -> Tensor:
    """Sequences [count, 12] that go on by one step each, from random beginnings: a rule to be learnt."""
    generator = torch.Generator().manual_seed(seed)
    first, step = (torch.randint(3, 40, (count, 1), generator=generator) for _ in range(2))
    return 3 + (first + step % 3 * torch.arange(12)) % 60


def test_a_pruned_model_gets_back_what_it_had_learnt() -> None:
    """Its loss on sequences that it never saw falls, and every group of four keeps its two zeros."""
    model = tiny_model("llama")
    train(model, counting(256, seed=0), Schedule(150, 32, 1e-2, 0), {}, after_step=lambda: None)
    unseen_BL = counting(64, seed=1)

    @torch.no_grad()
    def loss() -> float:
        return float(next_token_loss(model, unseen_BL))

    Magnitude().run(a_context(model, counting(4, seed=0), SemiStructured(2, 4), batch_tokens=48))
    zeros = {name: weight_view(linear) == 0 for name, linear in prunable_layers(model).items()}
    cut = loss()
    context = RecoveryContext(model, counting(256, seed=2), 0, CPU, Silent(), 48)
    Lora(steps=60, batch=32, learning_rate=1e-2).recover(context)
    assert loss() < 0.6 * cut
    for name, linear in prunable_layers(model).items():
        assert torch.equal(weight_view(linear) == 0, zeros[name]), name
        assert (zeros[name].reshape(-1, 4).sum(dim=1) == 2).all(), name
