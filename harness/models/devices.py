"""Which device a job runs on, and in which type it holds weights there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import unknown

if TYPE_CHECKING:  # what the processor can do is asked where no torch is loaded
    import torch


def resolve_device(name: str) -> torch.device:
    """`auto` is the first CUDA device, else the CPU.  On CUDA float32 is float32 from now on, and not TF32.

    Raises:
        UserError: a device that this machine does not have.
    """
    import torch

    count = torch.cuda.device_count()
    have = ["auto", "cpu"] + (["cuda"] if count else []) + [f"cuda:{index}" for index in range(count)]
    if name not in have:
        raise unknown("device", name, have)
    device = torch.device({"auto": "cuda:0" if count else "cpu", "cuda": "cuda:0"}.get(name, name))
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    return device


def memory_of(device: torch.device) -> int | None:
    """Bytes that a job can have there, with what this process keeps of earlier jobs; None: not known."""
    import torch

    if device.type == "cpu":
        return main_memory()
    if device.type != "cuda":
        return None
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)


def main_memory() -> int:
    """Bytes of main memory that this process may have: the machine's, or fewer where its control group says so."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in _group_limits():
        with suppress(OSError, ValueError):  # "max", or no such group
            total = min(total, int(limit.read_text()))
    return total


def _group_limits() -> Iterator[Path]:
    """The files that say the limits of the control groups that this process is in, from its own to the topmost."""
    root = Path("/sys/fs/cgroup")
    with suppress(OSError):
        own = root / Path("/proc/self/cgroup").read_text().strip().rpartition(":")[2].lstrip("/")
        for group in (own, *own.parents):
            if group.is_relative_to(root):
                yield group / "memory.max"


def resolve_dtype(name: str, device: torch.device) -> torch.dtype | None:
    """The type to load weights in; None means the checkpoint's own.

    `auto` is the checkpoint's type on an accelerator; on a CPU it is bfloat16 where the processor multiplies
    bfloat16 natively (AVX512-BF16, AMX or ARM BF16), else float32.
    """
    import torch

    if name != "auto":
        found: torch.dtype = getattr(torch, name)
        return found
    if device.type != "cpu":
        return None
    return torch.bfloat16 if multiplies_bfloat16() else torch.float32


def multiplies_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 natively (AVX512-BF16, AMX or ARM BF16)."""
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:  # no Linux: nothing is known of the processor, and float32 is right everywhere
        return False
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})
