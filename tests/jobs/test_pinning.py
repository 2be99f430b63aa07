"""Workers that may take any device take different ones, and share them evenly when there are more workers."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

WORKER = """
import os, sys
from harness.jobs.pinning import pin
pin()
pin()
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
sys.stdin.read()
"""
Start = Callable[..., str]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a process that pins itself and goes on until the test ends; the device that it has."""
    with ExitStack() as running:

        def start_it(visible: str, **variables: str) -> str:
            environment = os.environ | {"CUDA_VISIBLE_DEVICES": visible, "TMPDIR": str(tmp_path)} | variables
            worker = subprocess.Popen(
                [sys.executable, "-c", WORKER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            running.enter_context(worker)
            running.callback(worker.kill)
            assert worker.stdout is not None
            return worker.stdout.readline().strip()

        yield start_it


def test_each_worker_has_a_device_of_its_own(start: Start) -> None:
    """Whatever started them; of more workers than devices, no device has two more than another."""
    devices = "0,GPU-a, 2,MIG-b/1"
    taken = Counter(start(devices) for _ in range(6))
    assert set(taken) == {"0", "GPU-a", "2", "MIG-b/1"}
    assert max(taken.values()) == 2


def test_a_launchers_rank_is_where_the_search_starts(start: Start) -> None:
    """So that workers that cannot see each other's locks take different devices, too."""
    assert [start("0,1,2", SLURM_LOCALID=rank) for rank in ("2", "1", "1", "7")] == ["2", "1", "0", "1"]


def test_a_rank_that_is_no_number_is_not_a_launchers(start: Start) -> None:
    """The next variable is looked at, and without any the search starts at the first device."""
    assert start("0,1,2", LOCAL_RANK="all") == "0"
    assert start("0,1,2", LOCAL_RANK="", SLURM_LOCALID="2") == "2"


def test_a_single_device_is_left_as_it_is(start: Start) -> None:
    """And so is a process that sees none."""
    assert [start("GPU-a"), start("GPU-a"), start("")] == ["GPU-a", "GPU-a", ""]
