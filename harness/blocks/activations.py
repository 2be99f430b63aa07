"""The hidden states of all sequences between two blocks: on the device, or in main memory and on their way to it."""

from collections.abc import Callable, Iterator, Sequence
from typing import overload

import torch
from torch import Tensor

from harness.blocks.prefetch import SideStream
from harness.errors import UserError

Room = Callable[[tuple[int, ...], torch.dtype, torch.device], Tensor]
"""Makes a buffer of that shape and type for hidden states that the device works on, there or in main memory."""


class Activations(Sequence[Tensor]):
    """Hidden states, a tensor a batch, views of one buffer for as long as blocks keep their shape.

    Where the buffer is in main memory, the next batch is on its way to the device while one is computed there, and an
    output on its way back while the next one is.

    Args:
        num_sequences: of all batches together.
        room: makes the buffer.
        device: where blocks are computed.
    """

    def __init__(self, num_sequences: int, room: Room, device: torch.device) -> None:
        self._num_sequences, self._room, self._device = num_sequences, room, device
        self._side = SideStream(device)
        self._buffer: Tensor | None = None
        self._held: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._held)

    @overload
    def __getitem__(self, place: int) -> Tensor: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Tensor]: ...

    def __getitem__(self, place: int | slice) -> Tensor | Sequence[Tensor]:
        """Where they are held; nothing is on its way any more."""
        self._side.synchronize()
        return self._held[place]

    def append(self, hidden: Tensor) -> None:
        """Keep the next batch in front of the first block.

        Raises:
            UserError: the model keeps sequences along another axis than the first.
        """
        if self._buffer is None:
            self._buffer = self._room((self._num_sequences, *hidden.shape[1:]), hidden.dtype, self._device)
        filled = sum(map(len, self._held))
        if filled + len(hidden) > self._num_sequences:
            raise UserError(
                f"the model keeps hidden states of shape {tuple(hidden.shape)}; allowed: models that keep sequences "
                "along the first axis"
            )
        self._held.append(self._buffer[filled : filled + len(hidden)])
        self.put(len(self._held) - 1, hidden)

    def on_device(self) -> Iterator[Tensor]:
        """Every batch on the device, in order."""
        coming = self._coming(0)
        for place in range(len(self._held)):
            here, coming = coming, self._coming(place + 1)
            assert here is not None, "a batch is behind the one before it"
            yield here()

    def put(self, place: int, output: Tensor) -> None:
        """Hold a block's output in the place of its input.

        Where the block changes the shape, as convolutions with pooling do, the output has memory of its own.
        """
        held = self._held[place]
        assert output.dtype == held.dtype, f"a block made {output.dtype} of {held.dtype}"
        if output.shape != held.shape:
            self._held[place] = output.to(held.device)
        else:
            self._side.back(output, held)

    def clone(self) -> "Activations":
        """The same hidden states in memory of their own."""
        twin = Activations(self._num_sequences, self._room, self._device)
        twin._held = [each.clone() for each in self]
        return twin

    def _coming(self, place: int) -> Callable[[], Tensor] | None:
        return self._side.there(self._held[place]) if place < len(self._held) else None
