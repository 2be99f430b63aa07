"""What a method is given to prune a model in memory with, as tests want it."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from harness.blocks.offload import InMemory
from harness.calibration.statistics import InputHessian
from harness.patterns import Pattern
from harness.pruning.context import PruningContext, PruningOutcome
from harness.pruning.layerwise import prune_block
from harness.pruning.methods.base import LayerwiseMethod
from harness.pruning.sequential import prune_sequentially


def hessian_of(matrix_II: Tensor) -> InputHessian:
    """The statistic with this H."""
    found = InputHessian(len(matrix_II), matrix_II.device)
    found._upper_II = matrix_II
    return found


def a_context(model: Any, tokens_BL: Tensor, pattern: Pattern, **fields: Any) -> PruningContext:
    """On the CPU, calibrated with the pruned prefix, 24 tokens a pass, unless `fields` say otherwise."""
    usual = {"offloading": InMemory(model), "propagation": "pruned", "device": torch.device("cpu"), "batch_tokens": 24}
    return PruningContext(model, tokens_BL=tokens_BL, pattern=pattern, **(usual | fields))


def prune_to(patterns: Mapping[str, Pattern], method: LayerwiseMethod, context: PruningContext) -> PruningOutcome:
    """Prune layers to patterns of their own, whatever the method would spread."""
    prune_one = partial(prune_block, method)
    return prune_sequentially(context, patterns, method.needs, prune_one, with_probes=method.permutes)
