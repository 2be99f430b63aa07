"""What is looked at in a loaded checkpoint before hours are spent on it."""

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from harness.blocks.layers import decoder_blocks
from harness.errors import UserError


def check_finite(name: str, model: nn.Module) -> None:
    """Raise `UserError` naming the first weight that is not finite."""
    for path, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise UserError(f"model {name} has weights that are not finite, first in {path}; allowed: finite weights")


def not_embedded(name: str, tokenizer: PreTrainedTokenizerBase | None, vocab_size: int) -> tuple[str, ...]:
    """Special tokens of the tokenizer that the model has no embedding of; a text has them only where it spells them.

    Args:
        vocab_size: tokens that the model embeds.

    Raises:
        UserError: any text may have one.
    """
    if tokenizer is None:
        return ()
    beyond = {token: index for token, index in tokenizer.get_vocab().items() if index >= vocab_size}
    put_in = {*tokenizer("")["input_ids"], tokenizer.bos_token_id, tokenizer.eos_token_id}
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special} - put_in
    usual = sorted(index for index in beyond.values() if index not in special)
    if usual:
        raise UserError(
            f"the tokenizer of model {name} has {len(usual)} tokens that the model has no embedding of, first id "
            f"{usual[0]}; allowed: ids 0 to {vocab_size - 1}"
        )
    return tuple(beyond)


def unexpected_note(name: str, model: PreTrainedModel, unexpected: Iterable[str]) -> tuple[str, ...]:
    """What a record must say of stored tensors that the model does not have.

    Raises:
        UserError: one belongs to a layer that the model has, or to a further block of its stack: what would be
            measured is another model than the checkpoint is.
    """
    prefix, blocks = decoder_blocks(model)
    modules = {path for path, _ in model.named_modules()} - {""}
    computed = [r"rotary_emb\.inv_freq$", *(model._keys_to_ignore_on_load_unexpected or ())]
    left_out = []
    for key in sorted(unexpected):
        path = key if key.startswith(prefix) else f"{model.base_model_prefix}.{key}"
        if any(re.search(pattern, path) for pattern in computed) or path in dict(model.named_buffers()):
            continue
        further = re.match(rf"{re.escape(prefix)}\.(\d+)\.", path)
        if further and int(further[1]) >= len(blocks):
            raise UserError(
                f"model {name} has weights of more than the {len(blocks)} blocks that its config.json says, first "
                f"{path}; allowed: a checkpoint whose configuration and weights agree"
            )
        if {path.rpartition(".")[0], key.rpartition(".")[0]} & modules:
            raise UserError(
                f"model {name} has {path}, which a {type(model).__name__} of its config.json does not use; allowed: a "
                "checkpoint whose configuration and weights agree"
            )
        left_out.append(key)
    if not left_out:
        return ()
    return (f"left out, being no part of a {type(model).__name__}: {len(left_out)} tensors, first {left_out[0]}",)


def without_quantisation(name: str, model: PreTrainedModel, quantised: Any) -> tuple[str, ...]:
    """See that the weights of a quantised checkpoint are plain now, so that it is saved as that; what a record says.

    Args:
        quantised: what the checkpoint's configuration says of it, None = nothing.

    Raises:
        UserError: weights are still quantised: their zeros are no zeros of the model.
    """
    if quantised is None:
        return ()
    method = quantised["quant_method"] if isinstance(quantised, dict) else quantised.quant_method
    said = str(getattr(method, "value", method))
    plain = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
    packed = [path for path, tensor in model.state_dict().items() if tensor.dtype not in plain and tensor.dim() >= 2]
    if packed:
        raise UserError(
            f"model {name} is quantised ({said}), and stays so when it is loaded, first {packed[0]}; allowed: a "
            "checkpoint in a floating type, or one that transformers de-quantises"
        )
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None  # type: ignore[assignment]  # an attribute that only quantised models have
    model.__dict__["_weight_conversions"] = []  # else it is saved as it was stored, and without its scales
    return (f"the checkpoint is quantised ({said}): its weights were de-quantised when it was loaded",)
