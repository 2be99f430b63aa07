"""The sizes of a model come out of its files' headers as they are in the model."""

import json
import math
from pathlib import Path

import pytest

from harness.blocks.layers import decoder_blocks
from harness.models.checkpoint import Checkpoint
from harness.models.dimensions import dimensions_of, of_config
from tests.families import FAMILIES, HIDDEN, MIXTURES, VOCAB, plain_model


def local(folder: Path) -> Checkpoint:
    """A folder as a checkpoint."""
    return Checkpoint("local", "tiny", str(folder), None, False)


@pytest.mark.parametrize("family", sorted({*FAMILIES, *MIXTURES} - {"deepseek-v3"}))  # its first block is smaller
def test_sizes_are_those_of_the_model(family: str, tmp_path: Path) -> None:
    """Blocks, weights, vocabulary and width, from several shards and whatever the family calls its tensors."""
    model = plain_model(family)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    dimensions = dimensions_of(local(tmp_path))
    assert dimensions is not None
    _, blocks = decoder_blocks(model)
    largest = max(blocks, key=lambda block: sum(weight.numel() for weight in block.parameters()))
    assert dimensions.num_blocks == len(blocks)
    assert dimensions.block_weights == sum(weight.numel() for weight in largest.parameters())
    assert dimensions.num_weights == sum(weight.numel() for weight in model.parameters())
    assert (dimensions.vocab_size, dimensions.hidden_size) == (VOCAB, HIDDEN)
    assert dimensions.stored_type == "F32"
    assert dimensions.stored_bytes == 4 * dimensions.num_weights


@pytest.mark.parametrize("family", sorted({*FAMILIES} - set(MIXTURES)))
def test_a_configuration_tells_the_sizes(family: str, tmp_path: Path) -> None:
    """The matrices of every block, joined or not, and the embeddings; without biases, norms and positions."""
    model = plain_model(family)
    model.save_pretrained(tmp_path)
    told, read = of_config(json.loads((tmp_path / "config.json").read_text())), dimensions_of(local(tmp_path))
    assert told is not None
    assert read is not None
    assert (told.num_blocks, told.vocab_size, told.hidden_size) == (read.num_blocks, VOCAB, HIDDEN)
    assert told.stored_type == "F32"
    sizes = [sum(map(math.prod, each.matrices)) for each in (told, read)]
    assert sizes[0] == sizes[1]
    assert 0.85 * read.num_weights <= told.num_weights <= read.num_weights


@pytest.mark.parametrize("family", sorted(MIXTURES))
def test_a_configuration_of_experts_tells_no_sizes(family: str) -> None:
    """How many experts there are, and how wide, each family says in its own way."""
    assert of_config(plain_model(family).config.to_dict()) is None


def test_there_is_no_dimensions_without_files(tmp_path: Path) -> None:
    """A checkpoint that is not on this machine has no sizes, rather than invented ones."""
    assert dimensions_of(local(tmp_path)) is None
    assert dimensions_of(Checkpoint("hub", "none", "no-such/repository", None, False)) is None
