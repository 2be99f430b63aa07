"""The store of records: one JSON file a job, written whole or not at all.

The folder says what a record is worth::

    results/<model>/<job_id>.json                  done, from a clean checkout
    results/<model>/<job_id>.questions.*.parquet   its answers per question, which the record lists by digest
    results/scratch/dirty/<model>/<job_id>.json    done, with uncommitted changes to code or configuration
    results/scratch/failed/<job_id>.json           failed, with its traceback
    results/scratch/claims/<job_id>.claim/         a process runs this job right now
"""

import glob
import os
import re
from collections.abc import Iterable, Iterator, Set
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from harness.data.files import read_file, write_file
from harness.errors import UserError, setting_aside
from harness.record import RunRecord, from_json, to_json
from harness.tracking import claims

RECORD_NAME = re.compile(r".+__[0-9a-f]{8}\.json")
"""A job id ends in its digest; other files below the results folder are no records."""

SCRATCH = "scratch"
CLAIMS = "claims"


@dataclass(frozen=True, slots=True)
class Stored:
    """A record, its file, and what that was when it was read: its time in ns and its size."""

    record: RunRecord
    path: Path
    stamp: tuple[int, int]


class RecordStore:
    """The records below one results folder.

    What is there and cannot be read as a record is named once and set aside, so that one bad file stops no table and
    no sweep.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[Path, Stored] = {}

    def path_of(self, record: RunRecord) -> Path:
        """Where a record belongs, by its status and by the state of the checkout that made it."""
        if record.status == "failed":
            return self._failed(record.job_id)
        base = self.root / SCRATCH / "dirty" if record.provenance.dirty else self.root
        return base / _one_component(record.job["model"]["name"]) / f"{_one_component(record.job_id)}.json"

    def save(self, record: RunRecord, questions: bytes | None = None) -> Path:
        """Write a record atomically and durably; a done record replaces an earlier failure of its job.

        Args:
            questions: content of the file that the record lists; written before the record, so that a record never
                lists what is not there.

        Raises:
            UserError: the folder cannot be written or the disk is full; an earlier record is then still whole.
        """
        path = self.path_of(record)
        assert (record.questions is None) == (questions is None), "a record lists its answers, and they are given"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if record.questions is not None and questions is not None:
                write_file(path.with_name(record.questions.name), questions)
            if record.status == "done":
                self._failed(record.job_id).unlink(missing_ok=True)
            write_file(path, to_json(record))
            with suppress(UserError):  # another record of the job, in the other folder, cannot be read
                for old in self._unlisted(record.job_id):
                    old.unlink(missing_ok=True)
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
        paths = self._done_paths(glob.escape(_one_component(job_id)) + ".json*")  # a pattern, to find lost links
        if len(paths) == 1:
            return self._read(paths[0]).record, paths[0]
        found = []
        for path in paths:
            with setting_aside():
                found.append((self._read(path).record, path))
        if paths and not found:
            raise UserError(f"no record of {job_id} can be read")
        whole = [each for each in found if wanted <= {result.protocol for result in each[0].results}]
        return next(iter([*whole, *found]), None)

    def failure(self, job_id: str) -> tuple[RunRecord, Path] | None:
        """The failed record of a job and its path; None when there is none.

        Raises:
            UserError: the file is not a readable record.
        """
        path = self._failed(job_id)
        return (self._read(path).record, path) if os.path.lexists(path) else None

    def all(self) -> list[RunRecord]:
        """Every done record, one a job (a clean one before a dirty one), ordered by job id."""
        return [stored.record for stored in self._readable(self._done_paths())]

    def failures(self) -> list[RunRecord]:
        """Every failed record, ordered by job id."""
        return [stored.record for stored in self._readable(self._failed_paths())]

    def stored(self) -> list[Stored]:
        """What `all` reads, then what `failures` reads; a file that has not changed is not read again."""
        return [*self._readable(self._done_paths()), *self._readable(self._failed_paths())]

    @contextmanager
    def claim(self, job_id: str) -> Iterator[bool]:
        """Hold a job while it runs: True when it is ours, False when another process has it right now.

        A claim whose holder was killed is free again; what it left of the job is cleared.

        Raises:
            UserError: the claim's folder cannot be written.
        """
        folder = self.root / SCRATCH / CLAIMS
        with ExitStack() as held:
            try:
                ours = held.enter_context(claims.claim(folder, _one_component(job_id)))
            except OSError as error:
                raise UserError(f"cannot claim the job in {folder}: {error.strerror or error}") from error
            if ours:
                for left in self.leftovers(job_id):
                    left.unlink(missing_ok=True)
            yield ours

    def leftovers(self, job_id: str) -> list[Path]:
        """What a killed process can leave of a job: temporary files, and answers that no record lists."""
        name, scratch = glob.escape(_one_component(job_id)), self.root / SCRATCH
        left = [path for base in (self.root, scratch, scratch / "dirty") for path in base.glob(f"*/.{name}.*.tmp")]
        with suppress(UserError):  # who asks for a record that cannot be read is told; its answers are kept with it
            left += self._unlisted(job_id)
        return left

    def _unlisted(self, job_id: str) -> Iterator[Path]:
        for base in (self.root, self.root / SCRATCH / "dirty"):
            for path in base.glob(f"*/{glob.escape(job_id)}.questions*.parquet"):
                record = path.with_name(f"{job_id}.json")
                listed = self._read(record).record.questions if os.path.lexists(record) else None
                if listed is None or listed.name != path.name:
                    yield path

    def _done_paths(self, name: str = "*.json") -> list[Path]:
        """Files of done records, clean ones in front."""
        paths = [path for base in (self.root, self.root / SCRATCH / "dirty") for path in sorted(base.glob(f"*/{name}"))]
        return [path for path in paths if RECORD_NAME.fullmatch(path.name)]

    def _failed_paths(self) -> list[Path]:
        paths = (self.root / SCRATCH / "failed").glob("*.json")
        return [path for path in paths if RECORD_NAME.fullmatch(path.name)]

    def _readable(self, paths: Iterable[Path]) -> list[Stored]:
        """The first of each name that can be read, ordered by name."""
        found: dict[str, Stored] = {}
        for path in paths:
            if path.name not in found and os.path.lexists(path):  # it may be gone, replaced by a better record
                with setting_aside():
                    found[path.name] = self._read(path)
        return [found[name] for name in sorted(found)]

    def _read(self, path: Path) -> Stored:
        """Raises UserError where there is no readable record of the job that the file is named after."""
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size)
            known = self._known.get(path)
            if known is not None and known.stamp == stamp:
                return known
            data = read_file(path)
        except OSError as error:
            raise UserError(f"cannot read the record {path}: {error.strerror or error}") from error
        record = from_json(data, str(path))
        if record.job_id != path.stem:
            raise UserError(f"{path} is the record of another job, {record.job_id!r}")
        self._known[path] = Stored(record, path, stamp)
        return self._known[path]

    def _failed(self, job_id: str) -> Path:
        return self.root / SCRATCH / "failed" / f"{_one_component(job_id)}.json"


def _one_component(name: str) -> str:
    """`name`, which must be usable as the name of one file or folder."""
    assert re.fullmatch(r"[^./\0][^/\0]*", name), f"{name!r} is no file name"
    return name
