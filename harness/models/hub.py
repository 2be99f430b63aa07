"""Folders of the models that come from the hub: all files of one commit, downloaded once, with safetensors only."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

from filelock import FileLock

from harness.data.assets import cache_dir
from harness.data.hub import explained
from harness.errors import UserError
from harness.models.checkpoint import Checkpoint
from harness.models.pickles import CONVERTED
from harness.models.saving import new_folder

FILES = ("*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken", "model.safetensors", "model-*.safetensors")
"""What a model and its tokenizer are loaded from; other formats of the same weights are left on the hub."""
CODE = ("*.py",)
PICKLES = ("pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json")


@cache
def hub_folder(checkpoint: Checkpoint) -> tuple[Path, tuple[str, ...]]:
    """The folder of a model, and what a record must say of how its weights came there; the hub is asked once a process.

    Raises:
        UserError: it cannot be had, with what to do; or it has no safetensors, and converting is not asked for.
    """
    checkpoint.check_resolved()
    folder = _downloaded(checkpoint, (*FILES, *(CODE if checkpoint.trust_remote_code else ())))
    if any(folder.glob("model*.safetensors")):
        return folder, ()
    if not checkpoint.convert:  # also where an earlier job asked for it: a job says itself what it is made of
        raise UserError(
            f"{_named(checkpoint)} has no model.safetensors, and pickles (pytorch_model.bin) are never loaded as they "
            "are; allowed: model.convert=true, which makes safetensors of them once, or a model.revision that has "
            "safetensors"
        )
    name = str(checkpoint.location).replace("/", "--")
    converted = cache_dir() / "models" / f"{name}-{str(checkpoint.commit)[:12]}-converted"
    converted.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{converted}.lock"):
        if not converted.exists():
            _convert(checkpoint, converted)
    hashes = json.loads((converted / CONVERTED).read_text())
    said = (", ".join(f"{file} sha256:{digest}" for file, digest in hashes[side].items()) for side in ("from", "to"))
    return converted, ("converted on this machine: {} became {}".format(*said),)


def _named(checkpoint: Checkpoint) -> str:
    return f"{checkpoint.location} at {str(checkpoint.commit)[:12]}"


def _convert(checkpoint: Checkpoint, folder: Path) -> None:
    """Make `folder` from a repository that holds pickles only.

    They are read in a process of their own, by `torch.load(weights_only=True)`, which builds tensors and nothing else.
    """
    named = _named(checkpoint)
    source = _downloaded(checkpoint, (*FILES, *PICKLES))
    if not any(source.glob("pytorch_model*.bin")):
        raise UserError(
            f"{named} has neither model.safetensors nor pytorch_model.bin; allowed: a model of transformers"
        )
    with new_folder(folder) as partial:
        command = [sys.executable, "-m", "harness.models.pickles", str(source), str(partial)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["killed"])[-1]
            raise UserError(f"{named} cannot be converted: {last}; allowed: pickles that hold tensors only")


def _downloaded(checkpoint: Checkpoint, patterns: tuple[str, ...]) -> Path:
    """The snapshot of the commit with the files of these names; what is in the cache is not downloaded again."""
    from huggingface_hub import snapshot_download

    repository = str(checkpoint.location)
    try:
        found = snapshot_download(repository, revision=checkpoint.commit, allow_patterns=list(patterns))
    except Exception as error:  # whatever a hub and the way to it can answer
        raise UserError(f"model {repository} cannot be had: {explained(error, repository)}") from error
    return Path(found)
