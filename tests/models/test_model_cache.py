"""The model that one job leaves to the next: put back exactly what changed, or loaded again."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from harness.blocks.changes import ModelChange
from harness.blocks.layers import prunable_layers, prunable_shapes
from harness.models.cache import Cache
from harness.models.checkpoint import Checkpoint
from harness.models.loading import LoadedModel, load_model
from harness.models.model_cache import ModelCache
from harness.models.saving import save_model
from tests.eight_bits import in_eight_bits
from tests.families import tiny_model


def checkpoint_of(family: str, folder: Path) -> Checkpoint:
    """A tiny model of a family in a folder."""
    save_model(LoadedModel(tiny_model(family), None), folder)
    return Checkpoint("local", "tiny", str(folder), None, False)


def state(loaded: LoadedModel) -> dict[str, Tensor]:
    """Copies of all tensors."""
    return {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}


def spoil(loaded: LoadedModel, change: ModelChange) -> None:
    """Change what the change names."""
    tensors = loaded.model.state_dict()
    for name in change.names:
        tensors[name].zero_()


def taken_twice(
    checkpoint: Checkpoint, change: Callable[[LoadedModel], ModelChange]
) -> tuple[LoadedModel, LoadedModel]:
    """What a first and a second job of a process get, the first of which makes a change."""
    cache = ModelCache()
    first = cache.take(checkpoint, "identity", torch.float32)
    made = change(first)
    spoil(first, made)
    cache.give_back(made)
    return first, cache.take(checkpoint, "identity", torch.float32)


def linears(loaded: LoadedModel) -> ModelChange:
    """Every prunable linear."""
    return ModelChange.of_weights(prunable_shapes(loaded.model))


def more(names: tuple[str, ...]) -> Callable[[LoadedModel], ModelChange]:
    """Every prunable linear and these."""
    return lambda loaded: ModelChange.of_weights(prunable_shapes(loaded.model), frozenset(names))


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("llama-gqa", linears),
        ("gpt2", linears),
        ("opt", more(("model.decoder.layers.0.fc1.bias", "model.decoder.layers.1.final_layer_norm.weight"))),
        ("llama-gqa", more(("model.embed_tokens.weight", "model.norm.weight"))),
    ],
    ids=["linears", "transposed linears", "a bias and a norm", "embeddings"],
)
def test_what_changed_is_put_back(family: str, change: Callable[[LoadedModel], ModelChange], tmp_path: Path) -> None:
    """The next job gets the same model object with every tensor as the checkpoint has it."""
    checkpoint = checkpoint_of(family, tmp_path / "model")
    expected = state(load_model(checkpoint, torch.float32))
    first, second = taken_twice(checkpoint, change)
    assert second is first
    assert not [name for name, tensor in state(second).items() if not torch.equal(tensor, expected[name])]


def test_a_checkpoint_that_stores_other_values_is_loaded_again(tmp_path: Path) -> None:
    """8-bit weights with scales: what is stored under a weight's name is not the weight."""
    checkpoint = checkpoint_of("llama", tmp_path / "model")
    in_eight_bits(tmp_path / "model")
    expected = state(load_model(checkpoint, torch.float32))
    dense = load_file(tmp_path / "model" / "model.safetensors")["model.layers.0.mlp.up_proj.weight"].float()
    assert not torch.equal(expected["model.layers.0.mlp.up_proj.weight"], dense)
    first, second = taken_twice(checkpoint, linears)
    assert second is not first
    assert not [name for name, tensor in state(second).items() if not torch.equal(tensor, expected[name])]


def test_what_a_change_does_not_name_is_not_read(tmp_path: Path) -> None:
    """Of an 8-bit checkpoint, plain tensors are put back without loading it again."""
    checkpoint = checkpoint_of("llama", tmp_path / "model")
    in_eight_bits(tmp_path / "model")
    expected = state(load_model(checkpoint, torch.float32))
    first, second = taken_twice(checkpoint, lambda _: ModelChange(tensors=frozenset({"model.norm.weight"})))
    assert second is first
    assert not [name for name, tensor in state(second).items() if not torch.equal(tensor, expected[name])]


@pytest.mark.parametrize(
    "change",
    [
        ModelChange({"model.layers.0.mlp.up_proj": ((48, 32), (24, 32))}),
        ModelChange(gone=frozenset({"model.layers.1"})),
        ModelChange(tensors=frozenset({"model.rotary_emb.inv_freq"})),
    ],
    ids=["a shape", "a module", "a tensor that no checkpoint holds"],
)
def test_what_cannot_be_put_back_is_loaded_again(change: ModelChange, tmp_path: Path) -> None:
    """Other shapes and modules, and what the checkpoint does not store."""
    cache, checkpoint = ModelCache(), checkpoint_of("llama", tmp_path / "model")
    first = cache.take(checkpoint, "identity", torch.float32)
    cache.give_back(change)
    assert cache.take(checkpoint, "identity", torch.float32) is not first


def test_a_job_that_failed_leaves_nothing(tmp_path: Path) -> None:
    """It did not say what it changed; nor does another checkpoint or type get a model that is not its own."""
    cache, checkpoint = ModelCache(), checkpoint_of("llama", tmp_path / "model")
    first = cache.take(checkpoint, "identity", torch.float32)
    second = cache.take(checkpoint, "identity", torch.float32)
    assert second is not first
    cache.give_back(ModelChange())
    assert cache.take(checkpoint, "identity", torch.float32) is second
    cache.give_back(ModelChange())
    assert cache.take(checkpoint, "another", torch.float32) is not second
    cache.give_back(ModelChange())
    halves = cache.take(checkpoint, "another", torch.bfloat16)
    assert {linear.weight.dtype for linear in prunable_layers(halves.model).values()} == {torch.bfloat16}


def test_values_of_one_scope_are_let_go_with_the_next() -> None:
    """What is large lives as long as its scope; what has none, as long as the model."""
    cache, made = Cache(), list[str]()

    def make(name: str) -> str:
        made.append(name)
        return name

    for scope in ("first", "first", "second", "first"):
        assert cache.of("large", lambda scope=scope: make(scope), scope=scope) == scope
        assert cache.of("small", lambda: make("small")) == "small"
    assert made == ["first", "small", "second", "first"]
