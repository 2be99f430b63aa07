"""The hidden states of all sequences between two blocks: one buffer, overwritten from block to block."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from harness.blocks.calls import RecordedCalls, record_calls
from harness.blocks.layers import decoder_blocks
from harness.blocks.offload import Residency


@torch.no_grad()
def record_into_buffer(model: nn.Module, batches: Sequence[Tensor], residency: Residency) -> RecordedCalls:
    """Record how `model` calls its blocks, with the hidden states of all batches in one buffer of `residency`.

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
            buffer_NLH = residency.activations((num_sequences, *hidden_BLH.shape[1:]), hidden_BLH.dtype)
        view_BLH = buffer_NLH[filled : filled + len(hidden_BLH)]
        filled += len(hidden_BLH)
        view_BLH.copy_(hidden_BLH)
        return ((view_BLH, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": view_BLH})

    # The model is given the buffer's rows instead of its own tensor, so that nothing holds on to the latter.
    handle = blocks[0].register_forward_pre_hook(keep, with_kwargs=True)
    try:
        with residency.block(0, batches[0].device):  # its form of output is seen by running it once
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
