"""Causal language models: token ids in, the next token out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.models.kinds.base import KINDS, LANGUAGE_MODEL, ModelKind, Objective

if TYPE_CHECKING:
    from torch import Tensor, nn


def next_token_loss(model: nn.Module, tokens_BL: Tensor) -> Tensor:
    """Mean cross-entropy in float32 of every token but the first, given those before it."""
    from torch.nn import functional

    logits_BLV = model(input_ids=tokens_BL, use_cache=False).logits
    predicted_TV = logits_BLV[:, :-1].reshape(-1, logits_BLV.shape[-1])
    return functional.cross_entropy(predicted_TV.float(), tokens_BL[:, 1:].reshape(-1))


class CausalLM(ModelKind):
    """Every decoder-only model of transformers."""

    title = "a language model"

    def auto_class(self) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM

    @property
    def objective(self) -> Objective:
        return next_token_loss


KINDS.add(LANGUAGE_MODEL, CausalLM())
