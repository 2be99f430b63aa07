"""From hidden states to logits: the head of a causal model, had apart from the rest of it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from harness.evaluation.scoring.families import HEAD_ULPS, _first, _head_candidates

Head = Callable[[Tensor], Tensor]
"""Hidden states [N, H] to logits [N, V], both on the head's device."""


@torch.no_grad()
def find_head(model: PreTrainedModel, inputs: dict[str, Any]) -> tuple[str, Head | None]:
    """The first known way from the base model's output to the model's own logits, seen by trying it on `inputs`.

    Both see the same batch, so that nothing but the way itself can differ, in any type.

    Returns:
        The name of the way and the way itself, or ``full`` and None: logits come from the model as a whole only.
    """
    head: Any = model.get_output_embeddings()
    own_BLV = _first(model(**inputs)).double()
    for name, finish in _head_candidates(model) if head is not None else ():
        try:
            ours_BLV = finish(head(_first(model.base_model(**inputs)))).double()
        except (TypeError, ValueError, AttributeError, RuntimeError):
            continue  # this family's head wants something else than hidden states; `full` says so
        if ours_BLV.shape == own_BLV.shape and bool(
            (ours_BLV - own_BLV).abs().max() <= HEAD_ULPS * torch.finfo(model.dtype).eps * own_BLV.abs().max()
        ):
            return name, lambda states_NH, finish=finish: finish(head(states_NH))
    return "full", None
