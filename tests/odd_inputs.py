"""Inputs that users have come with, made in a folder, and what is right: `benchmarks faults` prints what happens."""

import json
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness.cli.main import main
from harness.models.folders import byte_tokenizer
from tests.e2e.conftest import quick_job
from tests.eight_bits import in_eight_bits
from tests.families import VOCAB, plain_model

Overrides = Sequence[str]
WANDA = ("method=wanda", "sparsity=0.5")
SHARD = "model.safetensors"


@dataclass(frozen=True)
class Case:
    """An input of a user.

    Args:
        make: writes it into a folder; the job that reads it, on top of one that runs in a moment.
        says: a part of what is said, or of the records.
        code: of the command's exit.
        command: the words in front of the overrides.
    """

    make: Callable[[Path], Overrides]
    says: str
    code: int = 2
    command: tuple[str, ...] = ("run",)


def tried(case: Case, folder: Path) -> tuple[int, str]:
    """Exit code, and what the command said, with the numbers and notes of the records that it left."""
    rows = np.random.default_rng(0).integers(3, VOCAB, (8, 16))
    np.save(folder / "tokens.npy", rows)
    job = quick_job(folder / "model", folder / "tokens.npy", folder / "results")
    given = {text.partition("=")[0]: text for text in (*job, *WANDA, *case.make(folder))}
    out, error, code = StringIO(), StringIO(), 0
    with redirect_stdout(out), redirect_stderr(error):
        try:
            main((*case.command, *given.values()))
        except SystemExit as ended:
            code = int(ended.code or 0)
    said = [line for line in error.getvalue().splitlines() if line.strip()]
    if case.command != ("run",):
        said += out.getvalue().splitlines()
    for file in sorted((folder / "results").rglob("*__*.json")):
        record = json.loads(file.read_text())
        numbers = [f"{result['metric']} {result['value']:.4f}" for result in record["results"]]
        zeros = f"{record['achieved_sparsity']:.4f} zeros" if record["achieved_sparsity"] is not None else "failed"
        said.append(" | ".join([record["job"]["method"]["name"], zeros, *numbers, *record["notes"]]))
    return code, "\n".join(said)


def _family(name: str, folder: Path, *, overrides: Overrides = (), **changes: Any) -> Overrides:
    plain_model(name, **changes).save_pretrained(folder / "model")
    return overrides


def _stored(change: Callable[[dict[str, Tensor]], None], folder: Path) -> Overrides:
    """A LLaMA with other tensors."""
    _family("llama", folder)
    tensors = load_file(folder / "model" / SHARD)
    change(tensors)
    save_file(tensors, folder / "model" / SHARD, metadata={"format": "pt"})
    return ()


def _file(content: Callable[[bytes], bytes | None], folder: Path) -> Overrides:
    """A LLaMA with another file of weights, or none."""
    plain_model("llama").save_pretrained(folder / "model", max_shard_size="20KB")
    shard = sorted((folder / "model").glob("model-*.safetensors"))[0]
    new = content(shard.read_bytes())
    shard.unlink() if new is None else shard.write_bytes(new)
    return ()


def _eight_bits(folder: Path, *overrides: str) -> Overrides:
    _family("llama", folder)
    in_eight_bits(folder / "model")
    return overrides or (f"save_model={folder / 'saved'}",)


def _four_bits(folder: Path) -> Overrides:
    """GPT-OSS as it is published: experts in MXFP4, two numbers a byte, a power of two for 32 of them."""
    _family("gpt-oss", folder, intermediate_size=64)
    tensors, generator = load_file(folder / "model" / SHARD), torch.Generator().manual_seed(0)
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        count, columns, rows = tensors.pop(name).shape
        blocks = (count, rows, columns // 32, 16)
        tensors[f"{name}_blocks"] = torch.randint(0, 256, blocks, dtype=torch.uint8, generator=generator)
        tensors[f"{name}_scales"] = torch.full(blocks[:-1], 123, dtype=torch.uint8)
    save_file(tensors, folder / "model" / SHARD, metadata={"format": "pt"})
    kept = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    return _quantised(
        {"quant_method": "mxfp4", "modules_to_not_convert": kept}, folder, (f"save_model={folder / 'saved'}",)
    )


def _quantised(says: dict[str, object], folder: Path, overrides: Overrides = ()) -> Overrides:
    """What config.json says of the quantisation, of a LLaMA where there is no model yet."""
    if not (folder / "model").exists():
        _family("llama", folder)
    file = folder / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": says}))
    return overrides


def _text(folder: Path, *, embedded: int, padding: bool = False, text: str = "ab [PAD] " * 60) -> Overrides:
    """A model of bytes that embeds so many tokens, and a text."""
    _family("llama", folder, vocab_size=embedded)
    tokenizer = byte_tokenizer()
    if padding:
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder / "model")
    (folder / "text.txt").write_text(text)
    of_text = ("calibration=wikitext2", f"calibration.path={folder / 'text.txt'}", "calibration.num_sequences=2")
    return (*of_text, "calibration.seq_len=16")


