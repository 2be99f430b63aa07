"""A model without memory: what its configuration says, to map files onto."""

from typing import Any

import torch
from accelerate import init_empty_weights  # type: ignore[import-untyped]
from transformers import PreTrainedModel
from transformers.core_model_loading import build_glob_alternation

import harness.blocks.pruned  # noqa: F401  # transformers learns the type of pruned models
from harness.blocks.experts import split_experts
from harness.models.kinds.base import kind_of


def skeleton(config: Any, dtype: torch.dtype, trust_remote_code: bool) -> PreTrainedModel:
    """The model with parameters on the meta device; buffers are real, since some are in no checkpoint."""
    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = (
            kind_of(config.model_type)
            .auto_class()
            .from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
        )
    if plan := model._get_dtype_plan(dtype):  # such as the biases of a router, which stay float32
        in_plan, pattern_of, _ = build_glob_alternation(list(plan))
        for name, tensor in model.state_dict(keep_vars=True).items():
            if (found := in_plan.search(name)) is not None:
                tensor.data = tensor.data.to(plan[pattern_of[str(found.lastgroup)]])
    split_experts(model)
    return model
