"""From hidden states to logits: the head of a causal model, had apart from the rest of it.

Nothing here is decided by the name of a family: a way is used only if it is seen to give the model's own logits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

PROBE_TOKENS = 16
"""Positions on which a head is tried."""
HEAD_ULPS = 4  # of the largest logit: room for another order of summation in the head, and for nothing else


@dataclass(frozen=True, slots=True)
class Head:
    """A way to the logits of a causal model.

    Args:
        name: `linear`, `soft-capped`, `scaled`, or `full`: logits come from the model as a whole only.
        body: makes of the model's inputs what `logits` reads: hidden states, or logits already.
        logits: hidden states [N, H] to logits [N, V], both on the head's device.
    """

    name: str
    body: Callable[..., Any]
    logits: Callable[[Tensor], Tensor]


@torch.no_grad()
def find_head(model: PreTrainedModel, tokens_BL: Tensor) -> Head:
    """The first known way from the base model's output to the model's own logits, to the last digits, on `tokens_BL`.

    Both see the same batch, so that nothing but the way itself can differ, in any type.
    """
    full = Head("full", model, lambda logits: logits)
    head: Any = model.get_output_embeddings()
    if head is None:
        return full
    inputs: dict[str, Any] = {"input_ids": tokens_BL, "use_cache": False}
    own_BLV = first_output(model(**inputs)).double()
    for name, logits in _ways(model, head):
        try:
            ours_BLV = logits(first_output(model.base_model(**inputs))).double()
        except (TypeError, ValueError, AttributeError, RuntimeError):
            continue  # this family's head wants something else than hidden states; `full` says so
        if ours_BLV.shape == own_BLV.shape and bool(
            (ours_BLV - own_BLV).abs().max() <= HEAD_ULPS * torch.finfo(model.dtype).eps * own_BLV.abs().max()
        ):
            return Head(name, model.base_model, logits)
    return full


def first_output(output: Any) -> Tensor:
    """The tensor of a model's output: logits, or last hidden state."""
    value = output[0]
    assert isinstance(value, Tensor), f"the first output of a model is a {type(value).__name__}"
    return value


def _ways(model: PreTrainedModel, head: Callable[[Tensor], Tensor]) -> list[tuple[str, Callable[[Tensor], Tensor]]]:
    """Known ways from hidden states to logits; the one that the model really uses is found by trying."""
    config = model.config.get_text_config()
    found: list[tuple[str, Callable[[Tensor], Tensor]]] = [("linear", head)]
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma-2 and later
        found.insert(0, ("soft-capped", lambda states_NH: torch.tanh(head(states_NH) / cap) * cap))
    if scale := getattr(config, "logit_scale", None):  # Cohere
        found.insert(0, ("scaled", lambda states_NH: head(states_NH) * scale))
    if divisor := getattr(config, "logits_scaling", None):  # Granite
        found.insert(0, ("scaled", lambda states_NH: head(states_NH) / divisor))
    return found
