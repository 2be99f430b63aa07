"""Attention heads: found in every family, cut out whole, and the block computes what it does without reading them."""

import copy
from typing import Any

import pytest
import torch
from transformers import FalconConfig, FalconForCausalLM, Phi3Config, Phi3ForCausalLM, PreTrainedModel

from harness.blocks.layers import weight_view
from harness.surgery.channels import cut, reorders_cleanly
from harness.surgery.dependencies import DependencyGroup
from harness.surgery.free import find_heads, free_dependency_groups
from tests.families import HIDDEN, INNER, VOCAB, tiny_model
from tests.surgery.test_dependencies import probe_of

QUERIES_KEYS_VALUES = {f"self_attn.{name}_proj" for name in "qkv"}
HEADS: dict[str, tuple[str, set[str], int]] = {
    "opt": ("self_attn.out_proj", QUERIES_KEYS_VALUES, 4),
    "llama": ("self_attn.o_proj", QUERIES_KEYS_VALUES, 4),
    "gpt-neox": ("attention.dense", {"attention.query_key_value"}, 4),
    "gpt2": ("attn.c_proj", {"attn.c_attn"}, 4),
    "phi": ("self_attn.dense", QUERIES_KEYS_VALUES, 4),
    "bloom": ("self_attention.dense", {"self_attention.query_key_value"}, 4),
}
"""Consumer, producers and number of heads; the other families have two key/value heads with two queries each."""
SHARED = ("self_attn.o_proj", QUERIES_KEYS_VALUES, 2)
ONE_KEY = "falcon"
"""All query heads share one key and one value: there is nothing to cut."""
POSITIONED = "bloom"
"""Every head has its own slope of positions (ALiBi): its heads are not alike."""
SIZES = {
    "opt": {"self_attn": ("num_heads",)},
    "gpt2": {"attn": ("split_size",)},
    "falcon-new": {"self_attention": ("num_heads", "num_kv_heads")},
}
"""Attributes that a forward pass reads; the other families take their sizes from the tensors."""


def fused(kind: str) -> PreTrainedModel:
    """A model whose queries, keys and values are one linear: one after the other, or by head."""
    torch.manual_seed(0)
    shared: dict[str, Any] = {"vocab_size": VOCAB, "hidden_size": HIDDEN, "num_hidden_layers": 2}
    shared |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if kind == "phi3":
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": INNER}
        model: PreTrainedModel = Phi3ForCausalLM(Phi3Config(**shared, **heads))
    else:
        config = FalconConfig(**shared, num_attention_heads=4, num_kv_heads=2, new_decoder_architecture=True)
        model = FalconForCausalLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return model.eval()


def test_heads_are_found_in_every_family(family: str) -> None:
    """Slices of the output projection's input, one after the other; rows of queries, keys and values with them."""
    block, probe = probe_of(tiny_model(family), 1)
    found = find_heads(block, probe)
    if family == ONE_KEY:
        assert not [group for group in found if "attention" in group.consumer]
        return
    (group,) = [group for group in found if "att" in group.consumer]
    consumer, producers, count = HEADS.get(family, SHARED)
    assert (group.consumer, set(group.producers), group.num_channels) == (consumer, producers, count)
    assert torch.equal(group.columns_CK, torch.arange(HIDDEN).view(count, -1))
    for name, rows_CM in group.producers.items():
        assert sorted(rows_CM.flatten().tolist()) == list(range(len(weight_view(block.get_submodule(name)))))  # type: ignore[arg-type]


def heads_of(family: str) -> tuple[Any, Any, DependencyGroup]:
    """A block, its probe, and its heads."""
    block, probe = probe_of(fused(family) if family in ("phi3", "falcon-new") else tiny_model(family), 0)
    (group,) = [each for each in free_dependency_groups(block, probe, ("head",)) if each.unit == "head"]
    return block, probe, group


CUT = ["opt", "llama", "llama-gqa", "qwen3", "gemma-3", "gpt-neox", "gpt2", "phi", "mixtral", "falcon-new"]


@pytest.mark.parametrize("family", CUT)
def test_a_block_without_a_head_is_the_block_that_does_not_read_it(family: str) -> None:
    """Every head alone: the cut block computes what the whole one does with zeros for that head in its projection."""
    block, probe, group = heads_of(family)
    assert group.sizes == SIZES.get(family, {})
    for gone in range(group.num_channels):
        cut_block, blind = copy.deepcopy(block), copy.deepcopy(block)
        kept_C = torch.tensor([head for head in range(group.num_channels) if head != gone])
        change = cut(cut_block, group, kept_C)
        weight_view(blind.get_submodule(group.consumer))[:, group.columns_CK[gone]] = 0.0
        torch.testing.assert_close(probe(cut_block), probe(blind), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(probe(blind), probe(block), rtol=1e-3, atol=1e-4)
        assert set(change.layers) == {group.consumer, *group.producers}
        for before, after in change.layers.values():
            assert before != after


@pytest.mark.parametrize("family", [POSITIONED, ONE_KEY])
def test_heads_that_are_not_alike_or_alone_are_left_out(family: str) -> None:
    """The forward pass counts on them."""
    block, probe = probe_of(tiny_model(family), 0)
    assert free_dependency_groups(block, probe, ("head",)) == []
    for group in find_heads(block, probe):
        if "attention" in group.consumer:
            assert not reorders_cleanly(block, probe, group, torch.arange(group.num_channels).flip(0))


def test_channels_of_a_parallel_block_are_no_heads() -> None:
    """In GPT-NeoX the feed-forward layer is not behind the attention: a row changes a slice, of one feature."""
    block, probe = probe_of(tiny_model("gpt-neox"), 0)
    groups = free_dependency_groups(block, probe, ("channel", "head"))
    assert {(group.unit, group.consumer) for group in groups} == {
        ("channel", "mlp.dense_4h_to_h"),
        ("head", "attention.dense"),
    }


@pytest.mark.parametrize(
    ("kind", "first"),
    [("phi3", [*range(16), *range(32, 40), *range(48, 56)]), ("falcon-new", list(range(32)))],
)
def test_parts_of_a_fused_layer_are_seen(kind: str, first: list[int]) -> None:
    """Two queries, a key and a value of the first head: in three places of one linear, or side by side."""
    block, probe = probe_of(fused(kind), 0)
    (group,) = [each for each in find_heads(block, probe) if "att" in each.consumer]
    (rows_CM,) = group.producers.values()
    assert rows_CM[0].tolist() == first


def test_heads_whose_number_is_a_constant_of_the_code_are_left_out() -> None:
    """Phi-3 splits its linear by the configuration of the whole model."""
    block, probe = probe_of(fused("phi3"), 0)
    assert free_dependency_groups(block, probe, ("head",)) == []
