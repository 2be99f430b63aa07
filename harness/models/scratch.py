"""Models that start from random weights: small enough to be trained here, for methods that train.

Weights are drawn with one fixed seed, so that every job starts from the same ones.  The tokenizer has one token a byte
and one that ends a text: text of any language can be read without a vocabulary that is larger than the model.
No torch before it is needed, so that planning can name these models.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from harness.job import canonical_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BYTES = 256
END_OF_TEXT = "<|endoftext|>"
SEED = 0
DRAW = "normal 0.02, v1"
"""How weights are drawn; part of a model's identity."""

SCRATCH: Mapping[str, Mapping[str, Any]] = {
    "tiny-llama": {
        "model_type": "llama",
        "vocab_size": BYTES + 1,
        "hidden_size": 64,
        "intermediate_size": 176,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 512,
        "bos_token_id": BYTES,
        "eos_token_id": BYTES,
        "tie_word_embeddings": False,
    }
}
"""Configurations by model name."""


def scratch_digest(name: str) -> str:
    """Pins the random weights of a model, as part of its checkpoint's identity."""
    return sha256(canonical_json([SCRATCH[name], SEED, DRAW]).encode()).hexdigest()[:16]


def scratch_model(name: str) -> "PreTrainedModel":
    """The model in float32: matrices normal with a deviation of 0.02, norms one, biases zero."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.random.fork_rng([]):  # the library's own first weights, which nobody uses, take no random number
        config = AutoConfig.for_model(**dict(SCRATCH[name]))
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for path, weight in model.named_parameters():
            if weight.dim() >= 2:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.02)
            else:
                weight.fill_(0.0 if path.endswith("bias") else 1.0)
    return model


def byte_tokenizer() -> "PreTrainedTokenizerBase":
    """One token a byte of UTF-8, and one for the end of a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {letter: place for place, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    assert len(vocabulary) == BYTES, f"{len(vocabulary)} bytes"
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary | {END_OF_TEXT: BYTES}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT)
