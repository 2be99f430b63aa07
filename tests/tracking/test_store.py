"""The store of records: where they go, and that they are whole or not there."""

import errno
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.record import QuestionFile, RunRecord, to_json
from harness.tracking.store import RecordStore

RecordMaker = Callable[..., RunRecord]


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    """An empty store."""
    return RecordStore(tmp_path / "results")


def _files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_folder_says_what_a_record_is_worth(store: RecordStore, make_record: RecordMaker) -> None:
    """Clean, dirty and failed records lie in folders of their own, a file named by the job."""
    clean = make_record()
    job = clean.job_id
    assert store.save(clean) == store.root / "opt-125m" / f"{job}.json"
    dirty = store.root / "scratch" / "dirty" / "opt-125m" / f"{job}.json"
    assert store.save(make_record(dirty=True)) == dirty
    failed = make_record(status="failed", dirty=True)
    assert store.save(failed) == store.root / "scratch" / "failed" / f"{job}.json"


def test_saved_record_is_found_again_equal(store: RecordStore, make_record: RecordMaker) -> None:
    """What comes back is what was saved, with its path; an unknown job is None."""
    record = make_record()
    path = store.save(record)
    found = store.find(record.job_id)
    assert found is not None
    assert found[1] == path
    assert to_json(found[0]) == to_json(record)
    assert store.find("opt-125m__wanda__nm-2-4__00000000") is None


def test_clean_record_goes_before_a_dirty_one(store: RecordStore, make_record: RecordMaker) -> None:
    """A job with a dirty and a clean record is one job, and the clean record is the one."""
    dirty = make_record(dirty=True)
    store.save(dirty)
    found = store.find(dirty.job_id)
    assert found is not None
    assert found[0].provenance.dirty
    store.save(make_record())
    assert [record.provenance.dirty for record in store.all()] == [False]
    found = store.find(dirty.job_id)
    assert found is not None
    assert not found[0].provenance.dirty


def test_a_record_that_has_what_is_wanted_goes_before_one_that_has_not(
    store: RecordStore, make_record: RecordMaker
) -> None:
    """Else a checkout with changes would run forever what it has measured already."""
    whole = make_record(dirty=True)
    store.save(whole)
    store.save(replace(make_record(), results=()))
    wanted = {result.protocol for result in whole.results}
    for asked, dirty in ((frozenset(), False), (wanted, True), ({"another"}, False)):
        found = store.find(whole.job_id, asked)
        assert found is not None
        assert found[0].provenance.dirty is dirty


def test_success_ends_an_earlier_failure(store: RecordStore, make_record: RecordMaker) -> None:
    """A failed record is no done one; it goes when the job succeeds."""
    failed = make_record(status="failed")
    store.save(failed)
    assert store.find(failed.job_id) is None
    assert store.all() == []
    failure = store.failure(failed.job_id)
    assert failure is not None
    assert failure[0].error == failed.error
    store.save(make_record())
    assert store.failure(failed.job_id) is None


def test_a_failure_leaves_an_earlier_success(store: RecordStore, make_record: RecordMaker) -> None:
    """A job that fails when it is run again (for one more evaluation) keeps its done record."""
    store.save(make_record())
    store.save(make_record(status="failed"))
    assert len(store.all()) == 1


def test_all_reads_every_done_record_in_order(store: RecordStore, make_record: RecordMaker) -> None:
    """Records of several models, clean and dirty, ordered by job; other files below the folder are no records."""
    records = [make_record(seed=seed, model=model, dirty=seed == 1) for seed in (0, 1) for model in ("b", "a")]
    for record in records:
        store.save(record)
    (store.root / "tables").mkdir()
    (store.root / "tables" / "demo.json").write_text("[]")
    assert [record.job_id for record in store.all()] == sorted(record.job_id for record in records)


def test_empty_store_has_no_records(store: RecordStore) -> None:
    """A results folder that does not exist yet is an empty one."""
    assert store.all() == []


def test_a_job_whose_own_record_is_damaged_is_an_error_and_not_a_new_job(
    store: RecordStore, make_record: RecordMaker
) -> None:
    """Who asks for this one record is told its file; a dirty record that is whole stands in for it."""
    path = store.save(make_record())
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=path.name):
        store.find(path.stem)
    store.save(make_record(dirty=True))
    found = store.find(path.stem)
    assert found is not None
    assert found[0].provenance.dirty
    assert [record.provenance.dirty for record in store.all()] == [True]


