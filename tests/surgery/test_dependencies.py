"""Which layers make another layer's inputs: found in every family, and not found where it is not so."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.blocks.layers import decoder_blocks
from harness.blocks.offload import InMemory
from harness.blocks.probe import Probe, Probes
from harness.blocks.runner import BlockRunner
from harness.surgery.channels import reorders_cleanly
from harness.surgery.dependencies import DependencyGroup, find_dependency_groups
from tests.families import HIDDEN, INNER, tiny_model
from tests.models.convolutions import SIDE, ConvBlock, FlatBlock, randomised

GATED = {"mlp.down_proj": ({"mlp.gate_proj", "mlp.up_proj"}, INNER)}
FREE: dict[str, dict[str, tuple[set[str], int]]] = {
    "opt": {"fc2": ({"fc1"}, INNER)},
    "gpt-neox": {"mlp.dense_4h_to_h": ({"mlp.dense_h_to_4h"}, INNER)},
    "gpt2": {"mlp.c_proj": ({"mlp.c_fc"}, INNER)},
    "phi": {"mlp.fc2": ({"mlp.fc1"}, INNER)},
    "bloom": {"mlp.dense_4h_to_h": ({"mlp.dense_h_to_4h"}, 4 * HIDDEN)},
    "falcon": {"mlp.dense_4h_to_h": ({"mlp.dense_h_to_4h"}, 4 * HIDDEN)},
    "mixtral": {f"mlp.experts.{index}.down_proj": ({f"mlp.experts.{index}.gate_up_proj"}, INNER) for index in range(4)},
}
"""Producers and channels of every dependency group whose channels may change places; the others have gated layers."""


def probe_of(model: nn.Module, index: int) -> tuple[nn.Module, Probe]:
    """A block of a language model and its probe."""
    tokens_BL = torch.arange(3, 27).view(2, 12)
    runner = BlockRunner(model, [tokens_BL], InMemory(model), torch.device("cpu"))
    probes = Probes(runner)
    runner.position = index
    with runner.next_block() as step:
        return step.block, probes.of(step)


def run_on(*shape: int) -> Callable[[nn.Module], Tensor]:
    """Runs a block on one random input."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))

    def run(block: nn.Module) -> Tensor:
        with torch.no_grad():
            output: Tensor = block(x)
        return output

    return run


def is_free(block: nn.Module, run: Callable[[nn.Module], Tensor], dependency_group: DependencyGroup) -> bool:
    """Whether its channels may change places."""
    order_C = torch.randperm(dependency_group.num_channels, generator=torch.Generator().manual_seed(2))
    return reorders_cleanly(block, run, dependency_group, order_C)


def test_feed_forward_layers_are_found_in_every_family(family: str) -> None:
    """Producers and number of channels, in every block; values of an attention are no free channels."""
    model = tiny_model(family)
    for index in range(len(decoder_blocks(model)[1])):
        block, probe = probe_of(model, index)
        dependency_groups = find_dependency_groups(block, probe)
        free = {each.consumer: each for each in dependency_groups if is_free(block, probe, each)}
        expected = FREE.get(family, GATED)
        assert {name: (set(each.producers), each.num_channels) for name, each in free.items()} == expected
        for each in free.values():
            assert torch.equal(each.columns_CK, torch.arange(each.num_channels)[:, None])
            for rows_CM in each.producers.values():  # the halves of a gated layer lie one below the other
                assert torch.equal(rows_CM, torch.arange(rows_CM.numel()).view(-1, each.num_channels).T)


def test_nothing_is_changed_by_looking(family: str) -> None:
    """Blocks are as they were, also in half precision."""
    model = tiny_model(family).to(torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    block, probe = probe_of(model, 1)
    dependency_groups = find_dependency_groups(block, probe)
    assert {each.consumer for each in dependency_groups if is_free(block, probe, each)} == set(FREE.get(family, GATED))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_values_that_query_heads_share_are_seen() -> None:
    """Grouped-query attention: row (h, i) of v feeds value i of both query heads of h."""
    block, probe = probe_of(tiny_model("llama-gqa"), 0)
    (values,) = [each for each in find_dependency_groups(block, probe) if each.consumer == "self_attn.o_proj"]
    assert set(values.producers) == {"self_attn.v_proj"}
    expected = [[h * 16 + i, h * 16 + 8 + i] for h in range(2) for i in range(8)]
    assert values.columns_CK.tolist() == expected


class FusedGate(nn.Module):
    """Gate and up in one linear, one half after the other, as Phi-3 has them."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_up, self.down = nn.Linear(8, 2 * 12), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        output: Tensor = self.down(functional.silu(gate) * up)
        return x + output


def test_halves_of_a_fused_layer_are_seen() -> None:
    """Channel c is made by rows c and 12 + c."""
    block, run = randomised(FusedGate()), run_on(20, 8)
    (dependency_group,) = find_dependency_groups(block, run)
    assert dependency_group.producers["gate_up"].tolist() == [[c, 12 + c] for c in range(12)]
    assert is_free(block, run, dependency_group)


def test_convolutions_are_coupled_through_their_normalisation() -> None:
    """Channel c: filter c, entry c of the normalisation, and 9 columns of the next convolution."""
    block, run = randomised(ConvBlock()), run_on(2, 4, 5, 5)
    (dependency_group,) = find_dependency_groups(block, run)
    assert (dependency_group.consumer, list(dependency_group.producers), list(dependency_group.norms)) == (
        "conv_b",
        ["conv_a"],
        ["norm_a"],
    )
    assert dependency_group.columns_CK.tolist() == [list(range(9 * c, 9 * c + 9)) for c in range(6)]
    assert is_free(block, run, dependency_group)


def test_a_linear_behind_a_flattened_image_is_coupled() -> None:
    """Channel c is 16 neighbouring inputs of the linear; a normalisation without a scale is seen as well."""
    block, run = randomised(FlatBlock()), run_on(3, 4, SIDE, SIDE)
    (dependency_group,) = find_dependency_groups(block, run)
    assert (dependency_group.consumer, list(dependency_group.norms)) == ("linear", ["norm"])
    assert dependency_group.columns_CK.tolist() == [list(range(16 * c, 16 * c + 16)) for c in range(6)]
    assert is_free(block, run, dependency_group)


def test_channels_that_are_read_elsewhere_too_are_not_free() -> None:
    """A skip connection adds what conv_a made to the output: channels cannot change places."""
    block, run = randomised(ConvBlock(skips=True)), run_on(2, 4, 5, 5)
    (dependency_group,) = find_dependency_groups(block, run)
    assert not is_free(block, run, dependency_group)


class Mixed(nn.Module):
    """A normalisation over all features lies between two linears."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(8, 12), nn.LayerNorm(12), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.second(self.norm(self.first(x)))
        return output


def test_channels_that_are_mixed_on_the_way_are_not_coupled() -> None:
    """Every row changes every feature through the normalisation's statistics."""
    assert find_dependency_groups(randomised(Mixed()), run_on(20, 8)) == []


@pytest.mark.parametrize("groups", [2, 4])
def test_grouped_convolutions_are_left_alone(groups: int) -> None:
    """Their filters read a part of the channels each."""
    block = ConvBlock(channels=4, inner=8)
    block.conv_b = nn.Conv2d(8, 4, 3, padding=1, groups=groups)
    assert find_dependency_groups(randomised(block), run_on(2, 4, 5, 5)) == []
