"""What every part of the mirror needs of W&B's client: who is logged in, its environment, the names of its folders."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.errors import UserError

RUN_FOLDER = re.compile(r"offline-run-\d+_\d+-(.+)")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one run, by its id; the message says why it failed, or what else is to be known."""

    run: str
    state: Literal["written", "unchanged", "uploaded", "failed"]
    message: str = ""


def id_in(run_folder: Path) -> str:
    """The run's id as its folder says it; the folder's name where it says none."""
    found = RUN_FOLDER.fullmatch(run_folder.name)
    return found[1] if found else run_folder.name


def runs_in(folder: Path) -> list[Path]:
    """The offline runs below W&B's folder, the oldest first."""
    return sorted(path for path in folder.glob("offline-run-*") if path.is_dir())


def logged_in() -> bool:
    """Whether W&B has credentials, by its own rules; asks nobody and uses no network."""
    import wandb

    with environment(WANDB_MODE=None):
        wandb.setup(wandb.Settings(silent=True))
        return bool(wandb.login(prompt=False, verify=False))


def require_login() -> None:
    """Raises UserError when W&B has no credentials."""
    if not logged_in():
        raise UserError("not logged in to Weights & Biases; run `wandb login`, or set WANDB_API_KEY")


@contextmanager
def environment(**values: str | None) -> Iterator[None]:
    """Set environment variables (None unsets one) for a while: W&B has no other way in for these."""
    before = {name: os.environ.get(name) for name in values}
    _set_environment(values)
    try:
        yield
    finally:
        _set_environment(before)


def _set_environment(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
