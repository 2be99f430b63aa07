"""Claims: one holder at a time, without locks, whoever is killed, frozen or on another machine."""

import json
import multiprocessing
import os
import random
import signal
import time
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from harness.tracking import claims
from harness.tracking.claims import LEASE_S, claim, is_held
from harness.tracking.processes import Process, this_process

FORK = multiprocessing.get_context("fork")
ELSEWHERE = Process(os.getpid(), "another-machine", "another boot", 0.0)


def left_behind(folder: Path, process: Process, seconds_ago: float, token: str = "0" * 32) -> Path:
    """A claim as a process left it that gave its last sign of life so long ago."""
    file = folder / "job.claim" / f"{token}.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(asdict(process)))
    os.utime(file, (time.time() - seconds_ago,) * 2)
    return file


def a_dead_process() -> Process:
    """One that was on this machine."""
    child = FORK.Process(target=os._exit, args=(0,))
    child.start()
    child.join()
    assert child.pid is not None
    return replace(this_process(), pid=child.pid)


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)  # killed, and its parent has not looked yet
    except psutil.NoSuchProcess:
        return False


def _claim_and_count(folder: Path, seed: int, rounds: int) -> None:
    """Claim, see to it that nobody else is inside, count; every tenth time die inside."""
    draw = random.Random(seed)
    for _ in range(rounds):
        with claim(folder, "job") as ours:
            if not ours:
                continue
            inside = folder / f"inside.{os.getpid()}"
            others = [file for file in folder.glob("inside.*") if _lives(int(file.suffix[1:]))]
            if others:
                (folder / "two-at-once").write_text(f"{inside} {others}")
            inside.touch()
            with (folder / "count").open("ab") as count:
                count.write(b".")
            time.sleep(draw.uniform(0, 1e-3))
            if (folder / "count").stat().st_size % 10 == 7:
                os.kill(os.getpid(), signal.SIGKILL)
            inside.unlink()


def test_one_of_many_holds_it_and_the_killed_ones_do_not(tmp_path: Path) -> None:
    """Twelve processes, some of which die while they hold it: never two at once, and it goes on to the end."""
    workers = [FORK.Process(target=_claim_and_count, args=(tmp_path, seed, 60)) for seed in range(12)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not (tmp_path / "two-at-once").exists()
    killed = [worker for worker in workers if worker.exitcode == -signal.SIGKILL]
    assert killed
    assert all(worker.exitcode == 0 for worker in workers if worker not in killed)
    assert (tmp_path / "count").stat().st_size > len(workers)
    with claim(tmp_path, "job") as ours:
        assert ours
    assert not is_held(tmp_path, "job")
    left = {file.name for file in tmp_path.iterdir() if not file.name.startswith("inside.")}
    assert left == {"count"}


@pytest.mark.parametrize(
    ("process", "seconds_ago", "free"),
    [
        (ELSEWHERE, 1, False),
        (ELSEWHERE, LEASE_S + 60, True),
        (replace(this_process(), numbered_by="another container"), 1, False),
        (replace(this_process(), numbered_by="another container"), LEASE_S + 60, True),
        (replace(this_process(), born=0.0), 1, False),
        (replace(this_process(), born=0.0), LEASE_S + 60, True),
        (this_process(), LEASE_S + 60, False),
    ],
    ids=["far-fresh", "far-expired", "container-fresh", "container-expired", "reused-fresh", "reused-expired", "own"],
)
def test_who_cannot_be_seen_holds_it_for_a_lease(
    process: Process, seconds_ago: float, free: bool, tmp_path: Path
) -> None:
    """Of two machines or containers with the same process ids; a process that is seen needs no sign of life."""
    left_behind(tmp_path, process, seconds_ago)
    assert is_held(tmp_path, "job") != free
    with claim(tmp_path, "job") as ours:
        assert ours == free


def test_a_dead_process_of_this_machine_holds_nothing(tmp_path: Path) -> None:
    """However fresh its last sign of life is."""
    left_behind(tmp_path, a_dead_process(), 0)
    with claim(tmp_path, "job") as ours:
        assert ours


@pytest.mark.parametrize("content", [b"", b"{", b'{"pid": "x"}', b'{"pid": 1}'])
def test_what_says_nobody_is_free_after_a_lease(content: bytes, tmp_path: Path) -> None:
    """A claim that was cut by a full disk, or is a later version's."""
    file = left_behind(tmp_path, ELSEWHERE, 0)
    file.write_bytes(content)
    with claim(tmp_path, "job") as ours:
        assert not ours
    os.utime(file, (0, 0))
    with claim(tmp_path, "job") as ours:
        assert ours


def test_who_was_frozen_frees_nothing_of_its_successor(tmp_path: Path) -> None:
    """It wakes up after its claim was taken, and ends: the other still holds it."""
    frozen = left_behind(tmp_path, ELSEWHERE, LEASE_S + 60)
    with claim(tmp_path, "job") as ours:
        assert ours
        claims._give_up(frozen.parent, frozen.stem)
        assert is_held(tmp_path, "job")
        with claim(tmp_path, "job") as again:
            assert not again


def test_a_holder_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For those who cannot see it."""
    monkeypatch.setattr(claims, "SIGN_OF_LIFE_S", 0.01)
    with claim(tmp_path, "job"):
        (file,) = (tmp_path / "job.claim").iterdir()
        os.utime(file, (0, 0))
        for _ in range(500):
            if file.stat().st_mtime:
                break
            time.sleep(0.01)
        assert file.stat().st_mtime > LEASE_S


def test_a_rename_that_is_called_failed_and_was_done_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that hears a request twice answers the second time that there is nothing to rename."""
    rename = os.rename

    def twice(source: Path, target: Path) -> None:
        rename(source, target)
        rename(source, target)

    monkeypatch.setattr(claims.os, "rename", twice)
    with claim(tmp_path, "job") as ours:
        assert ours
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """Not a job that another process runs."""
    (tmp_path / "job.claim").write_text("a file")
    with pytest.raises(NotADirectoryError), claim(tmp_path, "job"):
        pass
