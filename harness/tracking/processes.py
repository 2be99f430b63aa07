"""A process as others know it: which one, on which machine, and whether it is still there."""

import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

import psutil


@dataclass(frozen=True, slots=True)
class Process:
    """One process.

    A process id says little alone: machines, containers and times after a reboot have the same ones.
    """

    pid: Annotated[int, "process id"]
    host: Annotated[str, "name of its machine"]
    numbered_by: Annotated[str, "what hands out process ids there: the machine's boot and the container"] = ""
    born: Annotated[float | None, "when it started, Unix time; None = not known"] = None

    @property
    def alive(self) -> bool | None:
        """Whether the process is there; None where that cannot be seen from here."""
        here = this_process()
        if (self.host, self.numbered_by or here.numbered_by) != (here.host, here.numbered_by):
            return None
        try:
            process = psutil.Process(self.pid)
            born = process.create_time()
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return True  # another user's
        # A clock that was set moves the time of birth, so another time does not say that it is another process.
        return True if self.born is None or abs(born - self.born) < 1.0 else None


def this_process() -> Process:
    """The process that asks."""
    return Process(os.getpid(), socket.gethostname(), _numbered_by(), _born(os.getpid()))


@cache
def _born(pid: int) -> float:
    born: float = psutil.Process(pid).create_time()
    return born


@cache
def _numbered_by() -> str:
    found = [f"{psutil.boot_time():.0f}"]
    with suppress(OSError):
        found = [Path("/proc/sys/kernel/random/boot_id").read_text().strip()]
    with suppress(OSError):
        found.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(found)
