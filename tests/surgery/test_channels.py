"""Channels change places and are cut out; the configuration follows."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from harness.blocks.calls import BlockCall
from harness.blocks.layers import decoder_blocks, weight_view
from harness.blocks.probe import Probe
from harness.errors import UserError
from harness.surgery.channels import channel_order, cut, cuts_cleanly, reorder, reorders_cleanly
from harness.surgery.configuration import BlockCuts, fields_after
from harness.surgery.declaration import check_declarable, declare
from harness.surgery.dependencies import DependencyGroup, find_dependency_groups
from tests.families import tiny_model
from tests.models.convolutions import SIDE, ConvBlock, ConvConfig, ConvModel, FlatBlock, randomised
from tests.surgery.test_dependencies import is_free, probe_of, run_on

BLOCKS: dict[str, tuple[nn.Module, Any]] = {
    "convolutions": (randomised(ConvBlock()), run_on(2, 4, 5, 5)),
    "flattened": (randomised(FlatBlock()), run_on(3, 4, SIDE, SIDE)),
}


def free_coupling(block: nn.Module, run: Any) -> DependencyGroup:
    """The block's one dependency group whose channels may change places."""
    (dependency_group,) = [each for each in find_dependency_groups(block, run) if is_free(block, run, each)]
    return dependency_group


def a_block(kind: str) -> tuple[nn.Module, Any]:
    """A block to be changed, and what runs it."""
    if kind in BLOCKS:
        block, run = BLOCKS[kind]
        return copy.deepcopy(block), run
    return probe_of(tiny_model(kind), 0)


every_kind = pytest.mark.parametrize("kind", [*BLOCKS, "llama-gqa", "opt", "gpt2"])


@every_kind
def test_channels_that_change_places_change_nothing(kind: str) -> None:
    """All tensors of the channels move, biases and running statistics with them; the output is the same."""
    block, run = a_block(kind)
    dependency_group = free_coupling(block, run)
    order_C = torch.randperm(dependency_group.num_channels, generator=torch.Generator().manual_seed(0))
    before, old = run(copy.deepcopy(block).float()), copy.deepcopy(block.state_dict())
    reorder(block, dependency_group, order_C)
    torch.testing.assert_close(run(block), before, rtol=1e-4, atol=1e-5)
    name = next(iter(dependency_group.producers))
    new = block.state_dict()
    if f"{name}.bias" in new:
        assert torch.equal(new[f"{name}.bias"], old[f"{name}.bias"][order_C])
    for norm in dependency_group.norms:
        assert torch.equal(new[f"{norm}.running_mean"], old[f"{norm}.running_mean"][order_C])
    linear: Any = block.get_submodule(name)
    stored = old[f"{name}.weight"]
    old_rows = stored.T if isinstance(linear, Conv1D) else stored.flatten(1)
    assert torch.equal(weight_view(linear), old_rows[order_C])


@every_kind
def test_a_cut_block_is_the_block_that_does_not_read_the_channels(kind: str) -> None:
    """Layers shrink in weights, biases and attributes; what they compute is what the blind consumer computes."""
    block, run = a_block(kind)
    dependency_group = free_coupling(block, run)
    kept_C = torch.arange(dependency_group.num_channels)[1::2]
    blind = copy.deepcopy(block)
    gone_C = torch.arange(dependency_group.num_channels)[0::2]
    consumer: Any = blind.get_submodule(dependency_group.consumer)
    weight_view(consumer)[:, dependency_group.columns_CK[gone_C].reshape(-1)] = 0.0
    assert cuts_cleanly(block, run, dependency_group, kept_C)
    cut(block, dependency_group, kept_C)
    torch.testing.assert_close(run(block), run(blind), rtol=1e-4, atol=1e-5)
    dense_sizes = {name: tensor.numel() for name, tensor in blind.named_parameters()}
    for name in (*dependency_group.producers, dependency_group.consumer):
        assert block.get_parameter(f"{name}.weight").numel() == dense_sizes[f"{name}.weight"] / 2
    for name in dependency_group.producers:
        part: Any = block.get_submodule(name)
        assert len(kept_C) in {getattr(part, each, None) for each in ("out_features", "nf", "out_channels")}
    for norm in dependency_group.norms:
        normalisation: Any = block.get_submodule(norm)
        assert normalisation.num_features == len(normalisation.running_var) == len(kept_C)