@contextmanager
def _file_size_limit(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes: the system's own short write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_write_cut_short_leaves_the_old_record_whole(store: RecordStore, make_record: RecordMaker) -> None:
    """When the bytes do not fit, the message has the path, the old record stays, and no half file."""
    old = make_record()
    path = store.save(old)
    with _file_size_limit(100), pytest.raises(UserError, match=path.name):
        store.save(replace(old, notes=("new",)))
    assert _files(store.root) == [f"opt-125m/{path.name}"]
    assert path.read_bytes() == to_json(old)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_full_disk_leaves_the_old_record_whole(
    store: RecordStore, make_record: RecordMaker, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A disk that is full only when the file is synced or renamed leaves no half file either."""
    old = make_record()
    path = store.save(old)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, step, full)
        with pytest.raises(UserError, match=f"{path.name}: No space left on device"):
            store.save(replace(old, notes=("new",)))
    assert _files(store.root) == [f"opt-125m/{path.name}"]
    assert path.read_bytes() == to_json(old)


def test_folder_that_cannot_be_written_is_a_user_error(tmp_path: Path, make_record: RecordMaker) -> None:
    """A results folder that is no folder, for saving and for claiming, is one line with the path."""
    blocked = tmp_path / "results"
    blocked.write_text("in the way")
    store = RecordStore(blocked)
    with pytest.raises(UserError, match=str(blocked)):
        store.save(make_record())
    with pytest.raises(UserError, match=str(blocked)), store.claim("a__b__00000000"):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder_is_a_user_error(store: RecordStore, make_record: RecordMaker) -> None:
    """A results folder without write permission is one line with the path."""
    path = store.save(make_record())
    path.parent.chmod(0o555)
    try:
        with pytest.raises(UserError, match=path.name):
            store.save(make_record())
    finally:
        path.parent.chmod(0o755)


def test_name_that_leaves_the_folder_is_our_bug(store: RecordStore, make_record: RecordMaker) -> None:
    """A job id or a model name with a path in it never reaches the file system."""
    with pytest.raises(AssertionError, match="no file name"):
        store.save(make_record(model="org/name"))
    with pytest.raises(AssertionError, match="no file name"):
        store.find("../secret")


def _start(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *arguments], stdout=subprocess.PIPE, text=True
    )


SAVE_FOR_EVER = """
    import sys
    from dataclasses import replace
    from pathlib import Path
    from harness.record import from_json
    from harness.tracking.store import RecordStore

    record = from_json(Path(sys.argv[1]).read_bytes(), "given")
    store = RecordStore(Path(sys.argv[2]))
    for number in range(int(sys.argv[3])):
        store.save(replace(record, notes=(sys.argv[4], str(number), "x" * 200_000)))
        if number == 0:
            print("saving", flush=True)
"""


@pytest.fixture
def given(tmp_path: Path, make_record: RecordMaker) -> Path:
    """A record as a file, for other processes."""
    path = tmp_path / "given.json"
    path.write_bytes(to_json(make_record()))
    return path


def test_kill_in_the_middle_of_saving_leaves_a_whole_record(store: RecordStore, given: Path) -> None:
    """After SIGKILL at any moment the record is one that was saved, whole."""
    for delay_ms in range(8):
        process = _start(SAVE_FOR_EVER, str(given), str(store.root), "1000000", "killed")
        assert process.stdout is not None
        assert process.stdout.readline() == "saving\n"
        time.sleep(delay_ms / 1000)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert len(store.all()) == 1


def test_two_processes_saving_one_job_leave_one_whole_record(store: RecordStore, given: Path) -> None:
    """Writers do not mix: the record is the last save of one of them, and nothing else is left."""
    processes = [_start(SAVE_FOR_EVER, str(given), str(store.root), "50", name) for name in ("first", "second")]
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    (record,) = store.all()
    assert record.notes[1] == "49"
    assert _files(store.root) == [f"opt-125m/{record.job_id}.json"]


CLAIM = """
    import sys, time
    from pathlib import Path
    from harness.tracking.store import RecordStore

    with RecordStore(Path(sys.argv[1])).claim(sys.argv[2]) as ours:
        print(ours, flush=True)
        time.sleep(60)
"""


def test_claim_keeps_other_processes_away_until_the_holder_ends(store: RecordStore) -> None:
    """While a process runs a job nobody else gets it; another job is free; a killed holder's job is free again."""
    job = "opt-125m__wanda__nm-2-4__00000000"
    process = _start(CLAIM, str(store.root), job)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    with store.claim(job) as ours:
        assert not ours
    with store.claim(job.replace("wanda", "dense")) as ours:
        assert ours
    process.kill()
    process.communicate()
    with store.claim(job) as ours:
        assert ours


def test_claim_clears_what_a_killed_process_left(store: RecordStore, make_record: RecordMaker) -> None:
    """Temporary files of the job, and answers that no record lists; nothing of other jobs, and no answers that are
    listed, nor those beside a record that cannot be read.
    """
    bare = make_record()
    record = replace(bare, questions=QuestionFile(f"{bare.job_id}.questions.00.parquet", "0" * 64, 1))
    path = store.save(record, b"listed")
    kept = _files(store.root)
    for name in (f".{path.name}.1234.tmp", f"{path.stem}.questions.11.parquet", f"{path.stem}.questions.parquet"):
        path.with_name(name).write_bytes(b"left")
    assert len(store.leftovers(path.stem)) == 3
    other = path.with_name(f".{path.name.replace('wanda', 'dense')}.1234.tmp")
    other.write_bytes(b"of another")
    with store.claim(path.stem) as ours:
        assert ours
    other.unlink()
    assert _files(store.root) == kept
    path.write_bytes(b"cut")
    assert store.leftovers(path.stem) == []


def test_claim_ends_with_its_block_also_after_an_error(store: RecordStore) -> None:
    """A job that fails is free for the next try; within one process a claim is exclusive too."""

    def fail() -> None:
        with store.claim("a__b__00000000") as ours, store.claim("a__b__00000000") as again:
            assert (ours, again) == (True, False)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with store.claim("a__b__00000000") as ours:
        assert ours


def test_store_imports_nothing_heavy() -> None:
    """Tables and listings stay fast: the store does not import torch, transformers, wandb or pandas."""
    code = "import sys, harness.tracking.store; print([n for n in sys.argv[1:] if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code, "torch", "transformers", "wandb", "pandas", "hydra"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"
