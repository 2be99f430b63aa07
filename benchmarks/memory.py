"""The peak memory that `plan` estimates against the peak that the job then has.

    python -m benchmarks memory [--model-folder FOLDER | --arithmetic]

Each job is a process of the command line on the embedded model and data (and on the model in FOLDER with random
tokens), so that its peak is its own.  Prints estimate, measured peak and their ratio.  With --arithmetic nothing runs:
what SparseGPT on LLaMA-7B and OPT-66B takes on an accelerator, from the sizes in their configurations alone.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from harness.config.hydra import compose
from harness.config.request import JobRequest
from harness.jobs.peak_memory import peak_of
from harness.models.dimensions import of_config

SHARED = ("calibration.source=embedded", "model=smollm2-135m")
PERPLEXITY = ("evaluation=perplexity", "evaluation.corpora=[wikipedia-sample]", "evaluation.max_windows=4")
JOBS: dict[str, tuple[str, ...]] = {
    "wanda, float32": ("method=wanda", "dtype=float32", "calibration.num_sequences=8", "calibration.seq_len=512"),
    "sparsegpt, float32": ("method=sparsegpt", "dtype=float32", "calibration.num_sequences=8"),
    "sparsegpt, bfloat16": ("method=sparsegpt", "dtype=bfloat16", "calibration.num_sequences=8"),
    "dense, bfloat16": ("method=dense", "dtype=bfloat16"),
    "magnitude, tasks": ("method=magnitude", "dtype=bfloat16", "evaluation=demo", "evaluation.limit=10"),
    "wanda, offload=disk": ("method=wanda", "dtype=float32", "offload=disk", "calibration.num_sequences=8"),
}


def main(arguments: list[str]) -> None:
    """Plan and run every job, and print what came out."""
    parser = argparse.ArgumentParser(prog="benchmarks memory")
    parser.add_argument("--model-folder", type=Path, help="a model to prune with Wanda 2:4 and measure as well")
    parser.add_argument("--arithmetic", action="store_true", help="estimates of two large models, from their sizes")
    options = parser.parse_args(arguments)
    if options.arithmetic:
        _arithmetic()
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, overrides in JOBS.items():
            windows = () if "evaluation=demo" in overrides else PERPLEXITY
            length = () if any(text.startswith("calibration.seq_len") for text in overrides) else SHORT
            _compare(name, (*SHARED, *windows, *length, *overrides), Path(folder))
        if options.model_folder is not None:
            _compare("wanda 2:4 of the folder", _folder_job(options.model_folder, Path(folder)), Path(folder))


LARGE = {
    "llama-7b": {
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 11008,
        "hidden_act": "silu", "vocab_size": 32000, "tie_word_embeddings": False, "dtype": "float16",
    },
    "opt-66b": {
        "hidden_size": 9216, "num_hidden_layers": 64, "num_attention_heads": 72, "ffn_dim": 36864,
        "vocab_size": 50272, "dtype": "float16",
    },
}  # fmt: skip
"""Sizes of their authors' configurations."""
PUBLISHED_JOB = (
    "method=sparsegpt", "pattern=2:4", "dtype=float16", "calibration.source=embedded", "calibration.num_sequences=128",
    "calibration.seq_len=2048", "evaluation=perplexity", "evaluation.source=embedded", "evaluation.seq_len=2048",
    "evaluation.corpora=[wikipedia-sample]", "evaluation.max_windows=150",
)  # fmt: skip
"""128 x 2,048 calibration tokens; windows of as many tokens as `plan` takes a text to have."""


def _arithmetic() -> None:
    print(f"{'':24s} on the accelerator   of it hidden states   beside it (GB)")
    for name, config in LARGE.items():
        dimensions = of_config(config)
        assert dimensions is not None, f"{name} is a plain decoder"
        (job,) = compose([f"model={name}", *PUBLISHED_JOB], multirun=False).jobs
        assert isinstance(job, JobRequest), job
        for offload in ("none", "cpu", "disk"):
            peak = peak_of(dimensions, job, offload)
            sizes = (peak.on_accelerator, peak.movable, peak.beside_accelerator)
            print(f"{name:9s} offload={offload:5s} " + "".join(f"{size / 1e9:16.1f}   " for size in sizes))


SHORT = ("calibration.seq_len=512", "evaluation.seq_len=512")


def _folder_job(model: Path, folder: Path) -> tuple[str, ...]:
    """Random tokens, since the folder may hold no tokenizer."""
    vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
    tokens = folder / "tokens.npy"
    np.save(tokens, np.random.default_rng(0).integers(0, vocabulary, size=(8, 512)))
    return (
        "model=local",
        f"model.path={model}",
        "method=wanda",
        "pattern=2:4",
        "calibration=tokens",
        f"calibration.path={tokens}",
        "calibration.num_sequences=8",
        "calibration.seq_len=512",
        "evaluation=perplexity",
        "evaluation.corpora=[tokens]",
        f"data.tokens={tokens}",
        "evaluation.seq_len=512",
        "dtype=bfloat16",
    )


def _compare(name: str, overrides: tuple[str, ...], folder: Path) -> None:
    results = folder / "".join(letter for letter in name if letter.isalnum())
    command = [sys.executable, "-m", "harness"]
    where = (*overrides, f"results_dir={results}", "device=cpu")
    subprocess.run([*command, "plan", *where], check=True, capture_output=True)  # reads the model's files once
    planned = subprocess.run([*command, "plan", "--json", *where], check=True, capture_output=True)
    (row,) = json.loads(planned.stdout)
    subprocess.run([*command, "run", *where], check=True, capture_output=True)
    (record,) = (json.loads(path.read_text()) for path in results.rglob("*__*.json"))
    estimate, measured = row["estimated_peak_bytes"]["on_cpu"], record["peak_memory_bytes"]["cpu"]
    print(
        f"{name:26s} estimated {estimate / 2**20:6.0f} MiB  measured {measured / 2**20:6.0f} MiB  "
        f"{estimate / measured:4.2f} x",
        flush=True,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
