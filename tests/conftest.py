"""Tiny models, token ids, and the folders of golden outcomes and data that some tests read."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from tests.families import FAMILIES, VOCAB

# A time limit for one example says more about the machine than about the code, and examples are the same every run.
settings.register_profile("prunebench", deadline=None, derandomize=True)
settings.load_profile("prunebench")


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


def _folder(variable: str) -> Path:
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(f"{variable} is not set")
    assert Path(folder).is_dir(), f"{variable}={folder} is not a folder"
    return Path(folder)
