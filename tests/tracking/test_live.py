"""Files that tell watchers what runs: there while it runs, gone or marked when it has ended, never a dead job."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.progress import Silent
from harness.tracking import live
from harness.tracking.live import goes_on, running, running_jobs, sweeping, sweeps
from harness.tracking.store import RecordStore

JOB = "opt-125m__wanda__nm-2-4__03d2d445"


def test_a_running_job_says_its_step_and_progress_and_then_nothing(tmp_path: Path, monkeypatch) -> None:
    """Watchers see the step and how many parts are done, written at most once a second; the end removes the file."""
    monkeypatch.setattr(live, "PROGRESS_INTERVAL_S", 0.0)
    with running(tmp_path, JOB, Silent()) as reporter:
        reporter.start("prune", 12)
        reporter.advance(5)
        (job,) = running_jobs(tmp_path)
        assert (job.job_id, job.step, job.done, job.total, job.process.pid) == (JOB, "prune", 5, 12, os.getpid())
        monkeypatch.setattr(live, "PROGRESS_INTERVAL_S", 1e9)
        reporter.advance()
        assert running_jobs(tmp_path)[0].done == 5
        reporter.start("evaluate", 4)
        assert running_jobs(tmp_path)[0].step == "evaluate"
    assert running_jobs(tmp_path) == []
    assert list((tmp_path / "scratch" / "running").iterdir()) == []


def test_what_is_reported_reaches_the_terminal_as_well(tmp_path: Path) -> None:
    """The reporter that was given hears everything."""
    heard: list[tuple[object, ...]] = []

    class Listener:
        def start(self, step: str, total: int) -> None:
            heard.append((step, total))

        def advance(self, parts: int = 1) -> None:
            heard.append((parts,))

        def note(self, text: str) -> None:
            heard.append((text,))

    with running(tmp_path, JOB, Listener()) as reporter:
        reporter.start("load", 1)
        reporter.advance(1)
        reporter.note("mind this")
    assert heard == [("load", 1), (1,), ("mind this",)]


def test_a_job_that_fails_is_no_longer_running(tmp_path: Path) -> None:
    """The file goes however the job ends."""
    with pytest.raises(ValueError, match="boom"), running(tmp_path, JOB, Silent()):
        raise ValueError("boom")
    assert running_jobs(tmp_path) == []


def test_a_killed_job_does_not_count_as_running(tmp_path: Path) -> None:
    """Its file is still there, its process is not."""
    code = (
        "import os, signal, sys; from pathlib import Path; from harness.progress import Silent\n"
        "from harness.tracking.live import running\n"
        f"with running(Path(sys.argv[1]), {JOB!r}, Silent()): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, cwd=Path(live.__file__).parents[2])
    assert (tmp_path / "scratch" / "running" / f"{JOB}.json").exists()
    assert running_jobs(tmp_path) == []


def test_a_job_on_another_machine_is_there_while_it_is_claimed(tmp_path: Path) -> None:
    """Its process cannot be seen from here; so it is of a sweep from there."""
    with sweeping(tmp_path, "demo", [JOB, "b"], [1.5, None]), running(tmp_path, JOB, Silent()):
        for folder in ("running", "sweeps"):
            (path,) = (tmp_path / "scratch" / folder).iterdir()
            told = json.loads(path.read_bytes())
            told["process"] |= {"host": "another-machine", "pid": 1}
            path.write_text(json.dumps(told))
        with RecordStore(tmp_path).claim(JOB):
            assert [job.process.host for job in running_jobs(tmp_path)] == ["another-machine"]
            assert goes_on(tmp_path, *sweeps(tmp_path))
        assert running_jobs(tmp_path) == []
        assert not goes_on(tmp_path, *sweeps(tmp_path))


def test_a_sweep_names_its_jobs_while_it_runs_and_its_end(tmp_path: Path) -> None:
    """The plan is there from the start; the end is marked, also when a job's error ends the sweep."""
    with suppress(ValueError), sweeping(tmp_path, "demo", ["a", "b"], [1.5, None]):
        (sweep,) = sweeps(tmp_path)
        assert (sweep.name, sweep.jobs, sweep.expected_s, sweep.ended) == ("demo", ("a", "b"), (1.5, None), None)
        assert sweep.process.alive
        raise ValueError("boom")
    assert sweeps(tmp_path)[0].ended is not None


def test_only_the_latest_sweeps_are_kept(tmp_path: Path, monkeypatch) -> None:
    """Old plans do not pile up."""
    monkeypatch.setattr(live, "SWEEPS_KEPT", 2)
    for name in ("one", "two", "three"):
        with sweeping(tmp_path, name, ["a"], [None]):
            pass
    assert len(sweeps(tmp_path)) == 2


def test_a_file_that_is_no_news_is_passed_over(tmp_path: Path) -> None:
    """Half a file or one of another version stops nobody from watching."""
    with running(tmp_path, JOB, Silent()), sweeping(tmp_path, "demo", ["a"], [None]):
        for folder in ("running", "sweeps"):
            (tmp_path / "scratch" / folder / "broken.json").write_text('{"job_id"')
        assert len(running_jobs(tmp_path)) == len(sweeps(tmp_path)) == 1


def test_a_folder_that_cannot_be_written_is_said_before_anything_runs(tmp_path: Path) -> None:
    """One line with the path and the reason."""
    (tmp_path / "scratch").write_text("a file")
    said = r"cannot write the sweep's plan .*scratch/sweeps"
    with pytest.raises(UserError, match=said), sweeping(tmp_path, "x", [], []):
        pytest.fail("nothing may run")


def test_a_sweep_that_goes_on_keeps_its_plan(tmp_path: Path, monkeypatch) -> None:
    """However many short ones begin and end meanwhile."""
    monkeypatch.setattr(live, "SWEEPS_KEPT", 1)
    with sweeping(tmp_path, "long", ["a"], [None]):
        for name in ("one", "two", "three"):
            with sweeping(tmp_path, name, ["b"], [None]):
                pass
        assert "long" in {sweep.name for sweep in sweeps(tmp_path)}
