"""Writing a model to a folder of its own, whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.models.loading import LoadedModel


def save_model(loaded: LoadedModel, folder: Path) -> None:
    """Write a plain Hugging Face folder that transformers reloads; `folder` is new or empty."""
    folder.mkdir(exist_ok=True)
    assert not any(folder.iterdir()), f"{folder} is in use"
    loaded.offloading.save(folder)
    if loaded.tokenizer is not None:
        loaded.tokenizer.save_pretrained(folder)


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
