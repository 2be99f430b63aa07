"""Records to store and to mirror, made through the real types."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb

from harness import record_v1
from harness.job import CalibrationSpec, Choice, JobSpec, ModelSpec, PruningSpec
from harness.patterns import SemiStructured, Unstructured
from harness.record import SCHEMA_VERSION, Defaults, EvalResult, LayerReport, Provenance, RunRecord
from harness.tracking.wandb import client as wandb_client
from tests.tracking.wandb_server import WandbServer, wandb_server

RecordMaker = Callable[..., RunRecord]
KEY = "0" * 40


def _provenance(dirty: bool) -> Provenance:
    return Provenance(
        created="2025-01-02T03:04:05+00:00",
        prunebench_version="0.1.0",
        commit="c0ffee",
        dirty=dirty,
        packages={"torch": "2.13.0"},
        python="3.11.7",
        platform="Linux",
        hardware={"cores": 2},
        device="cpu",
        dtype="float32",
        command=("method=wanda",),
    )


RESULTS = (
    EvalResult(
        "perplexity:wikitext2:seq2048:v1", "perplexity", "wikitext2", "perplexity", 31.5, None, 7, False, None, "x", "f"
    ),
    EvalResult("zero_shot:piqa:first100:v1.0", "zero_shot", "piqa", "acc_norm", 0.62, 0.05, 100, True, "100", "x", "f"),
    EvalResult("zero_shot:boolq:v2.0", "zero_shot", "boolq", "acc", None, None, 0, True, None, "x", "f"),
)

LAYERS = (
    LayerReport("model.layers.0.q_proj", (4, 8), 0.5, 0.5, 0.125, 64),
    LayerReport("model.layers.0.k_proj", (2, 8), 0.5, 0.5, None, 0),
)


@pytest.fixture
def make_record() -> RecordMaker:
    """Make a record of a Wanda job, with changes."""

    def make(
        *,
        status: str = "done",
        dirty: bool = False,
        seed: int = 0,
        sparsity: float | None = None,
        model: str = "opt-125m",
        **changes: Any,
    ) -> RunRecord:
        spec = JobSpec(
            model=ModelSpec(model, "hub:facebook/opt-125m@abc", "auto"),
            pruning=PruningSpec(
                method=Choice("wanda", {"block_size": 128}),
                pattern=Unstructured(sparsity) if sparsity else SemiStructured(2, 4),
                allocation=Choice("uniform"),
                calibration=CalibrationSpec("c4", "sha256:abc", 128, 2048, "documents", "pruned"),
                recovery=Choice("none"),
                seed=seed,
            ),
            evaluation=(),
        )
        fields: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "job_id": spec.job_id,
            "job": spec.identity(),
            "defaults": Defaults(**record_v1.defaults(spec.identity())),
            "status": status,
            "results": RESULTS,
            "layers": LAYERS,
            "achieved_sparsity": 0.5,
            "weights_fingerprint": "f" * 64,
            "timings_s": {"load": 1.5, "total": 9.0},
            "peak_memory_bytes": {"cpu": 1024},
            "provenance": _provenance(dirty),
            "notes": ("piqa: first 100 questions",),
            "error": "Traceback ..." if status == "failed" else None,
        }
        return RunRecord(**(fields | changes))

    return make


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is logged in, whoever runs the tests, and W&B finds none of their settings."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """W&B's folder below a results folder."""
    return tmp_path / "results" / "wandb"


@pytest.fixture
def server(nobody: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A server that takes everything, and somebody logged in to it."""
    with wandb_server() as up:
        monkeypatch.setenv("WANDB_BASE_URL", up.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setattr(wandb_client, "logged_in", lambda: True)
        yield up
    wandb.teardown()  # a process keeps who is logged in, and the next test may be nobody