def test_channels_of_different_heads_cannot_change_places() -> None:
    """Inside a head they can, in all query heads of it alike."""
    for family in ("llama", "llama-gqa"):
        block, probe = probe_of(tiny_model(family), 0)
        (values,) = [each for each in find_dependency_groups(block, probe) if each.consumer == "self_attn.o_proj"]
        inside = torch.arange(values.num_channels).view(-1, 8).flip(1).reshape(-1)
        across = torch.arange(values.num_channels).flip(0)
        assert reorders_cleanly(block, probe, values, inside)
        assert not reorders_cleanly(block, probe, values, across)


def test_an_order_of_columns_that_no_order_of_channels_makes_is_none() -> None:
    """Two query heads share a value: they move together or not at all."""
    block, probe = probe_of(tiny_model("llama-gqa"), 0)
    (values,) = [each for each in find_dependency_groups(block, probe) if each.consumer == "self_attn.o_proj"]
    inside_I = torch.arange(32).view(4, 8).flip(1).reshape(-1)
    assert channel_order(values, inside_I) is not None
    inside_I[:8] = torch.arange(8)  # one of the heads as before
    assert channel_order(values, inside_I) is None


def cuts_of(model: Any, part: float) -> list[BlockCuts]:
    """Keep this part of the channels of every free dependency group."""
    found: list[BlockCuts] = []
    for index in range(len(decoder_blocks(model)[1])):
        block, probe = probe_of(model, index)
        dependency_group = free_coupling(block, probe)
        found.append([(dependency_group, round(dependency_group.num_channels * part))])
    return found


@pytest.mark.parametrize(
    ("family", "changes", "field"),
    [
        ("opt", {}, "ffn_dim"),
        ("llama", {}, "intermediate_size"),
        ("llama", {"intermediate_size": 32}, "intermediate_size"),
        ("gpt2", {}, "n_inner"),
        ("gpt2", {"n_inner": None}, "n_inner"),
        ("falcon", {}, "ffn_hidden_size"),
    ],
)
def test_the_field_is_found(family: str, changes: dict[str, Any], field: str) -> None:
    """By its value, among other fields of that value (32 is the hidden size, too), and where it is unset."""
    model = tiny_model(family, **changes)
    cuts = cuts_of(model, 0.75)
    fields = fields_after(model, cuts, *probe_of(model, 0))
    assert fields == {field: cuts[0][0][1]}
    for block, ((dependency_group, kept),) in zip(decoder_blocks(model)[1], cuts, strict=True):
        cut(block, dependency_group, torch.arange(kept))
    assert declare(model, fields).configuration == fields
    assert getattr(model.config, field) == cuts[0][0][1]


def test_a_model_without_such_a_field_is_refused() -> None:
    """BLOOM's feed-forward layers are four times its hidden size, whatever one asks for."""
    model = tiny_model("bloom")
    with pytest.raises(UserError, match=r"BloomForCausalLM cannot be saved with 96 of 128 channels.*allowed"):
        fields_after(model, cuts_of(model, 0.75), *probe_of(model, 0))


def test_other_sizes_in_other_blocks_are_a_list() -> None:
    """A list with one number a block, and a plain field of the last block, change together."""
    model = randomised(ConvModel(ConvConfig()))
    assert isinstance(model, ConvModel)
    runs = [run_on(2, 4, SIDE, SIDE)] * 3
    cuts: list[BlockCuts] = []
    for block, run in zip(model.blocks, runs, strict=True):
        dependency_group = free_coupling(block, run)
        cuts.append([(dependency_group, dependency_group.num_channels // 2)])
    # The first block alone, on an input of its own, stands for the model.
    shape = (2, 4, SIDE, SIDE)
    call = Probe(BlockCall((), {}, in_args=True), shape, torch.device("cpu"))
    assert fields_after(model, cuts, model.blocks[0], call) == {"inner_widths": [3, 4], "flat_width": 3}


def test_what_transformers_loads_no_causal_model_of_is_not_declared() -> None:
    """A network of our own: only fields of its configuration say what became of it."""
    model = randomised(ConvModel(ConvConfig()))
    assert isinstance(model, ConvModel)
    cut(model.blocks[0], free_coupling(model.blocks[0], run_on(2, 4, SIDE, SIDE)), torch.arange(2))
    assert declare(model).configuration == {}
    assert type(model) is ConvModel
    with pytest.raises(UserError, match=r"ConvModel cannot be saved with sizes .*; allowed: no save_model"):
        check_declarable(model)
