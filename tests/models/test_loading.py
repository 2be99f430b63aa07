"""Loading and saving: what comes back, and what is refused with one line."""

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from harness.blocks.experts import split_experts
from harness.blocks.layers import decoder_blocks, prunable_linears, weight_view
from harness.errors import UserError
from harness.job import DType
from harness.models import devices
from harness.models.checkpoint import Checkpoint
from harness.models.devices import resolve_device, resolve_dtype
from harness.models.loading import LoadedModel, load_model
from harness.models.saving import check_savable, save_model
from tests.families import VOCAB, tiny_model


def local(folder: Path) -> Checkpoint:
    """A checkpoint in `folder`."""
    return Checkpoint("local", "tiny", str(folder), None, False)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A tiny LLaMA on disk, without a tokenizer."""
    folder = tmp_path / "saved"
    save_model(LoadedModel(tiny_model("llama-gqa"), None), folder)
    return folder


@pytest.mark.parametrize("family", ["opt", "llama-gqa", "gpt2", "gemma-3", "bloom", "mixtral"])
def test_a_saved_model_reloads_with_its_zeros_and_its_logits(
    family: str, tmp_path: Path, random_tokens: Callable[..., Tensor]
) -> None:
    """The folder reloads with transformers alone: the same logits to the bit, the same zeros, safetensors only."""
    model = tiny_model(family)
    _, blocks = decoder_blocks(model)
    for block in blocks:
        for linear in prunable_linears(block).values():
            weight_view(linear)[:, ::2] = 0.0
    save_model(LoadedModel(model, None), tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").eval()
    tokens = random_tokens(2)
    with torch.no_grad():
        torch.testing.assert_close(again(tokens).logits, model(tokens).logits, rtol=0, atol=0)
    split_experts(again)
    for old, new in zip(model.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=0)
    assert not list((tmp_path / "out").glob("*.bin"))
    assert list((tmp_path / "out").glob("*.safetensors"))


def test_a_loaded_model_is_ready_to_measure(saved: Path) -> None:
    """Evaluation mode, the checkpoint's type, no tokenizer where there is none, its limits known."""
    loaded = load_model(local(saved), None)
    assert not loaded.model.training
    assert loaded.model.dtype == torch.float32
    assert loaded.tokenizer is None
    assert (loaded.vocab_size, loaded.max_length) == (VOCAB, 32)


def test_the_type_asked_for_is_the_type_loaded(saved: Path) -> None:
    """A type other than the checkpoint's converts every weight."""
    loaded = load_model(local(saved), torch.bfloat16)
    assert {weight.dtype for weight in loaded.model.parameters()} == {torch.bfloat16}


def test_a_model_without_a_limit_on_positions_says_so() -> None:
    """BLOOM's ALiBi takes any length."""
    assert LoadedModel(tiny_model("bloom"), None).max_length is None


def test_pickled_weights_are_never_loaded(saved: Path) -> None:
    """A folder whose only weights are a pickle is refused before anything is read."""
    weights = load_file(saved / "model.safetensors")
    (saved / "model.safetensors").unlink()
    torch.save(weights, saved / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        load_model(local(saved), None)


def test_weights_that_are_not_finite_are_refused(saved: Path) -> None:
    """NaN and infinity name the first weight that has them."""
    for value in (float("nan"), float("inf")):
        weights = load_file(saved / "model.safetensors")
        weights["model.layers.1.mlp.up_proj.weight"][3, 5] = value
        save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(UserError, match=r"tiny .*not finite.*model\.layers\.1\.mlp\.up_proj\.weight"):
            load_model(local(saved), None)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [('{"model_type": "no-such-model"}', "no-such-model"), ('{"model_type": "t5"}', "T5Config"), ("{", "JSON")],
    ids=["unknown type", "no causal model", "broken JSON"],
)
def test_a_folder_that_transformers_refuses_is_one_line(saved: Path, content: str, complaint: str) -> None:
    """What transformers says of a bad config reaches the user as one line with the folder's name."""
    (saved / "config.json").write_text(content)
    with pytest.raises(UserError, match=complaint) as caught:
        load_model(local(saved), None)
    assert "\n" not in str(caught.value)
    assert str(saved) in str(caught.value)


