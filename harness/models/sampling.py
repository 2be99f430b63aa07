"""Sequences sampled from a causal language model: one token after the other, from its own distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from harness.data.corpora.self_generated import ROWS
from harness.errors import UserError

if TYPE_CHECKING:
    from harness.models.loading import LoadedModel
    from harness.progress import Reporter


def first_token(loaded: LoadedModel) -> int:
    """What a text begins with: BOS, else the token that ends the text before it.

    Raises:
        UserError: the model has neither.
    """
    places: list[Any] = [loaded.tokenizer, loaded.model.config.get_text_config()]
    for name in ("bos_token_id", "eos_token_id"):
        for place in places:
            token = getattr(place, name, None)
            if isinstance(token, int) and 0 <= token < loaded.vocab_size:
                return token
    raise UserError("calibration=self_generated needs a model with a BOS or EOS token; allowed: another calibration")


@torch.no_grad()
def sampled(loaded: LoadedModel, shape: tuple[int, int], seed: int, device: torch.device, reporter: Reporter) -> Tensor:
    """Sequences [N, L] that begin with `first_token` and are drawn from there on; the model returns to where it was.

    The tokens are where uniform numbers of the seed fall in the cumulated probabilities, in float64: the same on every
    machine whose logits are, and the first sequences are the same however many follow.
    """
    count, length = shape
    generator = torch.Generator().manual_seed(seed)
    uniform_NL = torch.stack([torch.rand(length, generator=generator, dtype=torch.float64) for _ in range(count)])
    rows_NL = torch.full((count, length), first_token(loaded))
    model, origin = loaded.model, loaded.model.device
    reporter.start("calibrate: sequences sampled from the dense model, tokens", count * length)
    model.to(device)  # type: ignore[arg-type]  # transformers annotates `to` with another signature
    try:
        for rows_BL, uniform_BL in zip(rows_NL.split(ROWS), uniform_NL.to(device).split(ROWS), strict=True):
            cache = None
            for place in range(1, length):
                output: Any = model(
                    input_ids=rows_BL[:, place - 1 : place].to(device), past_key_values=cache, use_cache=True
                )
                cache = output.past_key_values
                rows_BL[:, place] = _where(output.logits[:, -1], uniform_BL[:, place]).cpu()
                reporter.advance(len(rows_BL))
            reporter.advance(len(rows_BL))
    finally:
        model.to(origin)  # type: ignore[arg-type]
    return rows_NL


def _where(logits_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """The first token whose cumulated probability is more than the uniform number, [B]."""
    cumulated_BV = logits_BV.double().softmax(dim=-1).cumsum(dim=-1)
    found_B1 = torch.searchsorted(cumulated_BV, (uniform_B * cumulated_BV[:, -1])[:, None], right=True)
    return found_B1[:, 0].clamp(max=logits_BV.shape[1] - 1)
