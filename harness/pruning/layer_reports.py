"""What became of the layers of a model: a report of each, the zeros of all, the fingerprint of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from harness.blocks.layers import decoder_blocks, unpruned_weights
from harness.record import JsonValue, LayerReport


@dataclass(frozen=True, slots=True)
class NewLayer:
    """A layer as pruning left it.

    Args:
        weight_OI: what is left of its weight; [0, 0] where the layer is gone.
        columns: numbers of the columns of the old weight that these are, None = all.
        added_O: what was added to its bias, None = nothing.
    """

    weight_OI: Tensor
    columns: Tensor | None = None
    added_O: Tensor | None = None


def layer_report(
    name: str,
    old_OI: Tensor,
    new: NewLayer,
    sample_TI: Tensor | None,
    requested: float,
    details: Mapping[str, JsonValue],
) -> LayerReport:
    """What became of one layer.

    Args:
        sample_TI: inputs in float32 that the output error is measured on; None where outputs are gone, so that there is
            nothing to compare.
        requested: fraction of its weights, or of its channels, that was to go.
    """
    new_OI = new.weight_OI
    gone = int((new_OI == 0).sum()) if new_OI.shape == old_OI.shape else old_OI.numel() - new_OI.numel()
    error = None
    if sample_TI is not None:
        dense_TO = sample_TI @ old_OI.float().T
        input_TI = sample_TI if new.columns is None else sample_TI[:, new.columns.to(sample_TI.device)]
        error_TO = dense_TO - input_TI @ new_OI.float().T
        if new.added_O is not None:
            error_TO -= new.added_O.float()
        scale = float(dense_TO.norm())
        error = float(error_TO.norm()) / scale if scale else None
    return LayerReport(
        name=name,
        shape=(old_OI.shape[0], old_OI.shape[1]),
        requested_sparsity=requested,
        achieved_sparsity=gone / old_OI.numel(),
        relative_output_error=error,
        error_tokens=0 if sample_TI is None else len(sample_TI),
        details=details,
    )


def achieved_sparsity(layers: Sequence[LayerReport], unpruned: int = 0) -> float:
    """Zeros, or weights that were cut out, over all weights of the dense blocks' matrices, counted.

    Args:
        unpruned: weights of matrices that the method leaves as they are; they count as kept.
    """
    zeros = sum(report.achieved_sparsity * math.prod(report.shape) for report in layers)
    return zeros / (unpruned + sum(math.prod(report.shape) for report in layers))


def unpruned_note(model: nn.Module) -> str | None:
    """What layerwise methods leave unpruned in this model, to be said before the job starts."""
    prefix, blocks = decoder_blocks(model)
    missed = dict(unpruned_weights(blocks))
    if not missed:
        return None
    weights = sum(map(math.prod, missed.values()))
    first = f"{len(missed)} tensors of {weights:,} weights, first {prefix}.{next(iter(missed))}"
    return f"not pruned, being no linear layers that the model calls: {first}"
