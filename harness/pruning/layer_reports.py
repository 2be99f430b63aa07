"""What became of the layers of a model: a report of each, the zeros of all, the fingerprint of the weights."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from harness.blocks.layers import decoder_blocks, prunable_linears, unpruned_weights
from harness.blocks.offload import InMemory, Offloading
from harness.record import JsonValue, LayerReport


def layer_report(
    name: str,
    weights: tuple[Tensor, Tensor],
    sample_TI: Tensor | None,
    requested: float,
    details: Mapping[str, JsonValue],
    columns: Tensor | None = None,
) -> LayerReport:
    """What became of one layer.

    Args:
        weights: before and after, [O, I]; one that is gone is [0, 0].
        sample_TI: inputs in float32 that the output error is measured on; None where outputs are gone, so that there is
            nothing to compare.
        requested: fraction of its weights, or of its channels, that was to go.
        columns: numbers of the columns that are left, None = all.
    """
    old_OI, new_OI = weights
    gone = int((new_OI == 0).sum()) if new_OI.shape == old_OI.shape else old_OI.numel() - new_OI.numel()
    error = None
    if sample_TI is not None:
        dense_TO = sample_TI @ old_OI.float().T
        input_TI = sample_TI if columns is None else sample_TI[:, columns.to(sample_TI.device)]
        scale = float(dense_TO.norm())
        error = float((dense_TO - input_TI @ new_OI.float().T).norm()) / scale if scale else None
    return LayerReport(
        name=name,
        shape=(old_OI.shape[0], old_OI.shape[1]),
        requested_sparsity=requested,
        achieved_sparsity=gone / old_OI.numel(),
        relative_output_error=error,
        error_tokens=0 if sample_TI is None else len(sample_TI),
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
