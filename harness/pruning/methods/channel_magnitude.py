"""Channel-wise magnitude: cut out the intermediate channels whose weights have the smallest norms.

For convolutions the channel-wise pruning of https://github.com/satabios/sconce and of the courses it follows: the
importance of a channel is the L2 norm of the slice of the next layer's weight that reads it.  (Li et al. 2017,
https://arxiv.org/abs/1608.08710, rank filters by the norm of the weights that make them.)  For the feed-forward layers
of a language model it is the sum of the norms of all that belongs to the channel: ||gate_k|| + ||up_k|| + ||down_:,k||.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness.patterns import Channels, Structured
from harness.pruning.methods.base import METHODS
from harness.pruning.methods.structured import StructuredMethod

if TYPE_CHECKING:
    from torch import Tensor

    from harness.calibration.statistics import Statistics
    from harness.pruning.cutting import Candidates


@METHODS.register("channel-magnitude")
@dataclass(frozen=True, slots=True)
class ChannelMagnitude(StructuredMethod):
    """Keeps the channels of the largest weights; looks at no data.

    Args:
        norm_of: `coupled` = the sum of the L2 norms of every layer's slice; `consumer` = that of the layer that reads
            the channel alone; `auto` = `consumer` where convolutions make the channels, else `coupled`.
    """

    patterns = (Channels, Structured)
    units = ("channel",)
    norm_of: Literal["auto", "coupled", "consumer"] = "auto"

    def importance(self, candidates: Candidates, stats: Statistics) -> Tensor:
        import torch

        of_consumer = self.norm_of == "consumer" or (self.norm_of == "auto" and candidates.are_maps)
        rows = [] if of_consumer else [row_CI for each_CMI in candidates.producers for row_CI in each_CMI.unbind(dim=1)]
        return torch.stack(
            [each_CN.float().norm(dim=1) for each_CN in (candidates.consumer_COK.flatten(1), *rows)]
        ).sum(dim=0)
