"""Where a job's blocks are while they are not computed, chosen by its estimated peaks and the memory that is there."""

from dataclasses import dataclass, replace

import torch

from harness.config.request import JobRequest
from harness.errors import UserError
from harness.job import Offload
from harness.jobs.peak_memory import estimated_peak
from harness.models.devices import main_memory, memory_of
from harness.models.folders import folder_of
from harness.record import JsonValue

GB = 10**9
MODES: tuple[Offload, ...] = ("none", "cpu", "disk")
"""From the fastest on."""


@dataclass(frozen=True, slots=True)
class Placement:
    """What was chosen, and why.

    Args:
        offload: where the blocks are.
        asked: what the configuration says, ``auto`` or `offload`.
        estimated: bytes at the peak on the device; None = not known.
        memory: bytes of the device; None = not known.
        reserved: bytes of an accelerator that blocks and solves need beside hidden states; None = not known.
        note: what a reader must know.
    """

    offload: Offload
    asked: Offload
    estimated: int | None = None
    memory: int | None = None
    reserved: int | None = None
    note: str | None = None

    @property
    def facts(self) -> dict[str, JsonValue]:
        """For the record."""
        return {
            "offload": self.offload,
            "asked": self.asked,
            "estimated_peak_bytes": self.estimated,
            "memory_bytes": self.memory,
        }


def placed(request: JobRequest, device: torch.device) -> tuple[JobRequest, Placement]:
    """The request with the offloading that fits, and what is to be said of the choice.

    ``auto`` is the first mode whose estimate fits, where the job can do without the whole model; it is ``none`` where
    there is no estimate.  What is asked for by name is done.

    Raises:
        UserError: the model cannot be had, or nothing that ``auto`` may choose fits.
    """
    folder_of(request.checkpoint)  # downloads it: its headers tell the sizes
    asked = request.options.offload
    chosen = _first_that_fits(request, device, asked, _allowed(request, device) if asked == "auto" else (asked,))
    return replace(request, options=replace(request.options, offload=chosen.offload)), chosen


def _allowed(request: JobRequest, device: torch.device) -> tuple[Offload, ...]:
    """What ``auto`` may choose, from the fastest on: on a processor, main memory is where blocks are anyway."""
    if request.needs_whole_model:
        return ("none",)
    return ("none", "disk") if device.type == "cpu" else MODES


def _first_that_fits(
    request: JobRequest, device: torch.device, asked: Offload, modes: tuple[Offload, ...]
) -> Placement:
    memory, main = memory_of(device), main_memory()
    for offload in modes:
        peak = estimated_peak(request, offload)
        if peak is None:
            return Placement(offload, asked, memory=memory)
        needed = peak.on_cpu if device.type == "cpu" else peak.on_accelerator
        host = 0 if device.type == "cpu" else peak.beside_accelerator
        found = Placement(offload, asked, needed, memory, peak.reserved)
        if (memory is None or needed - peak.movable <= memory) and host <= main:
            return found
    said = f"{_gb(needed)} on {device}, which has {_gb(memory or main)}"
    said += f", and {_gb(host)} of {_gb(main)} beside it" if host else ""
    if asked != "auto":
        return replace(found, note=f"offload={asked} was asked for, though it takes an estimated {said}")
    whole = f", which {request.needs_whole_model} takes," if request.needs_whole_model else ""
    raise UserError(
        f"{request.spec.job_id} with offload={modes[-1]}{whole} takes an estimated {said}; allowed: a smaller model, "
        f"dtype or calibration, or to say offload={modes[-1]}, which tries it all the same"
    )


def out_of_memory(request: JobRequest, device: torch.device) -> UserError:
    """What to try next when a job's memory ended."""
    options = request.options
    calibration = request.spec.pruning and request.spec.pruning.calibration
    shortest = max(calibration.seq_len if calibration else 1, 1)
    further = [mode for mode in _allowed(request, device) if MODES.index(mode) > MODES.index(options.offload)]
    if further:
        advice = f"offload={further[0]}"
    elif options.batch_tokens > shortest:
        advice = f"batch_tokens={max(shortest, options.batch_tokens // 2)}"
    else:
        advice = "a smaller model, type (dtype) or calibration.seq_len, or a device with more memory"
    return UserError(
        f"{request.spec.job_id} is out of memory on {device} with offload={options.offload} and "
        f"batch_tokens={options.batch_tokens}; try next: {advice}"
    )


def _gb(size: int) -> str:
    return f"{size / GB:.1f} GB"
