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


def uniform_like(weight_OI: Tensor, size: tuple[int, ...], seed: int) -> Tensor:
    """Uniform on [0, 1), in float64; drawn from a seed and a layer's shape and weights, so that no two layers draw
    alike, and the same one does on every device.
    """
    import torch

    digest = hashlib.sha256(f"{seed} {layer_fingerprint(weight_OI)}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.rand(size, generator=generator, dtype=torch.float64).to(weight_OI.device)


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
