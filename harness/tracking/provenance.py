"""Where a record comes from: the commit, the packages, the machine."""

import logging
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path

import harness
from harness.record import JsonValue, Provenance

LOGGER = logging.getLogger(__name__)

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
"""Linux: writing 5 to the first sets the high-water mark in the second to what is resident now."""

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "datasets",
    "lm-eval",
    "hydra-core",
    "numpy",
    "tokenizers",
    "safetensors",
    "gguf",
)
"""The packages that decide numbers."""

WATCHED = ("harness", "conf", "pyproject.toml", "constraints.txt")
"""A change to one of these makes a checkout dirty; results, documents and tests do not."""


def collect(
    device: str, dtype: str, command: tuple[str, ...], accelerator: Mapping[str, JsonValue] | None
) -> Provenance:
    """The provenance of a record that is made now.

    Args:
        device: the device that the job ran on, e.g. ``cuda:0``.
        dtype: type of the weights after `auto` was resolved.
        command: the overrides that made the job.
        accelerator: what is known of the accelerator (name, memory, driver), None on a CPU.
    """
    commit, dirty = checkout_state()
    return Provenance(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        prunebench_version=harness.__version__,
        commit=commit,
        dirty=dirty,
        packages=_packages(),
        python=platform.python_version(),
        platform=platform.platform(),
        hardware={**_machine(), "accelerator": dict(accelerator) if accelerator else None},
        device=device,
        dtype=dtype,
        command=command,
    )


def reset_peak_memory() -> None:
    """Forget the most resident memory so far, where the system can (Linux): of several jobs each has its own peak."""
    with suppress(OSError):
        _CLEAR.write_text("5")


def peak_memory() -> int:
    """The most resident memory, in bytes, that this process has had since `reset_peak_memory`, or ever."""
    with suppress(OSError):
        marks = [line.split() for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:")]
        if marks:
            return int(marks[0][1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB elsewhere


@cache
def checkout_state() -> tuple[str | None, bool]:
    """Commit and dirty flag of the checkout that holds this package; (None, False) when none does.

    Read once a process, so that a job answers for the code it has loaded: call it early.
    """
    return _state_of(Path(harness.__file__).resolve().parents[1])


def _state_of(root: Path) -> tuple[str | None, bool]:
    """Commit and dirty flag of `root`.  A checkout that git cannot read counts as dirty, and a line says so."""
    if not (root / ".git").exists():
        return None, False
    try:
        changes = _git(root, "status", "--porcelain", "--untracked-files=all", "--", *WATCHED)
        commit = _git(root, "rev-parse", "--verify", "--quiet", "HEAD", allowed=(0, 1))
    except (OSError, subprocess.SubprocessError) as error:
        reason = str(getattr(error, "stderr", "") or error).strip().splitlines()[0]
        LOGGER.warning("the checkout at %s counts as dirty, git cannot read it: %s", root, reason)
        return None, True
    return commit or None, bool(changes)


def _git(root: Path, *arguments: str, allowed: tuple[int, ...] = (0,)) -> str:
    # A caller's GIT_DIR and the like (set inside git hooks) would point at another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(
        command, env=environment | {"GIT_OPTIONAL_LOCKS": "0"}, capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode not in allowed:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
    return done.stdout.strip()


@cache
def _packages() -> dict[str, str]:
    """Versions of `PACKAGES`; one that is not installed is not listed."""
    versions = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


@cache
def _machine() -> dict[str, JsonValue]:
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "cores_available": len(affinity(0)) if affinity else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def _processor() -> str:
    """The processor's name: Linux tells it in /proc/cpuinfo only."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in {"model name", "Model"} and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()
