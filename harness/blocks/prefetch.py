"""Copies beside an accelerator's work: the next block, and hidden states, on their way while one block is computed."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor


class SideStream:
    """Copies between main memory and a device, on a CUDA device in one stream beside its work; elsewhere at once."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def there(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Start to copy `tensor` to the device; what comes back is asked for it when it is needed there."""
        if tensor.device == self._device:
            return lambda: tensor
        arrived = self.all_there({"": tensor})
        return lambda: arrived()[""]

    def all_there(self, tensors: Mapping[str, Tensor]) -> Callable[[], dict[str, Tensor]]:
        """The same of several tensors; one with two names stays one, and one that is there stays what it is."""
        if self._stream is None:
            here = _moved(tensors, lambda tensor: tensor.to(self._device))
            return lambda: here
        with torch.cuda.stream(self._stream):
            moved = _moved(tensors, lambda tensor: _pinned(tensor).to(self._device, non_blocking=True))
            ready = self._stream.record_event()

        def arrived() -> dict[str, Tensor]:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(ready)
            for tensor in moved.values():  # its memory is not to be given away before this stream is done
                tensor.record_stream(stream)
            return moved

        return arrived

    def back(self, tensor: Tensor, place: Tensor) -> None:
        """Copy what the device has been told to compute to `place`, there or in main memory."""
        if self._stream is None or place.device == tensor.device:
            place.copy_(tensor)
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            place.copy_(tensor, non_blocking=place.is_pinned())
        tensor.record_stream(self._stream)

    def synchronize(self) -> None:
        """Wait until nothing is on its way."""
        if self._stream is not None:
            self._stream.synchronize()


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
        self._sides: dict[torch.device, SideStream] = {}
        self._next: tuple[int, torch.device, Future[Callable[[], dict[str, Tensor]]]] | None = None

    def take(self, index: int, device: torch.device) -> dict[str, Tensor]:
        """The tensors of block `index` on `device`; a tensor with two names stays one tensor."""
        if device not in self._sides:
            self._sides[device] = SideStream(device)
        side = self._sides[device]
        arrived = self._claim(index, device) or side.all_there(self._read(index))
        if overlaps(device) and index + 1 < self._num_blocks:
            later = self._thread.submit(lambda: side.all_there(self._read(index + 1)))
            self._next = (index + 1, device, later)
        return arrived()

    def _claim(self, index: int, device: torch.device) -> Callable[[], dict[str, Tensor]] | None:
        """What was read ahead, if it is this block: a loop that ended early leaves another one's behind."""
        waiting, self._next = self._next, None
        if waiting is None:
            return None
        arrived = waiting[2].result()
        return arrived if waiting[:2] == (index, device) else None


def overlaps(device: torch.device) -> bool:
    """Whether copies to `device` can run beside its work."""
    return device.type == "cuda"


def _pinned(tensor: Tensor) -> Tensor:
    return tensor if tensor.device.type != "cpu" or tensor.is_pinned() else tensor.pin_memory()


def _moved(tensors: Mapping[str, Tensor], move: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    copies: dict[int, Tensor] = {}
    for tensor in tensors.values():
        if id(tensor) not in copies:
            copies[id(tensor)] = move(tensor)
    return {name: copies[id(tensor)] for name, tensor in tensors.items()}
