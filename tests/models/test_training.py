"""Objectives, types and gradients for the time of a body, and training under masks."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from harness.blocks.layers import prunable_layers, weight_view
from harness.errors import UserError
from harness.models.checkpoint import Checkpoint
from harness.models.digits import DigitsConfig
from harness.models.folders import byte_tokenizer, random_model
from harness.models.kinds.causal_lm import next_token_loss
from harness.models.kinds.image_classifier import label_loss
from harness.models.objective import in_float32, objective_of, trainable
from harness.models.recipe import SCRATCH, digest_of
from harness.models.training import Schedule, train
from tests.families import tiny_model


def test_the_next_token_loss_is_perplexitys(random_tokens: Callable[..., Tensor]) -> None:
    """The mean over all tokens but the first; it is what transformers computes from labels."""
    model, tokens_BL = tiny_model("llama"), random_tokens(3, 9)
    expected = model(input_ids=tokens_BL, labels=tokens_BL).loss
    torch.testing.assert_close(next_token_loss(model, tokens_BL), expected)
    assert objective_of(model) is next_token_loss


def test_a_model_is_trained_on_the_loss_of_its_kind() -> None:
    """An image classifier brings its own `training_loss`."""

    class Own(nn.Module):
        config = DigitsConfig()

        def training_loss(self, batch: Tensor) -> Tensor:
            return batch.float().sum()

    assert objective_of(Own()) is label_loss
    assert float(objective_of(Own())(Own(), torch.ones(2, 3))) == 6.0


@pytest.mark.parametrize("fails", [False, True])
def test_float32_is_for_the_body_only(fails: bool) -> None:
    """Weights are float32 inside and their own type after, also after an error; buffers and ties stay."""
    model = tiny_model("llama").bfloat16()
    buffers = {name: buffer.dtype for name, buffer in model.named_buffers()}
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    try:
        with in_float32(model):
            assert {weight.dtype for weight in model.parameters()} == {torch.float32}
            assert {name: buffer.dtype for name, buffer in model.named_buffers()} == buffers
            if fails:
                raise RuntimeError
    except RuntimeError:
        assert fails
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_gradients_are_for_the_chosen_weights(random_tokens: Callable[..., Tensor]) -> None:
    """Only these get one, even where gradients are off outside; afterwards every flag is as before."""
    model = tiny_model("opt")
    flags = [weight.requires_grad for weight in model.parameters()]
    with torch.no_grad(), trainable(model, lambda name: name.endswith("fc1.weight")):
        next_token_loss(model, random_tokens(2)).backward()
        assert {name for name, weight in model.named_parameters() if weight.grad is not None} == {
            name for name, _ in model.named_parameters() if name.endswith("fc1.weight")
        }
    assert [weight.requires_grad for weight in model.parameters()] == flags
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_masked_weights_stay_zero_and_the_others_learn(family: str, random_tokens: Callable[..., Tensor]) -> None:
    """In every storage of weights; the loss falls and is reported; the model is left in evaluation mode."""
    model, tokens_BL = tiny_model(family), random_tokens(8, 10)
    removed = {
        linear: torch.rand(weight_view(linear).shape, generator=torch.Generator().manual_seed(0)) < 0.5
        for linear in prunable_layers(model).values()
    }
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1
        assert all(bool((weight_view(linear)[mask_OI] == 0).all()) for linear, mask_OI in removed.items())

    before = float(next_token_loss(model, tokens_BL).detach())
    first, last = train(model, tokens_BL, Schedule(30, 4, 3e-3, 0, only_removed=True), removed, after_step=count)
    assert steps == 30
    assert last < first < before
    assert not model.training
    for linear, mask_OI in removed.items():
        assert torch.equal(weight_view(linear) == 0, mask_OI)


def test_equal_seeds_train_alike(random_tokens: Callable[..., Tensor]) -> None:
    """The order of rows and dropout come from the schedule's seed; the global random state is left alone."""
    weights = []
    for seed in (0, 0, 1):
        model = tiny_model("opt")  # it has dropout
        torch.manual_seed(len(weights))
        state = torch.random.get_rng_state()
        train(model, random_tokens(6), Schedule(3, 2, 1e-3, seed), {}, after_step=lambda: None)
        assert torch.equal(torch.random.get_rng_state(), state)
        weights.append(torch.cat([weight.detach().flatten() for weight in model.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_random_models_are_the_same_every_time() -> None:
    """Norms one, matrices small, and one digest that changes with the configuration."""
    first, second = random_model("tiny-llama"), random_model("tiny-llama")
    assert all(torch.equal(one, two) for one, two in zip(first.parameters(), second.parameters(), strict=True))
    for weight in first.parameters():
        assert float(weight.detach().std(unbiased=False)) == pytest.approx(0.02 if weight.dim() > 1 else 0.0, rel=0.1)
    tokens_BL = torch.randint(0, SCRATCH["tiny-llama"]["vocab_size"], (2, 16))
    assert float(next_token_loss(first, tokens_BL).detach()) == pytest.approx(math.log(257), rel=0.01)
    assert digest_of("tiny-llama") == "afd114cccad5c21a"


def test_bytes_are_tokens() -> None:
    """Every text comes back as it was, with one token a byte of UTF-8."""
    tokenizer = byte_tokenizer()
    for text in ("plain", "Ünïcode 漢字 \n\t  twice  ", "'tis <unk>"):
        ids = tokenizer(text)["input_ids"]
        assert len(ids) == len(text.encode())
        assert tokenizer.decode(ids) == text
    assert tokenizer.eos_token_id == 256


def test_a_random_model_is_pinned_by_its_recipe() -> None:
    """Its name and a digest of configuration and draw; a name that is none lists those that are."""
    assert Checkpoint("random", "tiny-llama", None, None, False).identity == "random:tiny-llama@afd114cccad5c21a"
    with pytest.raises(UserError, match="unknown random model 'huge-llama'; choose from: tiny-llama"):
        _ = Checkpoint("random", "huge-llama", None, None, False).identity
