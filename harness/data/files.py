"""Files and folders that are whole or not there."""

import errno
import os
import stat
import uuid
from contextlib import suppress
from pathlib import Path

KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def read_file(path: Path) -> bytes:
    """The content of a file; anything else is let go at once: a pipe would have its reader wait for ever.

    Raises:
        OSError: it cannot be read, or is no file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind != stat.S_IFREG:
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"it is {KINDS.get(kind, 'no file')}", str(path))
    with open(descriptor, "rb") as file:
        return file.read()


def write_file(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Readers see the old file or the new one, whole, also after a kill; no half file stays.

    Args:
        durable: after a power cut, too; this waits for the disk.

    Raises:
        OSError: it cannot be written; an earlier file is then still whole.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if durable:  # the new name lives in the folder, not in the file
        sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
