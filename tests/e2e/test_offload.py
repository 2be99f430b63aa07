"""Where the blocks are decides how much memory a job takes, and nothing else."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.e2e.conftest import Outcome
from tests.families import tiny_model as tiny

pytestmark = pytest.mark.e2e
Cli = Callable[..., Outcome]


def record_of(results: Path) -> dict[str, object]:
    """The one record below a results folder."""
    (path,) = results.rglob("*__*.json")
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", ["llama-gqa", "opt", "gpt2", "gemma-2"])
@pytest.mark.parametrize("propagation", ["pruned", "dense"])
def test_offload_gives_the_same_record_and_the_same_model(
    name: str, propagation: str, cli: Cli, job: tuple[str, ...], tmp_path: Path
) -> None:
    """none, cpu and disk: one job id, equal weights and reports, perplexity to 1e-6, equal tensors when reloaded."""
    model = tmp_path / "model"
    tiny(name).save_pretrained(model, max_shard_size="20KB")
    records, weights = [], []
    for offload in ("none", "cpu", "disk"):
        results, saved = tmp_path / offload / "results", tmp_path / offload / "saved"
        outcome = cli(
            "run", *job, f"model.path={model}", "method=sparsegpt", "pattern=2:4", f"offload={offload}",
            f"calibration.propagation={propagation}", f"results_dir={results}", f"save_model={saved}",
        )  # fmt: skip
        assert outcome.code == 0, outcome.err
        records.append(record_of(results))
        weights.append(AutoModelForCausalLM.from_pretrained(saved).state_dict())
        assert sorted(path.name for path in saved.parent.iterdir()) == ["results", "saved"]
    for record, state in zip(records[1:], weights[1:], strict=True):
        for part in ("job_id", "job", "layers", "weights_fingerprint", "achieved_sparsity"):
            assert record[part] == records[0][part], part
        values = [each["results"][0]["value"] for each in (record, records[0])]
        assert values[0] == pytest.approx(values[1], rel=1e-6)
        assert set(state) == set(weights[0])
        assert all(torch.equal(state[path], weights[0][path]) for path in state)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_offload_gives_the_same_record_on_a_gpu(cli: Cli, job: tuple[str, ...], tmp_path: Path) -> None:
    """Blocks that come from main memory or from disk compute on the device what a model that is there computes."""
    records = []
    for offload in ("none", "cpu", "disk"):
        results = tmp_path / offload
        outcome = cli("run", *job, "pattern=2:4", "device=cuda", f"offload={offload}", f"results_dir={results}")
        assert outcome.code == 0, outcome.err
        records.append(record_of(results))
    for record in records[1:]:
        assert record["weights_fingerprint"] == records[0]["weights_fingerprint"]
        assert record["results"][0]["value"] == pytest.approx(records[0]["results"][0]["value"], rel=1e-5)


def test_without_save_model_nothing_stays(cli: Cli, job: tuple[str, ...], tmp_path: Path) -> None:
    """The pruned shards of a job that keeps no model are gone with it."""
    assert cli("run", *job, "pattern=2:4", "offload=disk").code == 0
    assert not list((tmp_path / "results").rglob("*.safetensors"))
    assert not list((tmp_path / "results").rglob(".blocks-*"))


def test_a_job_measured_from_memory_is_finished_from_disk(cli: Cli, job: tuple[str, ...], tmp_path: Path) -> None:
    """The remade weights are recognised, so that only what is missing is measured."""
    assert cli("run", *job, "pattern=2:4").code == 0
    first = record_of(tmp_path / "results")
    assert cli("run", *job, "pattern=2:4", "evaluation.seq_len=8", "offload=disk").code == 0
    second = record_of(tmp_path / "results")
    assert first["results"][0] in second["results"]
    assert len(second["results"]) == 2
    assert second["notes"] == first["notes"]


@pytest.mark.parametrize("offload", ["cpu", "disk"])
def test_zero_shot_tasks_of_an_offloaded_model_are_refused(offload: str, cli: Cli, job: tuple[str, ...]) -> None:
    """At planning, in one line that says what is allowed."""
    for command in ("plan", "run"):
        outcome = cli(command, *job, f"offload={offload}", "evaluation.tasks=[piqa]", "evaluation.source=embedded")
        assert outcome.code == 2
        (line,) = outcome.err.strip().splitlines()
        assert f"offload={offload}" in line
        assert "allowed: offload=none" in line


def test_an_unknown_offload_is_refused(cli: Cli, job: tuple[str, ...]) -> None:
    """The line names the choices."""
    outcome = cli("run", *job, "offload=tape")
    assert outcome.code == 2
    assert "offload=tape is not allowed; allowed: auto, none, cpu or disk" in outcome.err


def test_a_folder_in_use_is_refused_before_the_work(cli: Cli, job: tuple[str, ...], tmp_path: Path) -> None:
    """A model that cannot be saved where it was asked for is not pruned first."""
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine")
    outcome = cli("run", *job, "pattern=2:4", "offload=disk", f"save_model={tmp_path / 'used'}")
    assert outcome.code == 2
    assert "exists and is not empty" in outcome.err
    assert not list((tmp_path / "results").rglob("*__*.json"))
