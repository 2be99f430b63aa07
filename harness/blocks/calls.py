"""Recording how a model calls its blocks, and replaying those calls.

A block is never called with hand-picked arguments: the model's own call is recorded, every argument of it, and
replayed with another hidden state.  Blocks of one model may be called differently (sliding and full attention), so
each block's own call is kept, for every batch.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.blocks.layers import decoder_blocks


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
        hidden: input of the first block, one [B, L, H] tensor a batch.
        calls: calls[block][batch].
        in_tuple: whether blocks return their hidden state as the first of a tuple.
    """

    hidden: list[Tensor]
    calls: list[list[BlockCall]]
    in_tuple: bool = False

    def as_output(self, hidden: Tensor) -> Any:
        """A hidden state in the form in which blocks return theirs."""
        return (hidden, None) if self.in_tuple else hidden


@torch.no_grad()
def record_calls(model: nn.Module, batches: Sequence[Tensor]) -> RecordedCalls:
    """Run everything of `model` but its blocks on every batch of token ids [B, L], recording the call of every block.

    While recording, a block returns its input, in the form (tensor or tuple) that it returns outputs in.
    """
    _, blocks = decoder_blocks(model)
    recorded = RecordedCalls([], [[] for _ in blocks])
    interned: list[Tensor] = []
    for batch in batches:
        seen = 0

        def stub(index: int, form: type, block_call: BlockCall, hidden: Tensor) -> Any:
            nonlocal seen
            assert index == seen, f"block {index} was called out of order; blocks must run once, one after the other"
            seen += 1
            if index == 0:
                recorded.hidden.append(hidden)
            recorded.calls[index].append(block_call)
            if seen == len(blocks):
                raise StopForwardError
            recorded.in_tuple = form is tuple
            return recorded.as_output(hidden)

        with _stubbed(blocks, stub, interned), suppress(StopForwardError):
            model(input_ids=batch, use_cache=False)
    return recorded


@contextmanager
def _stubbed(blocks: nn.ModuleList, stub: Any, interned: list[Tensor]) -> Iterator[None]:
    """Replace the blocks' forward by `stub`; the first block runs once for real, to see the form of its output."""
    form: list[type] = []

    def forward_of(index: int, block: nn.Module) -> Any:
        real = block.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            if not form:
                form.append(type(real(*args, **kwargs)))
            in_args = bool(args)
            hidden = args[0] if in_args else kwargs["hidden_states"]
            rest = {name: value for name, value in kwargs.items() if name != "hidden_states"}
            call = BlockCall(_intern(args[1:], interned), _intern(rest, interned), in_args)
            return stub(index, form[0], call, hidden)

        return forward

    try:
        for index, block in enumerate(blocks):
            block.forward = forward_of(index, block)
        yield
    finally:
        for block in blocks:
            del block.forward


def _intern(value: Any, interned: list[Tensor]) -> Any:
    """`value` with every tensor replaced by an equal one that was seen before: masks are the same in every batch."""
    if isinstance(value, Tensor):
        for known in interned:
            if known is value or (
                known.shape == value.shape and known.dtype == value.dtype and torch.equal(known, value)
            ):
                return known
        interned.append(value)
        return value
    return _mapped(value, lambda item: _intern(item, interned))


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
