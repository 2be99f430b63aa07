"""Claims: of all processes on all machines that see a folder, one at a time runs a job.

A claim is a folder that holds one file, named after a token that is never used twice::

    <name>.claim/<token>.json    the process that holds it; the file's time is its last sign of life

It is made elsewhere and renamed into place, which a file system does for one of many, also where locks are granted to
everybody (NFS, Lustre and GPFS by their mount options).  Who gives up a claim, or takes it from a holder that is gone,
deletes the file by its token and then the folder, which fails while it holds another's: no order of events can free
what somebody else holds.

A holder is gone when its process is; of one on another machine, when it gave no sign of life for a lease.  Both times
are the file system's, so that clocks need not agree.
"""

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

from pydantic import TypeAdapter, ValidationError

from harness.data.files import read_file
from harness.tracking.processes import Process, this_process

SIGN_OF_LIFE_S = 15.0
LEASE_S = 300.0
"""Twenty signs of life: a machine that swaps or a server that is restarted costs no job."""
PROCESS = TypeAdapter(Process)


@contextmanager
def claim(folder: Path, name: str) -> Iterator[bool]:
    """Hold what `name` stands for: True when it is ours, False when another process has it right now.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place, token = folder / f"{name}.claim", uuid.uuid4().hex
    if not _take(place, token):
        yield False
        return
    ended = Event()
    signs = Thread(target=_give_signs, args=(place / f"{token}.json", ended), daemon=True)
    signs.start()
    try:
        yield True
    finally:
        ended.set()
        signs.join()
        _give_up(place, token)


def is_held(folder: Path, name: str) -> bool:
    """Whether a process that is there, or not known to be gone, holds the claim."""
    place = folder / f"{name}.claim"
    token = _token(place)
    return token is not None and not _is_gone(place, token)


def _take(place: Path, token: str) -> bool:
    """Put our claim into place, where no other is or only one whose holder is gone."""
    ours = place.with_name(f".{token}")
    ours.mkdir()
    try:
        (ours / f"{token}.json").write_bytes(PROCESS.dump_json(this_process()))
        while (holder := _put(ours, place)) != token:
            if holder is None:  # given up a moment ago
                continue
            if not _is_gone(place, holder):
                return False
            _give_up(place, holder)
        return True
    finally:
        shutil.rmtree(ours, ignore_errors=True)


def _put(ours: Path, place: Path) -> str | None:
    """Try to rename our claim into place; the token of the one that is there then."""
    try:
        os.rename(ours, place)
    except OSError as error:
        token = _token(place)  # maybe ours: a file system may call a rename failed that it has done
        if token is None and error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return token
    return ours.name.removeprefix(".")


def _give_up(place: Path, token: str) -> None:
    with suppress(OSError):
        (place / f"{token}.json").unlink(missing_ok=True)
        place.rmdir()


def _token(place: Path) -> str | None:
    """Of the claim that is in place; None where none is."""
    with suppress(OSError):
        return next((file.stem for file in place.iterdir()), None)
    return None


def _is_gone(place: Path, token: str) -> bool:
    file = place / f"{token}.json"
    try:
        alive = PROCESS.validate_json(read_file(file)).alive
        if alive is not None:
            return not alive
        return _now(place.parent) - file.stat().st_mtime > LEASE_S
    except FileNotFoundError:  # given up by now
        return True
    except (OSError, ValidationError):  # a later version's, or damaged
        return _now(place.parent) - file.lstat().st_mtime > LEASE_S


def _now(folder: Path) -> float:
    """The time of the file system."""
    clock = folder / f".{uuid.uuid4().hex}.clock"
    clock.touch()
    try:
        return clock.stat().st_mtime
    finally:
        clock.unlink(missing_ok=True)


def _give_signs(file: Path, ended: Event) -> None:
    while not ended.wait(SIGN_OF_LIFE_S):
        with suppress(OSError):  # a server that is away for a while; one that took the claim is none of our affair
            os.utime(file)
