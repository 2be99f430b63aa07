"""One accelerator a process: of workers that may take any, each takes another, whichever launcher started them."""

import itertools
import os
import sys
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout

VISIBLE = "CUDA_VISIBLE_DEVICES"
RANKS = ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK")
"""What launchers tell a worker of its place among those of one machine."""
_held: list[FileLock] = []
"""For as long as the process lives."""


def pin() -> None:
    """Leave this process one CUDA device of those that it sees: the one that the fewest processes of the user hold.

    The search starts at the worker's rank, where its launcher tells one: locks in the folder of temporary files do not
    reach workers in containers of their own.  A process that has used CUDA stays where it is.
    """
    if _held or ("torch" in sys.modules and sys.modules["torch"].cuda.is_initialized()):
        return
    devices = _visible()
    if len(devices) < 2:
        return
    ranks = [os.environ[name] for name in RANKS if os.environ.get(name, "").isdecimal()]  # else it is no launcher's
    start = int(ranks[0]) % len(devices) if ranks else 0
    folder = Path(tempfile.gettempdir(), f"prunebench-{os.getuid()}")
    folder.mkdir(exist_ok=True)
    for number in itertools.count():
        for device in devices[start:] + devices[:start]:
            lock = FileLock(folder / f"cuda-{device.replace('/', '-')}.{number}.lock")
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            _held.append(lock)
            os.environ[VISIBLE] = device
            return


def _visible() -> list[str]:
    named = os.environ.get(VISIBLE)
    if named is not None:
        return [device.strip() for device in named.split(",") if device.strip()]
    import torch  # asks the driver, and does not initialise CUDA, which would read the variable for good

    return [str(index) for index in range(torch.cuda.device_count())]
