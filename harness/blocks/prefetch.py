"""The next block on its way to the accelerator while one is computed there."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class _Staged:
    """A block's tensors on the device; `ready` is when the copy of the last one has ended, None = it has."""

    tensors: dict[str, Tensor]
    ready: torch.cuda.Event | None


class Prefetcher:
    """Hands out the tensors of blocks on a device, on CUDA one block ahead of their use.

    While a block is computed, a thread reads the next one into pinned memory, and a stream of its own copies it: the
    device then holds two blocks.  Elsewhere nothing is read ahead, since the processor that would read is the one that
    computes.

    Args:
        read: a block's tensors on the CPU by name; nothing changes them before the block is given out.
        num_blocks: how many blocks there are.
    """

    def __init__(self, read: Callable[[int], Mapping[str, Tensor]], num_blocks: int) -> None:
        self._read = read
        self._num_blocks = num_blocks
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="next-block")
        self._next: tuple[int, torch.device, Future[_Staged]] | None = None

    def take(self, index: int, device: torch.device) -> dict[str, Tensor]:
        """The tensors of block `index` on `device`; a tensor with two names stays one tensor."""
        staged = self._claim(index, device) or _stage(self._read(index), device)
        if overlaps(device) and index + 1 < self._num_blocks:
            later = self._thread.submit(lambda: _stage(self._read(index + 1), device))
            self._next = (index + 1, device, later)
        if staged.ready is not None:
            stream = torch.cuda.current_stream(device)
            stream.wait_event(staged.ready)
            for tensor in staged.tensors.values():  # its memory is not to be given away before this stream is done
                tensor.record_stream(stream)
        return staged.tensors

    def _claim(self, index: int, device: torch.device) -> _Staged | None:
        """What was read ahead, if it is this block: a loop that ended early leaves another one's behind."""
        waiting, self._next = self._next, None
        if waiting is None:
            return None
        staged = waiting[2].result()
        return staged if waiting[:2] == (index, device) else None


def overlaps(device: torch.device) -> bool:
    """Whether copies to `device` can run beside its work."""
    return device.type == "cuda"


def _stage(tensors: Mapping[str, Tensor], device: torch.device) -> _Staged:
    """Start to copy `tensors` to `device`; those that are there stay what they are."""
    if device.type != "cuda":
        return _Staged(_moved(tensors, lambda tensor: tensor.to(device)), None)
    stream = torch.cuda.Stream(device)
    with torch.cuda.stream(stream):
        moved = _moved(tensors, lambda tensor: _pinned(tensor).to(device, non_blocking=True))
        return _Staged(moved, stream.record_event())


def _pinned(tensor: Tensor) -> Tensor:
    return tensor.pin_memory() if tensor.device.type == "cpu" else tensor


def _moved(tensors: Mapping[str, Tensor], move: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    copies: dict[int, Tensor] = {}
    for tensor in tensors.values():
        if id(tensor) not in copies:
            copies[id(tensor)] = move(tensor)
    return {name: copies[id(tensor)] for name, tensor in tensors.items()}
