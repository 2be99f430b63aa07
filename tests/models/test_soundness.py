"""Checkpoints that would be measured as another model than they are: refused, or named in the record."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from harness.errors import UserError
from harness.models.checkpoint import Checkpoint
from harness.models.folders import byte_tokenizer
from harness.models.loading import load_from_disk, load_model
from harness.models.saving import save_model
from tests.eight_bits import in_eight_bits
from tests.families import tiny_model

SHARD = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny LLaMA on disk."""
    tiny_model("llama").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def local(folder: Path) -> Checkpoint:
    """A checkpoint in `folder`."""
    return Checkpoint("local", "tiny", str(folder), None, False)


def store(folder: Path, **tensors: Tensor) -> None:
    """Add tensors to the checkpoint."""
    save_file(load_file(folder / SHARD) | tensors, folder / SHARD, metadata={"format": "pt"})


def notes(folder: Path, *, on_disk: bool) -> tuple[str, ...]:
    """What a record would say of the checkpoint."""
    if not on_disk:
        return load_model(local(folder), None).notes
    with load_from_disk(local(folder), None, folder.parent / "scratch") as loaded:
        return loaded.notes


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("model.layers.0.self_attn.q_proj.bias", "a LlamaForCausalLM of its config.json does not use"),
        ("model.layers.2.self_attn.q_proj.weight", "more than the 2 blocks that its config.json says"),
        ("lm_head.bias", "does not use"),
    ],
)
def test_weights_that_the_model_does_not_use_are_refused(folder: Path, name: str, says: str, on_disk: bool) -> None:
    """Biases that the configuration does not know, and blocks beyond its number: in one line."""
    store(folder, **{name: torch.ones(32)})
    with pytest.raises(UserError, match=r"allowed: a checkpoint whose") as caught:
        notes(folder, on_disk=on_disk)
    assert says in str(caught.value)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("on_disk", [False, True])
def test_what_belongs_to_no_layer_is_named(folder: Path, on_disk: bool) -> None:
    """A head of another use is left out, and the record says so; tables of positions are no weights."""
    store(folder, **{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    assert notes(folder, on_disk=on_disk) == ()
    store(folder, **{"value_head.weight": torch.ones(1, 32)})
    (note,) = notes(folder, on_disk=on_disk)
    assert "1 tensors, first value_head.weight" in note


def test_a_quantised_checkpoint_is_saved_as_what_was_measured(
    folder: Path, tmp_path: Path, random_tokens: Callable[..., Tensor]
) -> None:
    """De-quantised weights are saved plain: the folder reloads to the same logits, and says nothing of 8 bits."""
    in_eight_bits(folder)
    loaded = load_model(local(folder), torch.float32)
    assert any("quantised (fp8)" in note for note in loaded.notes)
    tokens = random_tokens(2)
    with torch.no_grad():
        expected = loaded.model(tokens).logits
        save_model(loaded, tmp_path / "saved")
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
        assert torch.equal(again(tokens).logits, expected)
    assert "quantization_config" not in json.loads((tmp_path / "saved" / "config.json").read_text())


def with_tokenizer(folder: Path, *, embedded: int, surplus: dict[str, object]) -> None:
    """A tokenizer of one token a byte and those of `surplus`, for a model that embeds so many tokens."""
    tiny_model("llama", vocab_size=embedded).save_pretrained(folder)
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens(surplus)
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize(
    ("embedded", "surplus", "first"),
    [
        (250, {}, 250),  # some letters, and what ends a text
        (256, {}, 256),  # what ends a text, which scoring puts in front
        (257, {"eos_token": "<eos>"}, 257),
    ],
)
def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(
    folder: Path, embedded: int, surplus: dict[str, object], first: int, on_disk: bool
) -> None:
    """Where any text may have one: in one line, before anything is pruned."""
    with_tokenizer(folder, embedded=embedded, surplus=surplus)
    with pytest.raises(UserError, match=rf"no embedding of, first id {first}; allowed: ids 0 to {embedded - 1}$"):
        notes(folder, on_disk=on_disk)


def test_a_special_token_without_an_embedding_is_known(folder: Path) -> None:
    """Padding that somebody added is in no text, unless the text spells it: the model is loaded."""
    with_tokenizer(folder, embedded=257, surplus={"pad_token": "[PAD]"})
    assert load_model(local(folder), None).not_embedded == ("[PAD]",)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "is a Git LFS pointer"),
        (b"", "no safetensors file, or"),
        (None, "cannot be read"),
    ],
    ids=["LFS pointer", "empty", "lost"],
)
def test_files_that_are_not_there_whole_are_one_line(folder: Path, content: bytes | None, says: str) -> None:
    """When a job is planned and when it is run: a shard of the index that is a pointer, empty or lost."""
    tiny_model("llama").save_pretrained(folder / "sharded", max_shard_size="20KB")
    shard = next(iter(sorted((folder / "sharded").glob("model-*.safetensors"))))
    shard.unlink()
    if content is not None:
        shard.write_bytes(content)
    for look in (lambda: local(folder / "sharded").identity, lambda: load_model(local(folder / "sharded"), None)):
        with pytest.raises(UserError, match=says) as caught:
            look()
        assert shard.name in str(caught.value)
        assert "\n" not in str(caught.value)
