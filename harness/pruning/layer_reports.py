"""What became of the layers of a model: a report of each, the zeros of all, the fingerprint of the weights."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from harness.blocks.layers import decoder_blocks, prunable_linears, unpruned_weights
from harness.blocks.offload import InMemory, Offloading
from harness.patterns import Pattern
from harness.record import JsonValue, LayerReport


def layer_report(
    name: str, weights: tuple[Tensor, Tensor], sample_TI: Tensor, pattern: Pattern, details: Mapping[str, JsonValue]
) -> LayerReport:
    """What became of one layer.

    Args:
        weights: before and after, [O, I].
        sample_TI: inputs in float32 that the output error is measured on.
    """
    old_OI, new_OI = weights
    dense_TO = sample_TI @ old_OI.float().T
    error_TO = dense_TO - sample_TI @ new_OI.float().T
    scale = float(dense_TO.norm())
    return LayerReport(
        name=name,
        shape=(new_OI.shape[0], new_OI.shape[1]),
        requested_sparsity=pattern.sparsity,
        achieved_sparsity=float((new_OI == 0).sum()) / new_OI.numel(),
        relative_output_error=float(error_TO.norm()) / scale if scale else None,
        error_tokens=len(sample_TI),
        details=details,
    )


def achieved_sparsity(layers: Sequence[LayerReport], unreached: int = 0) -> float:
    """Zeros, or weights that were cut out, over all weights of the dense blocks' matrices, counted.

    Args:
        unreached: weights of matrices that the method did not reach; they count as kept.
    """
    zeros = sum(report.achieved_sparsity * math.prod(report.shape) for report in layers)
    return zeros / (unreached + sum(math.prod(report.shape) for report in layers))


def unpruned_note(model: nn.Module) -> str | None:
    """What layerwise methods do not reach in this model, to be said before the job starts."""
    prefix, blocks = decoder_blocks(model)
    missed = [
        (f"{prefix}.{index}.{name}", math.prod(shape))
        for index, block in enumerate(blocks)
        for name, shape in unpruned_weights(block)
    ]
    if not missed:
        return None
    weights = sum(size for _, size in missed)
    return f"not pruned, being no linear layers: {len(missed)} tensors of {weights:,} weights, first {missed[0][0]}"


def weights_fingerprint(model: nn.Module, offloading: Offloading | None = None) -> str:
    """sha256 over the weights of the prunable linears, to recognise them when a job is made again."""
    offloading = offloading or InMemory(model)
    digest = hashlib.sha256()
    for index in range(len(decoder_blocks(model)[1])):
        with offloading.block(index, torch.device("cpu")) as block:
            for linear in prunable_linears(block).values():
                digest.update(linear.weight.data.contiguous().view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"
