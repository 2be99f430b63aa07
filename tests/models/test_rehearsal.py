"""What is tried before hours are spent: that a model is causal, is its blocks, and which linears it calls."""

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.blocks.layers import decoder_blocks, prunable_shapes, unpruned_weights
from harness.errors import UserError
from harness.models.checkpoint import Checkpoint
from harness.models.loading import LoadedModel, load_from_disk, load_model
from harness.models.rehearsal import rehearse
from tests.families import SEES_THE_FUTURE, plain_model, tiny_model


@pytest.mark.parametrize("family", sorted(SEES_THE_FUTURE))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_sees_the_future_is_refused(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Its next tokens are no secret to it; also where its blocks are on disk, before any of them is changed."""
    plain_model(family).save_pretrained(tmp_path / "model")
    checkpoint = Checkpoint("local", "tiny", str(tmp_path / "model"), None, False)
    on_disk = load_from_disk(checkpoint, dtype, tmp_path / "own")
    with pytest.raises(UserError, match=r"^model tiny sees the future: .*; allowed: a causal language model$"), on_disk:
        pass
    assert list((tmp_path / "own").iterdir()) == []


@pytest.mark.parametrize("prefix", [2, 8])
def test_a_prefix_that_sees_itself_is_refused(prefix: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prefix LM is causal behind its prefix only, of whatever length that is; the causal one is taken."""
    model = tiny_model("llama", _attn_implementation="eager")
    rehearse("tiny", model, LoadedModel(model, None).offloading)

    def open_prefix(config: Any, inputs_embeds: torch.Tensor, **_: Any) -> torch.Tensor:
        length = inputs_embeds.shape[1]
        mask_LL = torch.full((length, length), -1e9).triu(1)
        mask_LL[:prefix, :prefix] = 0
        return mask_LL[None, None]

    monkeypatch.setattr("transformers.models.llama.modeling_llama.create_causal_mask", open_prefix)
    with pytest.raises(UserError, match="model tiny sees the future"):
        rehearse("tiny", model, LoadedModel(model, None).offloading)


def test_a_bert_that_is_told_to_be_a_decoder_is_taken(tmp_path: Path) -> None:
    """Whether a later token changes an earlier one decides, and not the name of the family."""
    plain_model("bert", is_decoder=True).save_pretrained(tmp_path)
    assert load_model(Checkpoint("local", "bert", str(tmp_path), None, False), None).num_blocks == 2


def test_a_model_that_is_no_row_of_blocks_is_refused() -> None:
    """One that changes hidden states between its blocks: replayed one after the other they are another model."""
    halved = tiny_model("rwkv")
    with pytest.raises(UserError, match="model tiny is more than its blocks, one after the other"):
        rehearse("tiny", halved, LoadedModel(halved, None).offloading)


def loaded_from(family: str, folder: Path) -> LoadedModel:
    """A model of this family, saved and loaded."""
    plain_model(family).save_pretrained(folder)
    return load_model(Checkpoint("local", family, str(folder), None, False), None)


@pytest.mark.parametrize("family", ["mamba", "jamba"])
def test_a_linear_whose_weight_is_read_by_other_code_is_not_pruned(family: str, tmp_path: Path) -> None:
    """No statistic sees its inputs; it is one of the matrices that were not reached, as the record says."""
    loaded = loaded_from(family, tmp_path)
    assert not [name for name in prunable_shapes(loaded.model) if name.endswith("dt_proj")]
    assert [name for name in dict(unpruned_weights(loaded.blocks)) if name.endswith("dt_proj.weight")]
    assert [name for name in prunable_shapes(loaded.model) if name.endswith("x_proj")]


@pytest.mark.parametrize("family", ["zamba", "zamba-2"])
def test_a_weight_that_blocks_share_is_pruned_once(family: str, tmp_path: Path) -> None:
    """In the first block that calls it; every adapter in the block that it is for; no weight counts twice."""
    loaded = loaded_from(family, tmp_path)
    names = list(prunable_shapes(loaded.model))
    assert "model.layers.1.shared_transf" in " ".join(names)
    assert "shared_transf" not in " ".join(name for name in names if ".layers.3." in name and "adapter" not in name)
    adapters = [name.split(".")[2] for name in names if "gate_up_proj_adapter" in name]
    assert adapters == (["1", "1", "3", "3"] if family == "zamba-2" else [])
    assert not [name for name in dict(unpruned_weights(loaded.blocks)) if "shared_transf" in name]


def test_of_text_and_images_the_stack_of_text_is_pruned(tmp_path: Path) -> None:
    """Though the other one is larger."""
    loaded = loaded_from("gemma-3-images", tmp_path)
    assert decoder_blocks(loaded.model)[0] == "model.language_model.layers"
    sizes = [
        sum(weight.numel() for weight in part.parameters()) for part in (loaded.blocks, loaded.model.model.vision_tower)
    ]
    assert sizes[0] < sizes[1]
