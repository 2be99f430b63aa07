"""Models that their family's configuration cannot say: declared, saved, loaded, and refused elsewhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, GPT2LMHeadModel

from harness.blocks.layers import decoder_blocks, prunable_linears, weight_view
from harness.blocks.pruned import KEY, MODEL_TYPE, Factors, Removed
from harness.surgery.declaration import declare
from tests.families import tiny_model

FAMILIES = ("opt", "llama-gqa", "gpt2", "qwen3", "gpt-neox")


def logits(model: Any, tokens_BL: Tensor) -> Tensor:
    """What the model says."""
    with torch.no_grad():
        output: Tensor = model(input_ids=tokens_BL).logits
    return output


def changed(family: str) -> Any:
    """The first block has no attention, the last linear is two; a bias is new where there is none."""
    model = tiny_model(family)
    _, blocks = decoder_blocks(model)
    attention = next(name for name, part in blocks[0].named_children() if hasattr(part, "layer_idx"))
    blocks[0].set_submodule(attention, Removed.of(blocks[0].get_submodule(attention), 2))
    path, linear = list(prunable_linears(blocks[1]).items())[-1]
    weight_OI = weight_view(linear)
    factors = Factors(*weight_OI.shape, 5, True, weight_OI)
    for weight in factors.parameters():
        nn.init.normal_(weight, std=0.1)
    blocks[1].set_submodule(path, factors)
    if family == "llama-gqa":
        blocks[0].mlp.up_proj.bias = nn.Parameter(torch.full((48,), 0.3))
    declare(model)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_a_declared_model_loads_as_it_was(family: str, tmp_path: Path, random_tokens: Callable[..., Tensor]) -> None:
    """Its logits, and what it generates with a cache; it is one of its family's own class, and saves itself again."""
    model, tokens_BL = changed(family), random_tokens(2)
    model.save_pretrained(tmp_path / "one")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "one")
    assert isinstance(loaded, type(tiny_model(family)))
    assert torch.equal(logits(loaded, tokens_BL), logits(model, tokens_BL))
    loaded.save_pretrained(tmp_path / "two")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "two")
    assert torch.equal(logits(again, tokens_BL), logits(model, tokens_BL))
    said = [
        loaded.generate(tokens_BL[:, :5], max_new_tokens=6, do_sample=False, use_cache=use) for use in (True, False)
    ]
    assert torch.equal(*said)


def test_a_stock_reload_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the type, and by the family's own class: no other numbers ever come out."""
    changed("gpt2").save_pretrained(tmp_path)
    with pytest.raises(AttributeError, match=MODEL_TYPE):
        GPT2LMHeadModel.from_pretrained(tmp_path)
    monkeypatch.delitem(CONFIG_MAPPING._extra_content, MODEL_TYPE)  # as where the package is not imported
    with pytest.raises(ValueError, match=f"model type `{MODEL_TYPE}`"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_what_fields_leave_open_is_declared_beside_them(tmp_path: Path, random_tokens: Callable[..., Tensor]) -> None:
    """The configuration of a model says what it is, whatever it is told; where it says that by itself, nothing more."""
    model = tiny_model("opt")
    assert KEY not in declare(model).configuration
    change = declare(model, {"ffn_dim": 24})
    assert set(change.configuration) == {"ffn_dim", KEY}
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded, random_tokens(2)), logits(model, random_tokens(2)))
