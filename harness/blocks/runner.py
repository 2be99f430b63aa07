"""The loop over a model's blocks: all sequences go through one block before the next is looked at.

Only one block and the hidden states of the sequences are needed at a time.  The hidden states lie in one buffer, which
is overwritten from block to block; where they come from is the caller's choice: a step hands on the outputs of the
block as it is at that moment, dense or pruned.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.blocks.calls import BlockCall, RecordedCalls, record_calls
from harness.blocks.inputs import InputGroup, InputObserver
from harness.blocks.layers import decoder_blocks, prunable_linears
from harness.blocks.offload import Offloading
from harness.calibration.statistics import Statistic


@dataclass(frozen=True, slots=True)
class BlockStep:
    """One block, with all sequences in front of it.  Valid until the next step.

    Args:
        index: of the block.
        path: of the block in the model.
        block: on the device that computes it.
        calls, hidden: how the model calls the block and with which hidden states [B, L, H], one a batch.
    """

    index: int
    path: str
    block: nn.Module
    calls: Sequence[BlockCall]
    hidden: list[Tensor]
    device: torch.device
    is_last: bool

    @torch.no_grad()
    def observe(
        self, needs: Sequence[type[Statistic]], *, sample_tokens: int = 0, hand_on: bool = False
    ) -> list[InputGroup]:
        """Statistics and samples of the inputs of the block's linears.

        Args:
            hand_on: put the block's outputs in the place of its inputs in the same pass; else it ends at the last
                linear's input.
        """
        linears = prunable_linears(self.block)
        observer = InputObserver(linears, needs, sample_tokens=sample_tokens, stop_early=not hand_on)
        for place, (call, hidden_BLH) in enumerate(zip(self.calls, self.hidden, strict=True)):
            output_BLH = observer.forward(self.block, call, hidden_BLH.to(self.device))
            if hand_on:
                assert output_BLH is not None, "a pass that was not told to stop early has an output"
                self.hidden[place] = overwrite(hidden_BLH, output_BLH)
        return observer.groups

    @torch.no_grad()
    def hand_on(self) -> None:
        """Put the block's outputs in the place of its inputs."""
        for _ in self.outputs():
            pass

    def outputs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Input and output of the block for every batch; then the output takes the place of the input."""
        for place, (call, hidden_BLH) in enumerate(zip(self.calls, self.hidden, strict=True)):
            input_BLH = hidden_BLH.to(self.device)
            output_BLH = call.replay(self.block, input_BLH)
            yield input_BLH, output_BLH
            self.hidden[place] = overwrite(hidden_BLH, output_BLH)


class BlockRunner:
    """Takes batches of sequences through the blocks of a model.

    Args:
        batches: token ids [B, L], or rows of another kind, on the device that everything outside of the blocks is on.
        offloading: gives out the blocks of `model`.
        device: where a block is computed.

    Attributes:
        position: index of the block that the hidden states are the input of.
    """

    def __init__(
        self, model: nn.Module, batches: Sequence[Tensor], offloading: Offloading, device: torch.device
    ) -> None:
        self.model = model
        self.batches = batches
        self.device = device
        self.position = 0
        self._residency = offloading
        self._prefix, self.blocks = decoder_blocks(model)
        self._recorded = record_into_buffer(model, batches, offloading)

    @property
    def hidden(self) -> Sequence[Tensor]:
        """Hidden states in front of the next block, or behind the last one, a tensor a batch."""
        return self._recorded.hidden

    def as_output(self, hidden: Tensor) -> Any:
        """A hidden state in the form in which the blocks return theirs."""
        return self._recorded.as_output(hidden)

    @contextmanager
    def returning(self, hidden_BLH: Tensor) -> Iterator[None]:
        """Blocks that compute nothing and return `hidden_BLH`: the model is then what comes after its last one."""
        output = self.as_output(hidden_BLH)
        try:
            for block in self.blocks:
                block.forward = lambda *_, **__: output
            yield
        finally:
            for block in self.blocks:
                vars(block).pop("forward", None)

    @contextmanager
    def next_block(self, *, writes: bool = False) -> Iterator[BlockStep]:
        """The block in front of which the sequences are; afterwards it is the turn of the one behind it.

        Args:
            writes: keep the weights that the body leaves in the block.
        """
        index, calls = self.position, self._recorded.calls[self.position]
        path, is_last = f"{self._prefix}.{index}", index == len(self.blocks) - 1
        with self._residency.block(index, self.device, writes=writes) as block:
            yield BlockStep(index, path, block, calls, self._recorded.hidden, self.device, is_last)
        calls.clear()
        self.position += 1

    def rest(self) -> Iterator[BlockStep]:
        """The blocks that are still to come, to be looked at only."""
        while self.position < len(self.blocks):
            with self.next_block() as step:
                yield step

    def fork(self, offloading: Offloading) -> "BlockRunner":
        """The same sequences at the same place, with the blocks from there on as `offloading` gives them out."""
        twin = copy.copy(self)
        twin._residency = offloading
        hidden, calls = [each.clone() for each in self.hidden], [list(calls) for calls in self._recorded.calls]
        twin._recorded = RecordedCalls(hidden, calls, self._recorded.in_tuple)
        return twin


def in_batches(rows_BL: Tensor, batch_tokens: int) -> list[Tensor]:
    """Rows in parts of at most `batch_tokens` tokens, but of one row at least."""
    return list(rows_BL.split(max(1, batch_tokens // rows_BL.shape[1])))


@torch.no_grad()
def record_into_buffer(model: nn.Module, batches: Sequence[Tensor], offloading: Offloading) -> RecordedCalls:
    """Record how `model` calls its blocks, with the hidden states of all batches in one buffer of `offloading`.

    Args:
        batches: token ids [B, L] on the device that everything outside of the blocks is on.

    Returns:
        The calls; `hidden` are views of the buffer, one a batch, to be overwritten with each block's outputs.
    """
    _, blocks = decoder_blocks(model)
    buffer_NLH: Tensor | None = None
    filled = 0

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        nonlocal buffer_NLH, filled
        hidden_BLH: Tensor = args[0] if args else kwargs["hidden_states"]
        if buffer_NLH is None:
            num_sequences = sum(len(batch) for batch in batches)
            buffer_NLH = offloading.activations((num_sequences, *hidden_BLH.shape[1:]), hidden_BLH.dtype)
        view_BLH = buffer_NLH[filled : filled + len(hidden_BLH)]
        filled += len(hidden_BLH)
        view_BLH.copy_(hidden_BLH)
        return ((view_BLH, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": view_BLH})

    # The model is given the buffer's rows instead of its own tensor, so that nothing holds on to the latter.
    handle = blocks[0].register_forward_pre_hook(keep, with_kwargs=True)
    try:
        with offloading.block(0, batches[0].device):  # its form of output is seen by running it once
            return record_calls(model, batches)
    finally:
        handle.remove()


def overwrite(hidden_BLH: Tensor, output_BLH: Tensor) -> Tensor:
    """Put a block's output, on any device, in the place of its input; what the next block is to be given.

    Where the block changes the shape of its input, as convolutions with pooling do, the output has memory of its own.
    """
    assert output_BLH.dtype == hidden_BLH.dtype, f"a block made {output_BLH.dtype} of {hidden_BLH.dtype}"
    if output_BLH.shape != hidden_BLH.shape:
        return output_BLH.to(hidden_BLH.device)
    return hidden_BLH.copy_(output_BLH)
