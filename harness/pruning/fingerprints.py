"""Fingerprints of weights: to recognise a layer, or the outcome of a job that is made again."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.blocks.offload import Offloading


def layer_fingerprint(weight_OI: Tensor) -> str:
    """Equal for equal shapes and values, in whatever type that holds them exactly and on whatever device."""
    import torch

    digest = hashlib.sha256(str(tuple(weight_OI.shape)).encode())
    digest.update(weight_OI.detach().float().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def weights_fingerprint(model: nn.Module, offloading: Offloading | None = None) -> str:
    """sha256 over the weights of the prunable linears of a model.

    Args:
        offloading: gives out the blocks; None = they are in memory.
    """
    import torch

    from harness.blocks.layers import decoder_blocks, prunable_linears
    from harness.blocks.offload import InMemory

    offloading = offloading or InMemory(model)
    digest = hashlib.sha256()
    for index in range(len(decoder_blocks(model)[1])):
        with offloading.block(index, torch.device("cpu")) as block:
            for linear in prunable_linears(block).values():
                digest.update(linear.weight.data.contiguous().view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"
