"""Tiny random models of every family that the engine must take; their weights are the same on every call."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BloomConfig,
    DeepseekV3Config,
    ElectraConfig,
    FalconConfig,
    FalconMambaConfig,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    GptOssConfig,
    GraniteMoeConfig,
    JambaConfig,
    JetMoeConfig,
    Llama4TextConfig,
    LlamaConfig,
    Mamba2Config,
    MambaConfig,
    MistralConfig,
    MixtralConfig,
    OlmoeConfig,
    OPTConfig,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    RecurrentGemmaConfig,
    RobertaConfig,
    RwkvConfig,
    XLNetConfig,
    Zamba2Config,
    ZambaConfig,
)

from harness.blocks.experts import split_experts

VOCAB = 64
HIDDEN = 32
INNER = 48
SLIDING = {"sliding_window": 5}
"""A window shorter than the test sequences, so that sliding and full attention differ."""
ROUTED = {"num_experts": 4, "num_experts_per_tok": 2}


def _modern(config: Callable[..., PreTrainedConfig], **options: Any) -> PreTrainedConfig:
    """A config of the LLaMA school: gated MLP, rotary positions, grouped-query attention unless told otherwise."""
    return config(
        **{
            "vocab_size": VOCAB,
            "hidden_size": HIDDEN,
            "intermediate_size": INNER,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32,
            "head_dim": 8,
        }
        | options
    )


def _classic(config: Callable[..., PreTrainedConfig], **options: Any) -> PreTrainedConfig:
    return config(vocab_size=VOCAB, hidden_size=HIDDEN, num_attention_heads=4, max_position_embeddings=32, **options)


FAMILIES: dict[str, Callable[[], PreTrainedConfig]] = {
    "opt": lambda: _classic(OPTConfig, ffn_dim=INNER, num_hidden_layers=2, word_embed_proj_dim=HIDDEN),
    "llama": lambda: _modern(LlamaConfig, num_key_value_heads=4),
    "llama-gqa": lambda: _modern(LlamaConfig),
    "qwen3": lambda: _modern(Qwen3Config),
    "gemma-2": lambda: _modern(Gemma2Config, num_hidden_layers=4, **SLIDING),
    "gemma-3": lambda: _modern(
        Gemma3TextConfig,
        num_hidden_layers=4,
        layer_types=["sliding_attention", "full_attention"] * 2,
        **SLIDING,
    ),
    "mistral": lambda: _modern(MistralConfig, **SLIDING),
    "gpt-neox": lambda: _classic(GPTNeoXConfig, intermediate_size=INNER, num_hidden_layers=2),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCAB,
        n_embd=HIDDEN,
        n_inner=INNER,
        n_layer=2,
        n_head=4,
        n_positions=32,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "phi": lambda: _classic(PhiConfig, intermediate_size=INNER, num_hidden_layers=2),
    "bloom": lambda: BloomConfig(vocab_size=VOCAB, hidden_size=HIDDEN, n_layer=2, n_head=4),
    "falcon": lambda: FalconConfig(vocab_size=VOCAB, hidden_size=HIDDEN, num_hidden_layers=2, num_attention_heads=4),
    "mixtral": lambda: _modern(MixtralConfig, num_local_experts=4, num_experts_per_tok=2),
}
MIXTURES: dict[str, Callable[[], PreTrainedConfig]] = {
    "mixtral": FAMILIES["mixtral"],
    "olmoe": lambda: _modern(OlmoeConfig, **ROUTED),
    "qwen2-moe": lambda: _modern(
        Qwen2MoeConfig, **ROUTED, moe_intermediate_size=24, shared_expert_intermediate_size=40
    ),
    "qwen3-moe": lambda: _modern(Qwen3MoeConfig, **ROUTED, moe_intermediate_size=24),
    "deepseek-v3": lambda: _modern(
        DeepseekV3Config,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_shared_experts=1,
        moe_intermediate_size=24,
        n_group=2,
        topk_group=1,
        first_k_dense_replace=1,
        num_key_value_heads=4,
        kv_lora_rank=16,
        q_lora_rank=16,
        **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8),
    ),
    "gpt-oss": lambda: _modern(
        GptOssConfig,
        num_local_experts=4,
        num_experts_per_tok=2,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        **SLIDING,
    ),
    "granite-moe": lambda: _modern(GraniteMoeConfig, num_local_experts=4, num_experts_per_tok=2),
    "llama-4": lambda: _modern(
        Llama4TextConfig,
        intermediate_size_mlp=INNER,
        num_local_experts=4,
        num_experts_per_tok=1,
        interleave_moe_layer_step=1,
        attention_chunk_size=8,
    ),
    "jetmoe": lambda: JetMoeConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=2,
        num_key_value_heads=2,
        kv_channels=8,
        num_local_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=32,
    ),
}
"""Families that keep the matrices of experts in stacks, each in its way."""

MAMBA = {"mamba_d_state": 8}
HYBRID = {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid"] * 2, "num_key_value_heads": 4}
MAMBA_2 = {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 4}
IMAGES = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
UNUSUAL: dict[str, Callable[[], PreTrainedConfig]] = {
    "mamba": lambda: MambaConfig(vocab_size=VOCAB, hidden_size=HIDDEN, num_hidden_layers=2, state_size=8),
    "falcon-mamba": lambda: FalconMambaConfig(vocab_size=VOCAB, hidden_size=HIDDEN, num_hidden_layers=2, state_size=8),
    "mamba-2": lambda: Mamba2Config(vocab_size=VOCAB, hidden_size=HIDDEN, num_hidden_layers=2, **MAMBA_2),
    "jamba": lambda: _modern(
        JambaConfig,
        **ROUTED,
        **MAMBA,
        num_hidden_layers=4,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
    ),
    "zamba": lambda: _modern(ZambaConfig, **HYBRID, **MAMBA, n_mamba_heads=2),
    "zamba-2": lambda: _modern(
        Zamba2Config, **HYBRID, **MAMBA, n_mamba_heads=8, mamba_headdim=8, mamba_ngroups=1, chunk_size=4, adapter_rank=4
    ),
    "recurrent-gemma": lambda: _modern(
        RecurrentGemmaConfig, num_hidden_layers=3, num_key_value_heads=1, lru_width=HIDDEN, attention_window_size=8
    ),
    "rwkv": lambda: RwkvConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        attention_hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=2,
        context_length=32,
        rescale_every=1,
    ),
    "gemma-3-images": lambda: Gemma3Config(
        text_config=FAMILIES["gemma-3"]().to_dict(),
        vision_config={**IMAGES, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
    ),
}
"""Families with other layers than attention, with weights that blocks share, or with a part that is no text's."""
SEES_THE_FUTURE: dict[str, Callable[[], PreTrainedConfig]] = {
    "bert": lambda: _classic(BertConfig, intermediate_size=INNER, num_hidden_layers=2),
    "roberta": lambda: _classic(RobertaConfig, intermediate_size=INNER, num_hidden_layers=2),
    "electra": lambda: _classic(ElectraConfig, intermediate_size=INNER, num_hidden_layers=2, embedding_size=16),
    "embedding-gemma": lambda: _modern(Gemma3TextConfig, use_bidirectional_attention=True, **SLIDING),
}
"""Families that transformers loads to predict next tokens, which they see."""
OTHERS: dict[str, Callable[[], PreTrainedConfig]] = {
    "xlnet": lambda: XLNetConfig(vocab_size=VOCAB, d_model=HIDDEN, n_layer=2, n_head=4, d_inner=INNER),
}
"""Families that cannot be taken block by block."""
EVERY = FAMILIES | MIXTURES | UNUSUAL
"""Families that are pruned."""


def tiny_model(family: str, **changes: Any) -> PreTrainedModel:
    """`plain_model` as it is loaded to be pruned: with a linear for every expert of a mixture."""
    model = plain_model(family, **changes)
    split_experts(model)
    return model


def plain_model(family: str, **changes: Any) -> PreTrainedModel:
    """A float32 model of `family` as transformers makes it, in evaluation mode; `changes` are set on its config.

    Weights are normal with a deviation of 0.1, larger than the families' own: blocks then change what they are given,
    and a mistake in a block shows in the logits.
    """
    config = (EVERY | SEES_THE_FUTURE | OTHERS)[family]()
    for name, value in changes.items():
        setattr(config, name, value)
    # Token ids of the defaults (2, 50256, ...) lie outside the tiny vocabulary, which transformers warns about.
    config.pad_token_id, config.bos_token_id, config.eos_token_id = None, 1, 2
    if config.model_type == "roberta":  # counts its positions from that one
        config.pad_token_id = 0
    generator = torch.Generator().manual_seed(7)
    with torch.random.fork_rng([]):  # some families draw vectors too
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() >= 2:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
            else:
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.05)
    return model
