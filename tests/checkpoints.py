"""Tiny random models in the layouts that their families have on the hub: names of tensors, files, tokenizers."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import sentencepiece
import torch
from omegaconf import OmegaConf
from safetensors.torch import save as safetensors
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    PreTrainedConfig,
    Qwen2Config,
)

from harness.models.folders import byte_tokenizer
from tests.hub import StandInHub

CONF = Path(__file__).parents[1] / "conf"
TEXT = [f"the {a} {b} was not {c} in the {d}" for a in ["old", "new"] for b in ["man", "sea", "dog"]
        for c in ["seen", "here", "found"] for d in ["town", "house"]]  # fmt: skip
"""What the corpora of a stand-in hub are made of, and LLaMA's tokenizer."""
Files = dict[str, bytes]
VOCAB, LENGTH = 288, 64
TINY = {"vocab_size": VOCAB, "hidden_size": 32, "max_position_embeddings": LENGTH, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "intermediate_size": 48}


def weights_of(config: PreTrainedConfig, spelling: Callable[[str], str]) -> dict[str, Tensor]:
    """What a checkpoint holds, in float16 and with a tied head left out, by the names that `spelling` gives."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).half()
    state = model.state_dict()
    if config.tie_word_embeddings:
        state = {name: tensor for name, tensor in state.items() if not name.startswith("lm_head.")}
    return {spelling(name): tensor for name, tensor in state.items()}


def config_of(config: PreTrainedConfig) -> Files:
    """The configuration as a file, with the class of the model and its type as it is stored."""
    architecture = type(AutoModelForCausalLM.from_config(config)).__name__
    return {
        "config.json": json.dumps(config.to_dict() | {"architectures": [architecture], "dtype": "float16"}).encode()
    }


def one_file(tensors: dict[str, Tensor]) -> Files:
    """As ``model.safetensors``."""
    return {"model.safetensors": safetensors(tensors, metadata={"format": "pt"})}


def shards(tensors: dict[str, Tensor], stem: str, suffix: str, write: Callable[[dict[str, Tensor]], bytes]) -> Files:
    """Two files and their index."""
    names, files, places = sorted(tensors), {}, {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"{stem}-{number:05d}-of-00002.{suffix}"
        files[file] = write({name: tensors[name] for name in part})
        places |= dict.fromkeys(part, file)
    return {**files, f"{stem}.{suffix}.index.json": json.dumps({"metadata": {}, "weight_map": places}).encode()}


def sharded(tensors: dict[str, Tensor]) -> Files:
    """As two files of safetensors."""
    return shards(tensors, "model", "safetensors", lambda part: safetensors(part, metadata={"format": "pt"}))


def pickled(tensors: dict[str, Tensor]) -> bytes:
    """As `torch.save` writes them."""
    stream = io.BytesIO()
    torch.save(tensors, stream)
    return stream.getvalue()


def byte_level(*special: str) -> Files:
    """GPT-2's own files: one token a byte, no merges."""
    letters = (*special, *sorted(pre_tokenizers.ByteLevel.alphabet()))
    vocabulary = {letter: place for place, letter in enumerate(letters)}
    return {"vocab.json": json.dumps(vocabulary).encode(), "merges.txt": b"#version: 0.2\n"}


def opt(*, post_norm: bool = False) -> tuple[Files, dict[str, Tensor]]:
    """What goes with the weights, and these; the 350M is post-norm, projects its embeddings, and has other names."""
    odd = {"word_embed_proj_dim": 16, "do_layer_norm_before": False} if post_norm else {"word_embed_proj_dim": 32}
    config = OPTConfig(**TINY, ffn_dim=48, num_attention_heads=4, **odd)
    special = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    tokenizer = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "errors": "replace", **special}
    files = {"tokenizer_config.json": json.dumps(tokenizer).encode(), **byte_level("<s>", "<pad>", "</s>", "<unk>")}
    weights = weights_of(config, lambda name: name.removeprefix("model.") if post_norm else name)
    return {**config_of(config), **files}, weights


def llama() -> Files:
    """Two shards with the rotary buffers that no release reads any more, and a tokenizer of SentencePiece alone."""
    stream = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT), model_writer=stream, vocab_size=VOCAB, model_type="bpe", byte_fallback=True,
        minloglevel=2,
    )  # fmt: skip
    config = LlamaConfig(**TINY, **HEADS, tie_word_embeddings=False)
    weights = weights_of(config, str)
    buffers = {f"model.layers.{block}.self_attn.rotary_emb.inv_freq": torch.rand(4) for block in range(2)}
    tokenizer = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    files = {"tokenizer_config.json": json.dumps(tokenizer).encode(), "tokenizer.model": stream.getvalue()}
    return {**config_of(config), **files, **sharded(weights | buffers)}


def gpt2() -> Files:
    """Names without the base model's prefix."""
    config = GPT2Config(vocab_size=VOCAB, n_embd=32, n_head=4, n_layer=2, n_positions=LENGTH)
    weights = weights_of(config, lambda name: name.removeprefix("transformer."))
    return {**config_of(config), **byte_level("<|endoftext|>"), **one_file(weights)}


def pythia() -> Files:
    """The head has the name of an older release."""
    config = GPTNeoXConfig(**TINY, **HEADS)
    return {**config_of(config), **saved_tokenizer(), **one_file(weights_of(config, _embed_out))}


def _embed_out(name: str) -> str:
    return name.replace("lm_head.", "embed_out.")


def qwen() -> Files:
    """Tied embeddings, biases at queries, keys and values, fewer heads of keys."""
    config = Qwen2Config(**TINY, **HEADS, num_key_value_heads=2, tie_word_embeddings=True)
    return {**config_of(config), **saved_tokenizer(), **one_file(weights_of(config, str))}


def saved_tokenizer() -> Files:
    """One token a byte, as ``tokenizer.json``."""
    with TemporaryDirectory() as folder:
        byte_tokenizer().save_pretrained(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def models_of(experiment: str) -> list[str]:
    """The models that an experiment sweeps."""
    swept = OmegaConf.load(CONF / "experiment" / f"{experiment}.yaml").hydra.sweeper.params
    return str(swept.model).split(",")


def publish(hub: StandInHub, models: list[str]) -> None:
    """Commit every model of these names, as `conf/model` has it, in its family's layout."""
    made = dict(_layouts(models))
    for name in models:
        about = OmegaConf.load(CONF / "model" / f"{name}.yaml")
        family = _family(name)
        if family != "opt":
            hub.commit(about.repository, made[family])
            continue
        beside, weights = made["opt-350m"] if name == "opt-350m" else made["opt"]
        pickles = shards(weights, "pytorch_model", "bin", pickled)
        hub.commit(about.repository, beside | pickles)  # `main` has pickles only
        if "revision" in about:
            hub.commit(about.repository, beside | pickles | one_file(weights), branch=about.revision)


def _family(name: str) -> str:
    return next(family for family in ("opt", "llama", "gpt2", "pythia", "qwen") if name.startswith(family))


def _layouts(models: list[str]) -> Iterator[tuple[str, object]]:
    families = {_family(name) for name in models}
    if "opt" in families:
        yield "opt", opt()
        yield "opt-350m", opt(post_norm=True)
    for make in (llama, gpt2, pythia, qwen):
        if make.__name__ in families:
            yield make.__name__, make()
