"""Decoder blocks, prunable linears and what no method reaches."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from harness.blocks.layers import decoder_blocks, prunable_linears, prunable_shapes, unpruned_weights, weight_view
from harness.errors import UserError
from tests.families import HIDDEN, INNER, plain_model, tiny_model

ATTENTION = {f"self_attn.{name}_proj" for name in "qkvo"}
GATED = ATTENTION | {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}
FUSED = {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}
EXPECTED: dict[str, tuple[str, set[str]]] = {
    "opt": (
        "model.decoder.layers",
        {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "fc1", "fc2"},
    ),
    "llama": ("model.layers", GATED),
    "llama-gqa": ("model.layers", GATED),
    "qwen3": ("model.layers", GATED),
    "gemma-2": ("model.layers", GATED),
    "gemma-3": ("model.layers", GATED),
    "mistral": ("model.layers", GATED),
    "gpt-neox": ("gpt_neox.layers", FUSED),
    "gpt2": ("transformer.h", {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}),
    "phi": (
        "model.layers",
        {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.dense", "mlp.fc1", "mlp.fc2"},
    ),
    "bloom": ("transformer.h", FUSED),
    "falcon": ("transformer.h", FUSED),
    "mixtral": (
        "model.layers",
        ATTENTION | {f"mlp.experts.{index}.{name}" for index in range(4) for name in ("gate_up_proj", "down_proj")},
    ),
}


def test_every_linear_of_every_block_is_found(family: str) -> None:
    """All linears inside the blocks are prunable; embeddings, norms and the output head are not."""
    model = tiny_model(family)
    prefix, names = EXPECTED[family]
    path, blocks = decoder_blocks(model)
    assert path == prefix
    assert len(blocks) == (4 if family.startswith("gemma") else 2)
    for block in blocks:
        linears = prunable_linears(block)
        found = {name.rpartition(".")[2] for name in linears} if names == FUSED else set(linears)
        assert found == names
    shapes = prunable_shapes(model)
    assert len(shapes) == len(blocks) * len(names)
    assert all(path.startswith(f"{prefix}.") for path in shapes)


def test_shapes_are_outputs_by_inputs() -> None:
    """Shapes are (out_features, in_features), whichever way a layer stores its weight."""
    llama, gpt2 = prunable_shapes(tiny_model("llama-gqa")), prunable_shapes(tiny_model("gpt2"))
    assert llama["model.layers.1.mlp.down_proj"] == (HIDDEN, INNER)
    assert llama["model.layers.0.self_attn.k_proj"] == (16, HIDDEN)
    assert gpt2["transformer.h.0.attn.c_attn"] == (3 * HIDDEN, HIDDEN)
    assert gpt2["transformer.h.1.mlp.c_proj"] == (HIDDEN, INNER)


@pytest.mark.parametrize("make", [lambda: nn.Linear(6, 4), lambda: Conv1D(4, 6)], ids=["Linear", "Conv1D"])
def test_weight_view_computes_and_writes_through(make: Any) -> None:
    """`x W^T + b` of the view is the layer's output, before and after something is written to the view."""
    linear = make()
    x_TI = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        linear.bias.fill_(0.5)
        for _ in range(2):
            view_OI = weight_view(linear)
            assert view_OI.shape == (4, 6)
            torch.testing.assert_close(linear(x_TI), x_TI @ view_OI.T + 0.5)
            view_OI[1, 2] = 7.0


def test_stacks_that_nobody_splits_are_unreached() -> None:
    """Experts in the form that transformers makes them are no linears: each stack is named, with its shape."""
    _, blocks = decoder_blocks(plain_model("mixtral"))
    assert dict(unpruned_weights(blocks[:1])) == {
        "0.mlp.experts.gate_up_proj": (4, 2 * INNER, HIDDEN),
        "0.mlp.experts.down_proj": (4, HIDDEN, INNER),
        "0.mlp.gate.weight": (4, HIDDEN),
    }


def test_every_matrix_is_reached_but_that_of_a_router(family: str) -> None:
    """What decides which experts a token goes to is no linear layer."""
    _, blocks = decoder_blocks(tiny_model(family))
    assert set(dict(unpruned_weights(blocks[:1]))) == ({"0.mlp.gate.weight"} if family == "mixtral" else set())


class Branched(nn.Module):
    """Two stacks side by side, and a stack inside the blocks of the larger one."""

    def __init__(self) -> None:
        super().__init__()
        self.small = nn.ModuleList([nn.Linear(2, 2)])
        self.large = nn.ModuleList([nn.ModuleDict({"experts": nn.ModuleList([nn.Linear(8, 8)] * 2)})])

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_the_outermost_stack_with_most_weights_holds_the_blocks() -> None:
    """A list inside a block (experts) is never taken for the blocks, nor is a smaller list beside them."""
    assert decoder_blocks(Branched())[0] == "large"


def test_a_model_without_a_stack_of_blocks_is_refused() -> None:
    """A model that keeps no ModuleList cannot be walked, and says so with its class."""
    with pytest.raises(UserError, match=r"Sequential.*ModuleList"):
        decoder_blocks(nn.Sequential(nn.Linear(2, 2)))
