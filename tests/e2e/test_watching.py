"""What those who watch a results folder see of a sweep, and the server that shows it to them."""

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.jobs import launch
from harness.tracking.live import running_jobs, sweeps
from harness.tracking.store import RecordStore
from tests.e2e.conftest import Outcome

pytestmark = pytest.mark.e2e
Cli = Callable[..., Outcome]


def test_a_sweep_can_be_watched(
    cli: Cli, job: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a job runs its sweep's plan and its own step are there; afterwards the sweep is marked as ended."""
    root = tmp_path / "results"
    seen = []

    class Spy(launch.JobReporter):
        def start(self, step: str, total: int) -> None:
            super().start(step, total)
            (sweep,) = sweeps(root)
            seen.append((sweep.ended, len(sweep.jobs), [running.job_id for running in running_jobs(root)]))

    monkeypatch.setattr(launch, "JobReporter", Spy)
    outcome = cli("run", "-m", *job, "method=magnitude,wanda", "pattern=2:4")
    assert outcome.code == 0, outcome.err
    (sweep,) = sweeps(root)
    assert sweep.ended is not None
    assert running_jobs(root) == []
    assert {(ended, jobs) for ended, jobs, _ in seen} == {(None, 2)}
    assert {job for _, _, running in seen for job in running} == set(sweep.jobs)


def test_a_single_job_makes_no_sweep(cli: Cli, job: tuple[str, ...], tmp_path: Path) -> None:
    """There is nothing to plan."""
    assert cli("run", *job, "pattern=2:4").code == 0
    assert sweeps(tmp_path / "results") == []


def test_the_server_says_where_it_is_and_ends_cleanly_when_interrupted(tmp_path: Path) -> None:
    """Ctrl-C ends it with 0 and without a traceback."""
    command = [sys.executable, "-m", "harness", "serve", "--port", "0", "--results-dir", str(tmp_path)]
    # Where the tests run in the background, SIGINT is ignored, and what they start would inherit that.
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **heard) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        address = re.search(r"http://127\.0\.0\.1:\d+/", server.stdout.readline())
        assert address
        with urllib.request.urlopen(f"{address.group()}live.json") as answer:
            assert answer.status == 200
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
        assert server.stderr.read() == ""


def test_ctrl_c_ends_a_sweep_with_one_line_and_what_is_done_stays(
    cli: Cli, job: tuple[str, ...], tmp_path: Path
) -> None:
    """Exit code 130, no traceback; the same command then runs what is left."""
    results = tmp_path / "results"
    sweep = [*job, "-m", "method=magnitude,wanda,sparsegpt", f"sparsity={','.join(f'0.{n}' for n in range(11, 99))}"]
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    command = [sys.executable, "-m", "harness", "run", *sweep]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **heard) as running:
        deadline = time.monotonic() + 120
        while not RecordStore(results).all() and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    assert "Traceback" not in said
    assert said.strip().splitlines()[-1].startswith("prunebench: interrupted")
    done = len(RecordStore(results).all())
    assert 0 < done < 264
    left = json.loads(cli("plan", "--json", *sweep).out)
    assert Counter(row["state"] for row in left) == {"done": done, "new": 264 - done}
