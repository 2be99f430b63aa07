"""The store of records: one JSON file a job, written whole or not at all.

The folder says what a record is worth::

    results/<model>/<job_id>.json                  done, from a clean checkout
    results/<model>/<job_id>.questions.parquet     its answers per question, which the record lists by digest
    results/scratch/dirty/<model>/<job_id>.json    done, with uncommitted changes to code or configuration
    results/scratch/failed/<job_id>.json           failed, with its traceback
    results/scratch/claims/<job_id>.lock           a process runs this job right now
"""

import glob
import os
import re
import uuid
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from harness.errors import UserError
from harness.record import RunRecord, from_json, to_json

RECORD_NAME = re.compile(r".+__[0-9a-f]{8}\.json")
"""A job id ends in its digest; other files below the results folder are no records."""

SCRATCH = "scratch"


class RecordStore:
    """The records below one results folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path_of(self, record: RunRecord) -> Path:
        """Where a record belongs, by its status and by the state of the checkout that made it."""
        if record.status == "failed":
            return self._failed(record.job_id)
        base = self.root / SCRATCH / "dirty" if record.provenance.dirty else self.root
        return base / _one_component(_model_name(record)) / f"{_one_component(record.job_id)}.json"

    def save(self, record: RunRecord, questions: bytes | None = None) -> Path:
        """Write a record atomically and durably; a done record replaces an earlier failure of its job.

        Args:
            questions: content of the file that the record lists; written before the record, so that a record never
                lists what is not there.

        Raises:
            UserError: the folder cannot be written or the disk is full; an earlier record is then still whole.
        """
        path = self.path_of(record)
        beside = questions_beside(path)
        listed = record.questions.name if record.questions else None
        assert listed == (None if questions is None else beside.name), f"the record lists {listed}, not {beside.name}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if questions is not None:
                _write_atomically(beside, questions)
            _write_atomically(path, to_json(record))
            if questions is None:
                beside.unlink(missing_ok=True)  # of an earlier record, whose numbers are gone
            if record.status == "done":
                self._failed(record.job_id).unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"cannot write the record {path}: {error.strerror or error}") from error
        return path

    def find(self, job_id: str, wanted: Set[str] = frozenset()) -> tuple[RunRecord, Path] | None:
        """The done record of a job and its path; None when there is none.

        Args:
            wanted: protocols; a record that has them all comes before one that has not, then a clean one before a
                dirty one.

        Raises:
            UserError: the file is not a readable record.
        """
        name = glob.escape(_one_component(job_id)) + ".json"
        bases = (self.root, self.root / SCRATCH / "dirty")
        found = [(_read(path), path) for base in bases for path in sorted(base.glob(f"*/{name}"))]
        whole = [each for each in found if wanted <= {result.protocol for result in each[0].results}]
        return next(iter([*whole, *found]), None)

    def failure(self, job_id: str) -> tuple[RunRecord, Path] | None:
        """The failed record of a job and its path; None when there is none.

        Raises:
            UserError: the file is not a readable record.
        """
        path = self._failed(job_id)
        return (_read(path), path) if path.exists() else None

    def all(self) -> list[RunRecord]:
        """Every done record, one a job (a clean one before a dirty one), ordered by job id.

        Raises:
            UserError: a file is not a readable record; the message names it.
        """
        return [_read(path) for path in self._done_paths()]

    def failures(self) -> list[RunRecord]:
        """Every failed record, ordered by job id.

        Raises:
            UserError: a file is not a readable record; the message names it.
        """
        return [_read(path) for path in self._failed_paths()]

    def paths(self) -> list[Path]:
        """Files of all records: what `all` reads, then what `failures` reads."""
        return [*self._done_paths(), *self._failed_paths()]

    @contextmanager
    def claim(self, job_id: str) -> Iterator[bool]:
        """Hold a job while it runs: True when it is ours, False when another process has it right now.

        The claim is an operating-system lock, so one whose holder was killed is free again.

        Raises:
            UserError: the claim's folder cannot be written.
        """
        path = self.root / SCRATCH / "claims" / f"{_one_component(job_id)}.lock"
        lock = FileLock(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        except OSError as error:
            raise UserError(f"cannot claim the job at {path}: {error.strerror or error}") from error
        try:
            yield True
        finally:
            lock.release()

    def _done_paths(self) -> list[Path]:
        paths: dict[str, Path] = {}
        for base in (self.root, self.root / SCRATCH / "dirty"):
            for path in base.glob("*/*.json"):
                if RECORD_NAME.fullmatch(path.name):
                    paths.setdefault(path.name, path)
        return [paths[name] for name in sorted(paths)]

    def _failed_paths(self) -> list[Path]:
        paths = (self.root / SCRATCH / "failed").glob("*.json")
        return sorted(path for path in paths if RECORD_NAME.fullmatch(path.name))

    def _failed(self, job_id: str) -> Path:
        return self.root / SCRATCH / "failed" / f"{_one_component(job_id)}.json"


def questions_beside(record: Path) -> Path:
    """Where the answers per question of the record at this path lie, if it has any."""
    return record.with_name(f"{record.stem}.questions.parquet")


def _read(path: Path) -> RunRecord:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the record {path}: {error.strerror or error}") from error
    return from_json(data, str(path))


def _model_name(record: RunRecord) -> str:
    model = record.job.get("model")
    assert isinstance(model, dict), f"record {record.job_id} names no model"
    return str(model["name"])


def _one_component(name: str) -> str:
    """`name`, which must be usable as the name of one file or folder."""
    assert re.fullmatch(r"[^./\0][^/\0]*", name), f"{name!r} is no file name"
    return name


def _write_atomically(path: Path, data: bytes) -> None:
    """Readers see the old file or the new one, whole, also after a kill or a power cut; no half file stays."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable: the new name lives in the folder, not in the file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
