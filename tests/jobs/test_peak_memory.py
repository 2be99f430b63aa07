"""The peak memory that `plan` estimates is near the one that the job has, and says so where only its size is known."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from harness.jobs.peak_memory import LIBRARIES
from tests.e2e.conftest import in_a_fork

VOCAB = 8000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaMA of 41 million weights, and tokens beside it."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=768,
        intermediate_size=2304,
        num_hidden_layers=4,
        num_attention_heads=12,
        max_position_embeddings=512,
    )
    folder = tmp_path_factory.mktemp("memory") / "model"
    LlamaForCausalLM(config).save_pretrained(folder)
    np.save(folder.parent / "tokens.npy", np.random.default_rng(0).integers(0, VOCAB, (8, 256)))
    return folder


def overrides(model: Path, results: Path, *more: str) -> list[str]:
    """A job on that model."""
    tokens = model.parent / "tokens.npy"
    return [
        "model=local",
        f"model.path={model}",
        "calibration=tokens",
        f"calibration.path={tokens}",
        "calibration.num_sequences=8",
        "calibration.seq_len=256",
        "evaluation=perplexity",
        "evaluation.corpora=[tokens]",
        f"data.tokens={tokens}",
        "evaluation.seq_len=256",
        f"results_dir={results}",
        "device=cpu",
        *more,
    ]


def in_a_process(*arguments: str) -> None:
    """Call the command line in a new process: its memory is its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "harness", *arguments], capture_output=True, check=True, env=environment)


def planned(model: Path, results: Path, *more: str) -> dict[str, int] | None:
    """The estimate of one job."""
    (row,) = json.loads(in_a_fork("plan", "--json", *overrides(model, results, *more)).out)
    peak: dict[str, int] | None = row["estimated_peak_bytes"]
    return peak


@pytest.mark.slow
@pytest.mark.parametrize(
    "job",
    [
        ("method=wanda", "pattern=2:4", "dtype=float32"),
        ("method=sparsegpt", "dtype=bfloat16"),
        ("method=magnitude", "dtype=float32", "offload=disk"),
        ("method=llm-pruner", "pattern=structured", "sparsity=0.2", "dtype=bfloat16"),
    ],
    ids=["wanda", "sparsegpt-bfloat16", "offload-disk", "gradients-bfloat16"],
)
def test_the_estimate_is_near_the_peak(job: tuple[str, ...], model: Path, tmp_path: Path) -> None:
    """Within a quarter of what the process then holds."""
    job = (*job, "evaluation.max_windows=2")
    estimate = planned(model, tmp_path, *job)
    assert estimate is not None
    in_a_process("run", *overrides(model, tmp_path, *job))
    (path,) = tmp_path.rglob("*__*.json")
    peak = json.loads(path.read_text())["peak_memory_bytes"]["cpu"]
    assert estimate["on_cpu"] == pytest.approx(peak, rel=0.25)


def test_what_takes_less_memory_is_estimated_lower(model: Path, tmp_path: Path) -> None:
    """Half precision, blocks on disk, and a method without a Hessian."""
    full = planned(model, tmp_path, "method=sparsegpt", "dtype=float32")
    assert full is not None
    on_disk = planned(model, tmp_path, "method=sparsegpt", "dtype=float32", "offload=disk")
    scores = planned(model, tmp_path, "method=wanda", "dtype=float32")
    half = planned(model, tmp_path, "method=sparsegpt", "dtype=bfloat16")
    assert on_disk is not None
    assert scores is not None
    assert half is not None
    assert on_disk["on_cpu"] < full["on_cpu"]
    assert on_disk["on_accelerator"] < full["on_accelerator"]
    assert scores["on_cpu"] < full["on_cpu"]
    assert half["on_accelerator"] < full["on_accelerator"]


@pytest.mark.parametrize(("more", "weights"), [((), 250e6), (("dtype=float32",), 500e6)])
def test_of_a_model_that_is_not_here_its_size_is_told(more: tuple[str, ...], weights: float, tmp_path: Path) -> None:
    """A hub repository that was never fetched, without a network: the weights of 0.125 billion parameters."""
    (row,) = offline(tmp_path, "model=opt-125m", *more)
    assert row["estimated_peak_bytes"]["from_size"] is True
    assert row["estimated_peak_bytes"]["on_accelerator"] == weights
    assert row["estimated_peak_bytes"]["on_cpu"] >= LIBRARIES + weights
    assert row["estimated_seconds_from"].startswith("tokens")


def test_of_a_model_that_says_no_size_nothing_is_told(tmp_path: Path) -> None:
    """Neither is that of one whose blocks come from disk: what lies beside them is not known."""
    for job in (("model=hub", "model.name=org/any"), ("model=opt-125m", "offload=disk")):
        (row,) = offline(tmp_path, *job)
        assert row["estimated_peak_bytes"] is None
    (row,) = offline(tmp_path, "model=hub", "model.name=org/any")
    assert row["estimated_seconds"] is None


def offline(folder: Path, *job: str) -> list[dict[str, Any]]:
    """The plan of dense jobs where no hub can be reached and its cache is empty."""
    asked = ("plan", "--json", *job, "method=dense", "evaluation=none", f"results_dir={folder}")
    rows: list[dict[str, Any]] = json.loads(in_a_fork(*asked, HF_HOME=str(folder / "hub")).out)
    return rows
