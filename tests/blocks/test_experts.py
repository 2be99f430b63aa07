"""Experts of a mixture as linears: the same model, pruned as the matrices that they are."""

import copy
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from harness.blocks.experts import split_experts, stacked_again
from harness.blocks.layers import prunable_layers, prunable_shapes, weight_view
from harness.models.checkpoint import Checkpoint
from harness.models.model_cache import ModelCache
from harness.patterns import Unstructured
from harness.pruning.methods.wanda import Wanda
from tests.contexts import a_context
from tests.families import MIXTURES, plain_model

CPU = torch.device("cpu")
every_mixture = pytest.mark.parametrize("family", sorted(MIXTURES))


def logits(model: nn.Module, tokens_BL: Tensor) -> Tensor:
    """What the model says."""
    with torch.no_grad():
        out: Tensor = model(input_ids=tokens_BL, use_cache=False).logits
    return out


def prune(model: PreTrainedModel, tokens_BL: Tensor) -> None:
    """Half of every row by Wanda, two sequences at a time."""
    Wanda().run(a_context(model, tokens_BL, Unstructured(0.5), batch_tokens=2 * tokens_BL.shape[1]))


@every_mixture
def test_the_model_is_the_same_and_stacks_come_back(family: str, random_tokens: Callable[..., Tensor]) -> None:
    """Logits are those of transformers' own code, before, while and after it is put together; no weight is copied."""
    model, tokens = plain_model(family), random_tokens(3)
    plain, before, state = copy.deepcopy(model), logits(model, tokens), dict(model.named_parameters())
    split_experts(model)
    names = [name for name in prunable_shapes(model) if re.search(r"\.\d+\.(gate_up_proj|down_proj|weight)$", name)]
    assert len(names) == 2 * 4 * {"deepseek-v3": 1, "jetmoe": 4}.get(family, 2)
    shapes = {name: tensor.shape for name, tensor in state.items()}
    addresses = {tensor.untyped_storage().data_ptr() for tensor in state.values()}
    assert {weight.untyped_storage().data_ptr() for weight in model.parameters()} == addresses
    torch.testing.assert_close(logits(model, tokens), before)
    weight_view(prunable_layers(model)[names[-1]]).zero_()
    changed = logits(model, tokens)
    with stacked_again(model):
        assert {name: tensor.shape for name, tensor in model.named_parameters()} == shapes
        plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(logits(plain, tokens), changed)
    assert torch.equal(logits(model, tokens), changed)
    assert torch.equal(logits(copy.deepcopy(model), tokens), changed)


@pytest.mark.parametrize("family", ["mixtral", "gpt-oss", "granite-moe"])
def test_the_next_job_finds_the_dense_experts_again(
    family: str, tmp_path: Path, random_tokens: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the checkpoint's own tensors, be they stacked or one an expert: the model is not loaded twice."""
    plain_model(family).save_pretrained(tmp_path / "model")
    cache, checkpoint = ModelCache(), Checkpoint("local", "tiny", str(tmp_path / "model"), None, False)
    loaded = cache.take(checkpoint, "same", None)
    dense = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    outcome = Wanda().run(a_context(loaded.model, random_tokens(8), Unstructured(0.5)))
    assert any(not torch.equal(tensor, dense[name]) for name, tensor in loaded.model.state_dict().items())
    cache.give_back(outcome.change)
    monkeypatch.setattr("harness.models.model_cache.load_model", None)
    again = cache.take(checkpoint, "same", None)
    assert all(torch.equal(tensor, dense[name]) for name, tensor in again.model.state_dict().items())
