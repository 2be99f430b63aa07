"""Tiny models, token ids, and the folders of golden outcomes and data that some tests read."""

import os
from collections.abc import Callable
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub's client is imported; tests ask `tests.hub` or nobody

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from tests.families import FAMILIES, VOCAB

# A time limit for one example says more about the machine than about the code, and examples are the same every run.
settings.register_profile("prunebench", deadline=None, derandomize=True)
settings.load_profile("prunebench")

FOLDERS = ("PRUNEBENCH_GOLDEN", "PRUNEBENCH_DATA")
REQUIRED = "PRUNEBENCH_FOLDERS"
"""Set where these folders must be there, as in CI: without one of them no test is run, and pytest fails."""


def pytest_configure() -> None:
    """Stop before the first test where a folder that is required would be missed in silence."""
    if not os.environ.get(REQUIRED):
        return
    missing = [variable for variable in FOLDERS if not _is_filled(os.environ.get(variable))]
    if missing:
        said = ", ".join(f"{variable}={os.environ.get(variable, '')}" for variable in missing)
        raise pytest.UsageError(f"{REQUIRED} is set, but these name no folder with files in it: {said}")


@pytest.fixture(params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    """Every family of models in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Outcomes of the published codes on two tiny models; the test is skipped where they are not at hand."""
    return _folder("PRUNEBENCH_GOLDEN")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Corpora and tasks in the layout that README names; the test is skipped where they are not at hand."""
    return _folder("PRUNEBENCH_DATA")


@pytest.fixture
def random_tokens() -> Callable[..., Tensor]:
    """Make token ids [sequences, length] of the tiny vocabulary, the same for equal arguments."""

    def make(sequences: int, length: int = 12, *, seed: int = 0) -> Tensor:
        return torch.randint(3, VOCAB, (sequences, length), generator=torch.Generator().manual_seed(seed))

    return make


def _is_filled(folder: str | None) -> bool:
    return bool(folder) and Path(str(folder)).is_dir() and any(Path(str(folder)).iterdir())


def _folder(variable: str) -> Path:
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(f"{variable} is not set")
    assert Path(folder).is_dir(), f"{variable}={folder} is not a folder"
    return Path(folder)
