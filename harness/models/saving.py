"""Writing a model to a folder of its own, whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UserError

if TYPE_CHECKING:
    from harness.models.loading import LoadedModel


def check_save_folder(folder: Path) -> None:
    """Raise `UserError` when a model cannot be saved to `folder`, being in use or out of reach."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"save_model={folder.absolute()} exists and is not empty; allowed: a new or empty folder")
    parent = folder.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryDirectory(dir=parent, prefix=f".{folder.name}-").cleanup()
    except OSError as error:
        raise UserError(f"save_model={folder.absolute()} cannot be written: {error.strerror or error}") from error


def save_model(loaded: LoadedModel, folder: Path) -> None:
    """Write a plain Hugging Face folder that transformers reloads.

    Raises:
        UserError: `folder` exists and is not empty.
    """
    check_save_folder(folder)
    with new_folder(folder) as partial:
        loaded.offloading.save(partial)
        if loaded.tokenizer is not None:
            loaded.tokenizer.save_pretrained(partial)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """An empty folder that becomes `folder` when the body ends without an error, and goes when it does not."""
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield partial
        partial.chmod(0o755)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
