"""Recording how a model calls its blocks, and replaying those calls.

A block is never called with hand-picked arguments: the model's own call is recorded, every argument of it, and
replayed with another hidden state.  Blocks of one model may be called differently (sliding and full attention), so
each block's own call is kept, for every batch.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.blocks.activations import Activations
from harness.blocks.layers import decoder_blocks
from harness.errors import UserError


class StopForwardError(Exception):
    """Ends a forward pass whose remaining work nobody reads."""


@dataclass(slots=True)
class BlockCall:
    """The arguments of one call of a block, without the hidden state, which `replay` puts in its place.

    `in_args` says whether the hidden state was the first positional argument or the keyword `hidden_states`.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    in_args: bool

    def in_float32(self) -> "BlockCall":
        """The same call for a float32 copy of the block."""
        args, kwargs = _in_float32((self.args, self.kwargs))
        return BlockCall(args, kwargs, self.in_args)

    def replay(self, block: nn.Module, hidden_BLH: Tensor) -> Tensor:
        """Run `block` on `hidden_BLH` with the recorded arguments, moved to where the hidden state is."""
        args, kwargs = _to_device((self.args, self.kwargs), hidden_BLH.device)
        if self.in_args:
            output = block(hidden_BLH, *args, **kwargs)
        else:
            output = block(*args, hidden_states=hidden_BLH, **kwargs)
        hidden = output[0] if isinstance(output, tuple) else output
        assert isinstance(hidden, Tensor), f"{type(block).__name__} returned {type(hidden).__name__}"
        return hidden


@dataclass(slots=True)
class RecordedCalls:
    """How a model calls its blocks on a list of batches.

    Attributes:
        calls: calls[block][batch].
        in_tuple: how many values blocks return in a tuple, the hidden state first; 0 = it is not in a tuple.
    """

    calls: list[list[BlockCall]]
    in_tuple: int

    def as_output(self, hidden: Tensor) -> Any:
        """A hidden state in the form in which blocks return theirs."""
        return (hidden, *[None] * (self.in_tuple - 1)) if self.in_tuple else hidden


@contextmanager
def returning(blocks: Iterable[nn.Module], output: object) -> Iterator[None]:
    """Blocks that compute nothing and return `output`."""
    try:
        for block in blocks:
            block.forward = lambda *_, **__: output
        yield
    finally:
        for block in blocks:
            vars(block).pop("forward", None)


@torch.no_grad()
def size_of_tuple(model: nn.Module, row_1L: Tensor) -> int:
    """How many values the blocks return in a tuple, 0 = none: seen by running the first one, on one row [1, L]."""
    sizes: list[int] = []

    def see(_: nn.Module, __: Any, output: Any) -> None:
        sizes.append(len(output) if isinstance(output, tuple) else 0)
        raise StopForwardError

    handle = decoder_blocks(model)[1][0].register_forward_hook(see)
    try:
        with suppress(StopForwardError):
            model(input_ids=row_1L, use_cache=False)
    finally:
        handle.remove()
    return sizes[0]


@torch.no_grad()
def record_calls(model: nn.Module, batches: Iterable[Tensor], hidden: Activations, *, in_tuple: int) -> RecordedCalls:
    """Run everything of `model` but its blocks on every batch of token ids [B, L], recording the call of every block.

    While recording, a block returns its input, in the form (tensor or tuple) that it returns outputs in.

    Args:
        hidden: takes the input of the first block, one [B, L, H] tensor a batch.
        in_tuple: that form, see `size_of_tuple`.

    Raises:
        UserError: the model does not run every block once in their order.
    """
    _, blocks = decoder_blocks(model)
    recorded = RecordedCalls([[] for _ in blocks], in_tuple)
    kept, turn = _KeptOnce(), 0

    def forward_of(index: int) -> Any:
        def forward(*args: Any, **kwargs: Any) -> Any:
            nonlocal turn
            if index != turn:
                raise UserError(
                    f"a {type(model).__name__} calls its block {index} after {turn} others; allowed: models that run "
                    "every block once, one after the other"
                )
            turn = (turn + 1) % len(blocks)
            hidden_BLH = args[0] if args else kwargs["hidden_states"]
            if index == 0:
                kept.next_batch()
                hidden.append(hidden_BLH)
            rest = {name: value for name, value in kwargs.items() if name != "hidden_states"}
            recorded.calls[index].append(BlockCall(kept(args[1:]), kept(rest), bool(args)))
            if turn == 0:
                raise StopForwardError
            return recorded.as_output(hidden_BLH)

        return forward

    try:
        for index, block in enumerate(blocks):
            block.forward = forward_of(index)
        for batch in batches:
            with suppress(StopForwardError):
                model(input_ids=batch, use_cache=False)
    finally:
        for block in blocks:
            vars(block).pop("forward", None)
    return recorded


class _KeptOnce:
    """Arguments with every tensor replaced by an equal one that was seen before: masks are the same in every batch.

    A tensor is compared once a batch, however many blocks are given it: on an accelerator the host waits for that.
    """

    def __init__(self) -> None:
        self._kept: list[Tensor] = []
        self._of_batch: dict[int, tuple[Tensor, Tensor]] = {}

    def next_batch(self) -> None:
        self._of_batch.clear()

    def __call__(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return _mapped(value, self)
        if id(value) not in self._of_batch:  # which also holds it: no other tensor gets its id
            self._of_batch[id(value)] = value, self._equal_one(value)
        return self._of_batch[id(value)][1]

    def _equal_one(self, value: Tensor) -> Tensor:
        for known in self._kept:
            if known.shape == value.shape and known.dtype == value.dtype and torch.equal(known, value):
                return known
        self._kept.append(value)
        return value


def _to_device(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value if value.device == device else value.to(device, non_blocking=True)
    return _mapped(value, lambda item: _to_device(item, device))


def _in_float32(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    return _mapped(value, _in_float32)


def _mapped(value: Any, change: Any) -> Any:
    if isinstance(value, tuple | list) and type(value) in (tuple, list):
        return type(value)(change(item) for item in value)
    if type(value) is dict:
        return {name: change(item) for name, item in value.items()}
    return value