def _ids(folder: Path) -> Overrides:
    np.save(folder / "tokens.npy", np.full((8, 16), VOCAB))
    return _family("llama", folder)


def _large(tensors: dict[str, Tensor]) -> None:
    for name in ("gate_proj", "up_proj"):
        tensors[f"model.layers.1.mlp.{name}.weight"] *= 1e4


def _llama(*overrides: str) -> Callable[[Path], Overrides]:
    return partial(_family, "llama", overrides=overrides)


def _bias(tensors: dict[str, Tensor]) -> None:
    tensors["model.layers.0.self_attn.q_proj.bias"] = torch.ones(32)


def _further(tensors: dict[str, Tensor]) -> None:
    tensors["model.layers.2.self_attn.q_proj.weight"] = torch.ones(32, 32)


ONE_JOB = ("plan", "-m")
FUTURE = "sees the future"
CASES: dict[str, Case] = {
    "8 bits, two jobs": Case(
        lambda folder: _eight_bits(folder, "method=dense,wanda"), "wanda | 0.5000 zeros", 0, ("run", "-m")
    ),
    "8 bits, saved": Case(_eight_bits, "de-quantised when it was loaded", code=0),
    "MXFP4 (GPT-OSS), saved": Case(_four_bits, "de-quantised when it was loaded", code=0),
    "GPTQ": Case(partial(_quantised, {"quant_method": "gptq", "bits": 4, "group_size": 32}), "cannot be loaded from"),
    "AWQ": Case(partial(_quantised, {"quant_method": "awq", "bits": 4, "group_size": 32}), "cannot be loaded from"),
    "bitsandbytes": Case(
        partial(_quantised, {"quant_method": "bitsandbytes", "load_in_4bit": True}), "cannot be loaded from"
    ),
    "Mixtral": Case(partial(_family, "mixtral"), "0.4970 zeros", code=0),
    "Llama 4": Case(partial(_family, "llama-4"), "wanda", code=0),
    "JetMoE": Case(partial(_family, "jetmoe"), "wanda", code=0),
    "BERT": Case(partial(_family, "bert"), FUTURE),
    "RoBERTa": Case(partial(_family, "roberta"), FUTURE),
    "ELECTRA": Case(partial(_family, "electra"), FUTURE),
    "bidirectional Gemma": Case(partial(_family, "embedding-gemma"), FUTURE),
    "XLNet": Case(partial(_family, "xlnet"), "allowed: models that keep sequences along the first axis"),
    "a bias that the configuration does not know": Case(partial(_stored, _bias), "does not use"),
    "more layers than the configuration says": Case(partial(_stored, _further), "more than the 2 blocks"),
    "letters without an embedding": Case(partial(_text, embedded=250), "no embedding of, first id 250"),
    "padding without an embedding in the text": Case(
        partial(_text, embedded=257, padding=True), "calibration=wikitext2 has token id 257; allowed: 0 to 256"
    ),
    "padding without an embedding, not in the text": Case(
        partial(_text, embedded=257, padding=True, text="ab " * 60), "perplexity", code=0
    ),
    "token arrays with an id too many": Case(_ids, f"has token id {VOCAB}; allowed: 0 to {VOCAB - 1}"),
    "Mamba": Case(partial(_family, "mamba"), "being no linear layers that the model calls", code=0),
    "Jamba": Case(partial(_family, "jamba"), "being no linear layers that the model calls", code=0),
    "Zamba 2": Case(partial(_family, "zamba-2"), "being no linear layers that the model calls", code=0),
    "RecurrentGemma": Case(partial(_family, "recurrent-gemma"), "perplexity", code=0),
    "RWKV": Case(partial(_family, "rwkv"), "0.5000 zeros", code=0),
    "Gemma 3 with images": Case(partial(_family, "gemma-3-images"), "0.5000 zeros", code=0),
    "a Git LFS pointer": Case(
        partial(_file, lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "is a Git LFS pointer",
    ),
    "a cut file": Case(partial(_file, lambda content: content[:-100]), "by its header"),
    "a lost shard, planned": Case(partial(_file, lambda _: None), "cannot be read", command=("plan",)),
    "a name of 200 characters": Case(_llama(f"model.name={'x' * 200}"), "has 200 characters"),
    "a name with ~, a space and an umlaut": Case(_llama("model.name='~ ä'"), "wanda", code=0),
    "an override with a second =": Case(_llama("model.name=a=b"), "model.name=a=b"),
    "inputs that overflow float16": Case(
        lambda folder: (*_stored(_large, folder), "dtype=float16"),
        "inputs of model.layers.1.mlp.down_proj overflow float16; allowed: dtype=bfloat16",
    ),
    "a granularity within groups": Case(
        _llama("method=magnitude", "pattern=2:4", "method.granularity=tensor,row"), "magnitude", 0, ONE_JOB
    ),
}
