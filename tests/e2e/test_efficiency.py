"""Size and speed from the command line to the record, its tables and its figure."""

import json
from pathlib import Path

import pytest

from harness.reporting.figures.base import draw_all
from harness.reporting.published import Published
from harness.tracking.store import RecordStore
from tests.e2e.conftest import Outcome
from tests.e2e.test_shapes import Cli, tiny

pytestmark = pytest.mark.e2e
ASKED = (
    "evaluation.efficiency=[size,speed]", "evaluation.prompt_tokens=16", "evaluation.new_tokens=2",
    "evaluation.speed_rounds=3", "pattern=structured,unstructured", "sparsity=0.3",
)  # fmt: skip


def test_size_and_speed_are_measured_once_beside_the_dense_model(
    cli: Cli, job: tuple[str, ...], tmp_path: Path
) -> None:
    """Of a model without a block, of one with zeros, which says that it is no faster, and of the dense one, which a
    sweep names twice; a rerun measures nothing, tables say x dense, and a figure has it as an axis.
    """
    model, results = tmp_path / "model", tmp_path / "results"
    tiny("llama-gqa", num_hidden_layers=4).save_pretrained(model)

    def sweep(command: str, *more: str) -> Outcome:
        return cli(command, "-m", *job, f"model.path={model}", "method=dense,magnitude,shortgpt", *ASKED, *more)

    outcome = sweep("run")
    assert outcome.code == 0, outcome.err
    assert "no faster: zeros are computed" in outcome.err
    records = {record.job["method"]["name"]: record for record in RecordStore(results).all()}
    assert records.keys() == {"dense", "magnitude", "shortgpt"}
    values = {
        method: {result.metric: result.value for result in record.results if result.kind == "efficiency"}
        for method, record in records.items()
    }
    dense, zeros, shorter = (values[method] for method in ("dense", "magnitude", "shortgpt"))
    assert zeros["parameters"] == dense["parameters"]
    assert zeros["nonzeros"] < dense["nonzeros"]
    assert shorter["parameters"] == pytest.approx(
        dense["parameters"] * (1 - (records["shortgpt"].achieved_sparsity or 0))
    )
    for metric in ("bytes_on_disk", "macs_per_token", "peak_memory_bytes"):
        assert shorter[metric] < dense[metric] == pytest.approx(zeros[metric])
    assert all(value > 0 for found in values.values() for value in found.values())
    said = {method: {each.details.get("said") for each in record.results} for method, record in records.items()}
    assert "no faster: zeros are computed" in said["magnitude"]
    assert said["shortgpt"] == said["dense"] == {None}
    planned = json.loads(sweep("plan", "--json").out)
    assert {one["state"] for one in planned} - {"refused"} == {"done"}
    shown = cli("report", "--results-dir", str(results), "--rows", "--format", "md")
    assert "speed prefill × dense" in shown.out
    assert "no faster: zeros are computed" in shown.out
    assert "bytes_csr" not in shown.out
    matrix = cli("report", "--results-dir", str(results), "--matrix", "macs_per_token")
    assert matrix.code == 0, matrix.err
    names = [each.name for each in draw_all(list(records.values()), Published(()), tmp_path / "figures")]
    assert any(name.startswith("pareto-speed-tokens") for name in names)
    assert not any("speed:" in name or "efficiency" in name for name in names)


def test_a_prompt_beyond_the_model_is_said_before_the_work(cli: Cli, job: tuple[str, ...]) -> None:
    """In one line; and where blocks are elsewhere, too."""
    long = cli("run", *job, "method=magnitude", "evaluation.efficiency=[speed]", "evaluation.prompt_tokens=31")
    assert long.code == 2 or "failed" in long.err
    assert "evaluation.prompt_tokens + evaluation.new_tokens=63 is more than the model's 32 positions" in long.err
    away = cli("plan", *job, "method=magnitude", "evaluation.efficiency=[speed]", "offload=disk")
    assert "offload=disk cannot run measures of efficiency (speed); allowed: offload=none" in away.out + away.err
