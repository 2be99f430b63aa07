"""The loop over a model's blocks: all sequences go through one block before the next is looked at.

Only one block and the hidden states of the sequences are needed at a time.  The hidden states lie in one buffer, which
is overwritten from block to block; where they come from is the caller's choice: a step hands on the outputs of the
block as it is at that moment, dense or pruned.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from harness.blocks.activations import Activations
from harness.blocks.calls import BlockCall, RecordedCalls, record_calls, returning, size_of_tuple
from harness.blocks.inputs import InputGroup, InputObserver
from harness.blocks.layers import decoder_blocks, prunable_linears
from harness.blocks.offload import Offloading
from harness.blocks.slots import outside_on
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
    hidden: Activations
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
        for place, (call, hidden_BLH) in enumerate(zip(self.calls, self.hidden.on_device(), strict=True)):
            output_BLH = observer.forward(self.block, call, hidden_BLH)
            if hand_on:
                assert output_BLH is not None, "a pass that was not told to stop early has an output"
                self.hidden.put(place, output_BLH)
        return observer.groups

    @torch.no_grad()
    def hand_on(self) -> None:
        """Put the block's outputs in the place of its inputs."""
        for _ in self.outputs():
            pass

    def outputs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Input and output of the block for every batch; then the output takes the place of the input."""
        for place, (call, input_BLH) in enumerate(zip(self.calls, self.hidden.on_device(), strict=True)):
            output_BLH = call.replay(self.block, input_BLH)
            yield input_BLH, output_BLH
            self.hidden.put(place, output_BLH)


class BlockRunner:
    """Takes batches of sequences through the blocks of a model.

    Args:
        batches: token ids [B, L], or rows of another kind.
        offloading: gives out the blocks of `model`.
        device: where blocks, and what comes before them, are computed.

    Attributes:
        hidden: in front of the next block, or behind the last one, a tensor a batch.
        position: index of the block that the hidden states are the input of.
    """

    def __init__(
        self, model: nn.Module, batches: Sequence[Tensor], offloading: Offloading, device: torch.device
    ) -> None:
        self.model = model
        self.batches = batches
        self.device = device
        self.position = 0
        self.offloading = offloading
        self._prefix, self.blocks = decoder_blocks(model)
        self.hidden = Activations(sum(map(len, batches)), offloading.activations, device)
        self._recorded = self._record()

    def _record(self) -> RecordedCalls:
        """How the model calls its blocks; all that comes before them is computed on the device."""
        with outside_on(self.model, self.device):
            with self.offloading.block(0, self.device):  # it is run only to see the form of its output
                in_tuple = size_of_tuple(self.model, self.batches[0][:1].to(self.device))
            batches = (batch.to(self.device) for batch in self.batches)
            return record_calls(self.model, batches, self.hidden, in_tuple=in_tuple)

    @property
    def calls(self) -> list[list[BlockCall]]:
        """calls[block][batch], those of blocks that were passed dropped."""
        return self._recorded.calls

    @contextmanager
    def returning(self, hidden_BLH: Tensor) -> Iterator[None]:
        """Blocks that compute nothing and return `hidden_BLH`: the model is then what comes after its last one."""
        with returning(self.blocks, self._recorded.as_output(hidden_BLH)):
            yield

    def behind(self, advance: Callable[[], None]) -> "Behind":
        """The sequences behind the last block, when the blocks that are still to come have handed them on.

        Args:
            advance: called after every block.
        """
        for step in self.rest():
            step.hand_on()
            advance()
        return Behind(torch.cat([hidden.cpu() for hidden in self.hidden]), self._recorded.as_output)

    @contextmanager
    def next_block(self, *, writes: bool = False) -> Iterator[BlockStep]:
        """The block in front of which the sequences are; afterwards it is the turn of the one behind it.

        Args:
            writes: keep the weights that the body leaves in the block.
        """
        index, calls = self.position, self.calls[self.position]
        path, is_last = f"{self._prefix}.{index}", index == len(self.blocks) - 1
        with self.offloading.block(index, self.device, writes=writes) as block:
            yield BlockStep(index, path, block, calls, self.hidden, self.device, is_last)
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
        twin.offloading = offloading
        twin.hidden = self.hidden.clone()
        twin._recorded = replace(self._recorded, calls=[list(calls) for calls in self.calls])
        return twin


@dataclass(frozen=True, slots=True)
class Behind:
    """Sequences behind the last block of a model, whose blocks they need no more: what says the next tokens is left.

    Args:
        hidden_NLH: what the last block made of them, in main memory.
        as_output: a hidden state in the form in which blocks return theirs.
    """

    hidden_NLH: Tensor
    as_output: Callable[[Tensor], object]

    @contextmanager
    def returning(self, model: nn.Module, hidden_BLH: Tensor) -> Iterator[None]:
        """The model is then what comes after its last block, on these hidden states."""
        with returning(decoder_blocks(model)[1], self.as_output(hidden_BLH)):
            yield


def in_batches(rows_BL: Tensor, batch_tokens: int) -> list[Tensor]:
    """Rows in parts of at most `batch_tokens` tokens, but of one row at least."""
    return list(rows_BL.split(max(1, batch_tokens // rows_BL.shape[1])))
