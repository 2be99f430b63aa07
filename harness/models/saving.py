"""Writing a model to a folder of its own, whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
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


def check_savable(model: PreTrainedModel) -> None:
    """See before hours are spent that a folder's configuration can say which model this is.

    Raises:
        UserError: it would say another one.
    """
    if _has_remote_code(model):  # which is written with the weights only
        return
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        again = _as_configured(model, Path(folder))
    again.tie_weights()
    _refuse({*_unlike(model, again), *_untied(model, again)})


def _check_written(model: PreTrainedModel, folder: Path) -> None:
    """Hold the files against the model: each tensor that is in memory by its values, the others by their sizes.

    Raises:
        UserError: they are not the same.
    """
    import torch

    from harness.blocks.shards import Shards
    from harness.models.checkpoint import weight_files

    again = _as_configured(model, folder)
    shards, now = Shards(weight_files(folder), again), model.state_dict()
    missing = {name for name in again.state_dict() if name not in shards}
    again.tie_weights(missing_keys=missing, recompute_mapping=False)  # takes what it ties out of `missing`
    wrong = {*missing, *shards.unexpected, *_unlike(model, again)}
    for name in now.keys() - wrong:
        if name in shards and not now[name].is_meta:
            stored = shards.stored({name: now[name]}, torch.device("cpu"))[name]
            if not torch.equal(stored, now[name].cpu()):
                wrong.add(name)
    _refuse(wrong)


def _has_remote_code(model: PreTrainedModel) -> bool:
    """Whether its code came with its checkpoint; it was trusted when that was loaded."""
    return type(model).__module__.startswith("transformers_modules")


def _as_configured(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The model without weights that the folder's configuration says."""
    from transformers import AutoConfig

    from harness.models.skeleton import skeleton

    remote = _has_remote_code(model)
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=remote)
    if getattr(config, "quantization_config", None) is not None:
        _refuse({"quantization_config of config.json"})
    return skeleton(config, config.dtype, trust_remote_code=remote)


def _unlike(one: PreTrainedModel, other: PreTrainedModel) -> set[str]:
    """Tensors that only one of two models has, or that they have in other shapes or types."""
    first, second = one.state_dict(), other.state_dict()
    forms = ({name: (tensor.shape, tensor.dtype) for name, tensor in state.items()} for state in (first, second))
    return {name for name, _ in set.symmetric_difference(*(set(form.items()) for form in forms))}


def _untied(model: PreTrainedModel, again: PreTrainedModel) -> set[str]:
    """Parameters of `model` that are one tensor, of which `again` has several."""
    now, then = (dict(each.named_parameters(remove_duplicate=False)) for each in (model, again))
    first_of: dict[int, str] = {}
    pairs = ((name, first_of.setdefault(id(tensor), name)) for name, tensor in now.items())
    return {name for name, first in pairs if name in then and first in then and then[name] is not then[first]}


def _refuse(wrong: Collection[str]) -> None:
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
