"""A model that is small, random and sure of itself, and a tokenizer of bytes."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from harness.models.folders import byte_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    """One token a byte, and an end-of-text token; no padding token, as many checkpoints have none."""
    return byte_tokenizer()


@pytest.fixture
def model() -> LlamaForCausalLM:
    """A tiny random LLaMA with enough spread in its logits to prefer one option clearly."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).train()
