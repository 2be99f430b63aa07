"""Ranking the weights of a whole model against each other, with one layer in memory at a time."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from harness.blocks.layers import decoder_blocks, prunable_linears, weight_view
from harness.blocks.offload import Offloading

HIGH_BITS = 15
"""Of a magnitude in float32: its exponent and the first seven bits of its fraction; the sign is always 0."""
LOW_BITS = 16


class PrunableWeights:
    """Path and weight [O, I] of every prunable linear of a model, in model order; can be gone through several times.

    A weight is on the CPU, and with `offload=disk` it is there only until the next block is asked for.
    """

    def __init__(self, model: nn.Module, offloading: Offloading) -> None:
        self._model = model
        self._residency = offloading

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        prefix, blocks = decoder_blocks(self._model)
        for index in range(len(blocks)):
            with self._residency.block(index, torch.device("cpu")) as block:
                for name, linear in prunable_linears(block).items():
                    yield f"{prefix}.{index}.{name}", weight_view(linear)


def smallest_by_layer(weights: Iterable[tuple[str, Tensor]], sparsity: float) -> dict[str, tuple[int, int]]:
    """How many of the `int(total * sparsity)` smallest magnitudes of all layers lie in each, and the layer's size.

    Among equal magnitudes those of earlier layers count first.  Exact: magnitudes are ordered by their bits, and the
    threshold is found in two passes, first its high bits, then its low ones.
    """
    sizes: dict[str, int] = {}
    histogram = torch.zeros(1 << HIGH_BITS, dtype=torch.int64)
    for name, weight_OI in weights:
        sizes[name] = weight_OI.numel()
        histogram += torch.bincount(_bits(weight_OI) >> LOW_BITS, minlength=1 << HIGH_BITS)
    wanted = int(sum(sizes.values()) * sparsity)
    if wanted == 0:
        return {name: (0, size) for name, size in sizes.items()}
    reached = histogram.cumsum(0)
    high = int(torch.searchsorted(reached, wanted))  # the high bits of the last magnitude that goes
    below: dict[str, int] = {}
    values: dict[str, Tensor] = {}  # of the magnitudes with these high bits, the low bits in ascending order
    counts: dict[str, Tensor] = {}
    for name, weight_OI in weights:
        bits = _bits(weight_OI)
        high_bits = bits >> LOW_BITS
        below[name] = int((high_bits < high).sum())
        low_bits = bits[high_bits == high] & ((1 << LOW_BITS) - 1)
        values[name], counts[name] = torch.unique(low_bits, return_counts=True)
    low_histogram = torch.zeros(1 << LOW_BITS, dtype=torch.int64)
    for name in sizes:
        low_histogram[values[name].long()] += counts[name]
    spare = wanted - sum(below.values())
    low = int(torch.searchsorted(low_histogram.cumsum(0), spare))
    spare -= int(low_histogram[:low].sum())  # of the ties with the threshold
    found = {}
    for name, size in sizes.items():
        ties = min(int(counts[name][values[name] == low].sum()), spare)
        spare -= ties
        found[name] = (below[name] + int(counts[name][values[name] < low].sum()) + ties, size)
    return found


def _bits(weight_OI: Tensor) -> Tensor:
    """Magnitudes as integers of the same order; half precision goes into float32 unchanged."""
    assert weight_OI.dtype.itemsize <= torch.float32.itemsize, f"{weight_OI.dtype} does not fit float32"
    return weight_OI.detach().float().abs().reshape(-1).view(torch.int32)
