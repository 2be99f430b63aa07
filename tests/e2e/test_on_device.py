"""A job as a whole on the stand-in for an accelerator: pruned, measured and saved, with no transfer by accident."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from harness.blocks.layers import decoder_blocks
from harness.blocks.offload import Offloading
from harness.jobs import run
from harness.models import loading, model_cache
from harness.models.checkpoint import Checkpoint
from harness.models.loading import LoadedModel
from harness.pruning.fingerprints import weights_fingerprint
from tests.accelerator import CPU, DEVICE, Accelerator
from tests.e2e.conftest import Outcome

pytestmark = pytest.mark.e2e
Cli = Callable[..., Outcome]


@pytest.fixture
def whole_job(speaking_model: Path, tokens: Path, tmp_path: Path) -> tuple[str, ...]:
    """Perplexity, and questions of a zero-shot task, of a model that prunes in a moment."""
    questions = [{"goal": f"to {goal}", "sol1": "wait", "sol2": f"do {goal}", "label": 1} for goal in "abcdef"]
    (tmp_path / "piqa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    return (
        "model=local", f"model.path={speaking_model}", "dtype=float32", "calibration=tokens", "batch_tokens=32",
        f"calibration.path={tokens}", "evaluation.corpora=[tokens]", f"data.tokens={tokens}", "evaluation.seq_len=16",
        "evaluation.tasks=[piqa]", f"data.piqa={tmp_path / 'piqa.jsonl'}", "method=sparsegpt", "pattern=2:4",
    )  # fmt: skip


@pytest.fixture
def on_stand_in(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """Jobs run on the stand-in; where the first block computes before it is its turn is noted.

    Attention is plain matrix products: fused kernels are chosen by the kind of device.
    """
    seen: list[torch.device] = []
    load = loading.load_model

    def load_eager(checkpoint: Checkpoint, dtype: torch.dtype | None) -> LoadedModel:
        loaded = load(checkpoint, dtype)
        loaded.model.set_attn_implementation("eager")
        first: Any = decoder_blocks(loaded.model)[1][0]
        first.mlp.register_forward_pre_hook(lambda _, args: seen.append((args[0].device, len(args[0]))))
        return loaded

    def fingerprint(model: Any, offloading: Offloading) -> str:
        assert {weight.device for weight in model.parameters()} == {CPU}, "no weight comes back for its fingerprint"
        return weights_fingerprint(model, offloading)

    monkeypatch.setattr(model_cache, "load_model", load_eager)
    monkeypatch.setattr(run, "weights_fingerprint", fingerprint)
    return seen


def run_on(
    device: torch.device, cli: Cli, monkeypatch: pytest.MonkeyPatch, *overrides: str
) -> tuple[Outcome, Accelerator]:
    """One call of the command line whose jobs run on that device."""
    with monkeypatch.context() as patched, Accelerator() as accelerator:
        patched.setattr(run, "resolve_device", lambda name: device)
        outcome = cli("run", *overrides)
    return outcome, accelerator


def test_a_whole_job_on_an_accelerator_is_that_of_the_cpu(
    cli: Cli, whole_job: tuple[str, ...], on_stand_in: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same weights, reports, perplexity, answers and saved tensors.

    The first block is run once, on one sequence, before the batches come; what is copied back is counted.
    """
    records, saved, waits = [], [], []
    for name, device in (("cpu", CPU), ("device", DEVICE)):
        results, folder = tmp_path / name / "results", tmp_path / name / "model"
        on_stand_in.clear()
        outcome, accelerator = run_on(
            device, cli, monkeypatch, *whole_job, f"results_dir={results}", f"save_model={folder}"
        )
        assert outcome.code == 0, outcome.err
        assert on_stand_in[:2] == [(device, 1), (device, 2)]
        (path,) = (path for path in results.rglob("*__*.json") if "questions" not in path.name)
        records.append(json.loads(path.read_text()))
        saved.append(AutoModelForCausalLM.from_pretrained(folder).state_dict())
        waits.append(accelerator.waits)
    cpu, there = records
    for part in ("job_id", "layers", "weights_fingerprint", "achieved_sparsity"):
        assert there[part] == cpu[part], part
    assert there["provenance"]["placement"]["offload"] == "none"
    assert [result["task"] for result in there["results"]] == ["tokens", "piqa", "piqa"]
    assert [result["value"] for result in there["results"]] == pytest.approx(
        [result["value"] for result in cpu["results"]], rel=1e-6
    )
    assert all(torch.equal(saved[0][path], saved[1][path]) for path in saved[0])
    assert not waits[0]
    of_blocks = [path for path in saved[0] if ".layers." in path]
    assert waits[1].count("aten.copy_.default") == len(of_blocks), "pruned weights come back, and no hidden states"
