"""Recording how a model calls its blocks, replaying those calls, and watching the inputs of linear layers.

A block is never called with hand-picked arguments: the model's own call is recorded, every argument of it, and
replayed with another hidden state.  Blocks of one model may be called differently (sliding and full attention), so
each block's own call is kept, for every batch.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from harness.blocks.layers import PrunableLinear, Unfolding, decoder_blocks, input_rows, unfolding
from harness.calibration.statistics import Statistic, Statistics


class _StopForwardError(Exception):
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
    """

    hidden: list[Tensor]
    calls: list[list[BlockCall]]


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
                raise _StopForwardError
            return (hidden, None) if form is tuple else hidden

        with _stubbed(blocks, stub, interned), _stoppable():
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


@contextmanager
def _stoppable() -> Iterator[None]:
    try:
        yield
    except _StopForwardError:
        return


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


@dataclass(slots=True)
class InputGroup:
    """Linears of a block that are given the very same input: one statistic serves them all.

    The very same are the patches of convolutions that cut one input alike.

    Attributes:
        names: paths in the block, in the order of definition.
        statistics: of the shared input.
        sample_TI: the first tokens of the input, to measure output errors on; None until the first batch.
    """

    names: list[str]
    statistics: Statistics
    sample: list[Tensor] = field(default_factory=list)

    @property
    def sample_TI(self) -> Tensor:
        return torch.cat(self.sample)


class InputObserver:
    """Collects statistics of every linear's input while the block runs.

    "The same input" is recognised by object identity while a reference is held; freed memory comes back at the same
    address with the same shape, so addresses prove nothing.

    Args:
        linears: the block's prunable linears by path.
        needs: kinds of statistics to collect.
        sample_tokens: how many tokens of every input to keep.
        stop_early: end the forward pass at the last linear's input, when nobody reads the block's output.
    """

    def __init__(
        self,
        linears: dict[str, PrunableLinear],
        needs: Sequence[type[Statistic]],
        *,
        sample_tokens: int,
        stop_early: bool,
    ) -> None:
        self._linears = linears
        self._needs = needs
        self._sample_tokens = sample_tokens
        self._stop_early = stop_early
        self._group_of: dict[str, InputGroup] = {}
        self._held: list[tuple[Tensor, Unfolding, InputGroup]] = []
        self._called: set[str] = set()
        self._num_sequences = 0

    @property
    def groups(self) -> list[InputGroup]:
        """Groups in the order of their first linear; a linear that no token reached is in none."""
        order = list(self._linears)
        groups = {id(group): group for group in self._group_of.values()}.values()
        for group in groups:
            group.names.sort(key=order.index)
        return sorted(groups, key=lambda group: order.index(group.names[0]))

    def forward(self, block: nn.Module, call: BlockCall, hidden_BLH: Tensor) -> Tensor | None:
        """Replay one call under observation; None when the forward pass was ended early."""
        self._num_sequences = hidden_BLH.shape[0]
        self._called.clear()
        handles = [linear.register_forward_pre_hook(self._hook(name)) for name, linear in self._linears.items()]
        try:
            return call.replay(block, hidden_BLH)
        except _StopForwardError:
            return None
        finally:
            self._held.clear()
            for handle in handles:
                handle.remove()

    def _hook(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            self._observe(name, args[0])
            self._called.add(name)
            if self._stop_early and len(self._called) == len(self._linears):
                raise _StopForwardError

        return hook

    def _observe(self, name: str, x: Tensor) -> None:
        if not x.numel():  # an expert that no token of this batch was sent to
            return
        linear = self._linears[name]
        cut = unfolding(linear)
        shared = next((group for held, its_cut, group in self._held if held is x and its_cut == cut), None)
        known = self._group_of.get(name)
        if shared is not None:
            assert known is None or known is shared, (
                f"{name} now shares its input with {shared.names}, and did not before"
            )
            if known is None:
                self._group_of[name] = shared
                shared.names.append(name)
            return
        x_TI = input_rows(linear, x)
        if known is None:
            known = self._group_of[name] = self._new_group(x_TI)
            known.names.append(name)
        self._held.append((x, cut, known))
        known.statistics.update(x_TI, self._num_sequences)
        missing = self._sample_tokens - sum(len(part) for part in known.sample)
        if missing > 0:
            known.sample.append(x_TI[:missing].clone())

    def _new_group(self, x_TI: Tensor) -> InputGroup:
        return InputGroup([], Statistics(kind.allocate(x_TI.shape[1], x_TI.device) for kind in self._needs))