def test_damaged_weights_are_one_line(saved: Path) -> None:
    """A safetensors file that was cut short is a mistake of the input, with no traceback."""
    shard = saved / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(UserError, match="80,460 bytes, and 80,560 by its header"):
        load_model(local(saved), None)


def test_weights_that_the_checkpoint_lacks_are_not_made_up(saved: Path) -> None:
    """A checkpoint without one of the model's weights is refused: transformers would draw that weight at random."""
    weights = load_file(saved / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"model\.layers\.0\.mlp\.up_proj\.weight"):
        load_model(local(saved), None)


@pytest.mark.parametrize("change", ["a value", "a size", "a lost tensor"])
def test_a_folder_that_would_reload_as_another_model_is_refused(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written is held against the model, and is no outcome of the job where it is not the same."""
    loaded = LoadedModel(tiny_model("llama"), None)
    write = loaded.model.save_pretrained

    def write_otherwise(folder: Path) -> None:
        write(folder)
        weights = load_file(folder / "model.safetensors")
        weight = weights["model.layers.1.mlp.up_proj.weight"]
        if change == "a value":
            weight[3, 5] += 1e-3
        elif change == "a size":
            weights["model.layers.1.mlp.up_proj.weight"] = weight[:-1].clone()
        else:
            del weights["model.layers.1.mlp.up_proj.weight"]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(loaded.model, "save_pretrained", write_otherwise)
    with pytest.raises(UserError, match=r"would reload as another model, first model\.layers\.1\.mlp\.up_proj\.weight"):
        save_model(loaded, tmp_path / "out")


@pytest.mark.parametrize("change", ["a size", "a type", "a tie", "quantised"])
def test_a_model_that_its_configuration_does_not_say_is_refused_before_it_is_pruned(
    change: str, tmp_path: Path
) -> None:
    """Nothing but the configuration is written for that."""
    tiny_model("llama").save_pretrained(tmp_path)
    model = load_model(local(tmp_path), None).model
    check_savable(model)
    first = "lm_head.weight"
    if change == "a size":
        model.config.vocab_size -= 1
    elif change == "a type":
        model.lm_head.to(torch.bfloat16)
    elif change == "a tie":
        model.lm_head.weight = model.get_input_embeddings().weight
    else:
        model.config.quantization_config = {"quant_method": "fp8"}
        first = "quantization_config of config.json"
    with pytest.raises(UserError, match=f"^save_model: what was written would reload as another model, first {first};"):
        check_savable(model)


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error lists the devices of this machine; `auto` takes the first accelerator, else the CPU."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")
    for name in ("cuda", "cuda:0", "tpu"):
        with pytest.raises(UserError, match=rf"unknown device '{name}'; choose from: auto, cpu$"):
            resolve_device(name)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == torch.device("cuda:0")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UserError, match=r"cuda:2.*cuda:0, cuda:1$"):
        resolve_device("cuda:2")


def test_auto_type_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto`: the checkpoint's on an accelerator; on a CPU bfloat16 only where the processor multiplies it."""
    cpu, cuda = torch.device("cpu"), torch.device("cuda:0")
    assert resolve_dtype("auto", cuda) is None
    for native, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(devices, "multiplies_bfloat16", lambda native=native: native)
        assert resolve_dtype("auto", cpu) == expected
    assert resolve_dtype("float16", cpu) == torch.float16


def test_every_type_of_the_job_is_known() -> None:
    """The types that a job may name are those that can be resolved."""
    found = {name: resolve_dtype(name, torch.device("cpu")) for name in get_args(DType) if name != "auto"}
    assert [str(dtype) for dtype in found.values()] == [f"torch.{name}" for name in found]
