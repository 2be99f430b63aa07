"""Writing a model to a folder of its own, whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from harness.models.loading import LoadedModel


def save_model(loaded: LoadedModel, folder: Path) -> None:
    """Write a plain Hugging Face folder that transformers reloads as what was measured; `folder` is new or empty.

    Raises:
        UserError: what was written is another model.
    """
    folder.mkdir(exist_ok=True)
    assert not any(folder.iterdir()), f"{folder} is in use"
    loaded.offloading.save(folder)
    if loaded.tokenizer is not None:
        loaded.tokenizer.save_pretrained(folder)
    _check_written(loaded.model, folder)


def _check_written(model: PreTrainedModel, folder: Path) -> None:
    """Hold the files against the model: each tensor that is in memory by its values, the others by their sizes.

    Raises:
        UserError: they are not the same.
    """
    import torch
    from transformers import AutoConfig

    from harness.blocks.shards import Shards
    from harness.models.checkpoint import weight_files
    from harness.models.skeleton import skeleton

    remote = type(model).__module__.startswith("transformers_modules")  # its code was trusted when it was loaded
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=remote)
    again = skeleton(config, config.dtype, trust_remote_code=remote)
    shards, now, then = Shards(weight_files(folder), again), model.state_dict(), again.state_dict()
    missing = {name for name in then if name not in shards}
    again.tie_weights(missing_keys=missing, recompute_mapping=False)  # takes what it ties out of `missing`
    wrong = [*missing, *shards.unexpected, *(now.keys() ^ then.keys())]
    for name in now.keys() & then.keys():
        alike = (now[name].shape, now[name].dtype) == (then[name].shape, then[name].dtype)
        if alike and name in shards and not now[name].is_meta:
            alike = torch.equal(shards.stored({name: now[name]}, torch.device("cpu"))[name], now[name].cpu())
        if not alike:
            wrong.append(name)
    if wrong:
        raise UserError(
            f"save_model: what was written would reload as another model, first {min(wrong)}; allowed: no save_model"
        )


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """An empty folder that becomes `folder` when the body ends without an error, and goes when it does not.

    Only one process makes it at a time; what one that was killed left of it is cleared.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
