"""Allocations on the command line: chosen like methods, recorded, and refused before anything runs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Outcome
from tests.families import tiny_model

pytestmark = pytest.mark.e2e
Cli = Callable[..., Outcome]

WIDE = {"hidden_size": 96, "intermediate_size": 160, "head_dim": 24}


@pytest.fixture
def wide_job(job: tuple[str, ...], tmp_path: Path) -> tuple[str, ...]:
    """A job on a model that is wide enough for any total."""
    model = tmp_path / "wide"
    tiny_model("llama", **WIDE).save_pretrained(model)
    return (*job, f"model.path={model}")


def record_of(results: Path) -> dict[str, Any]:
    """The one record below a results folder."""
    (path,) = results.rglob("*__*.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_owl_runs_and_is_recorded(cli: Cli, wide_job: tuple[str, ...], tmp_path: Path) -> None:
    """The job's identity names it with its parameters, layers differ, the total is met, and its time is a phase."""
    out = tmp_path / "results"
    outcome = cli("run", *wide_job, "allocation=owl", "allocation.outlier_threshold=3", "sparsity=0.6")
    assert outcome.code == 0, outcome.err
    record = record_of(out)
    assert record["job"]["allocation"] == {"name": "owl", "params": {"outlier_threshold": 3, "width": 0.08}}
    assert record["achieved_sparsity"] == pytest.approx(0.6, abs=1e-3)
    asked = [layer["requested_sparsity"] for layer in record["layers"]]
    assert max(asked) - min(asked) == pytest.approx(0.16, abs=0.03)
    assert record["timings_s"]["allocate"] > 0
    assert cli("run", *wide_job, "sparsity=0.6").code == 0
    report = cli("report", "--rows", f"--results-dir={out}").out
    assert "owl (outlier_threshold=3.0, width=0.08)" in " ".join(report.split())


@pytest.mark.parametrize("allocation", ["owl", "besa", "alphapruning", "sensitivity"])
@pytest.mark.parametrize("propagation", ["pruned", "dense"])
def test_offload_gives_the_same_weights(
    allocation: str, propagation: str, cli: Cli, wide_job: tuple[str, ...], tmp_path: Path
) -> None:
    """Blocks on disk are surveyed, tried and learned as blocks in memory are; layers differ, so that it is seen."""
    search = ("allocation.search=bisect", "calibration.num_sequences=6") if allocation == "sensitivity" else ()
    prints = []
    for offload in ("none", "disk"):
        results = tmp_path / offload
        outcome = cli(
            "run", *wide_job, f"allocation={allocation}", *search, f"calibration.propagation={propagation}",
            f"offload={offload}", f"results_dir={results}",
        )  # fmt: skip
        assert outcome.code == 0, outcome.err
        record = record_of(results)
        prints.append((record["job_id"], record["weights_fingerprint"], record["layers"]))
    assert prints[0] == prints[1]
    assert len({layer["requested_sparsity"] for layer in prints[0][2]}) > 1


def planned(cli: Cli, *arguments: str) -> list[dict[str, Any]]:
    """What `plan` says."""
    outcome = cli("plan", "--json", *arguments)
    assert outcome.code == 0, outcome.err
    rows: list[dict[str, Any]] = json.loads(outcome.out)
    return rows


def test_what_does_not_go_together_is_refused_when_planned(cli: Cli, job: tuple[str, ...]) -> None:
    """N:M has no rates to learn, and a method that ranks the whole model takes no allocation."""
    (row,) = planned(cli, *job, "allocation=besa", "pattern=2:4")
    assert (row["state"], "allocation besa with pattern 2:4: it spreads unstructured" in row["reason"]) == (
        "refused",
        True,
    )
    (row,) = planned(cli, *job, "allocation=owl", "method=magnitude", "method.granularity=global")
    assert row["state"] == "refused"
    assert "method magnitude with allocation owl: it decides the sparsity of every layer itself" in row["reason"]
    (row,) = planned(cli, *job, "allocation=owl", "pattern=4:8")
    assert row["state"] == "new"


def test_a_sweep_has_one_dense_job(cli: Cli, job: tuple[str, ...]) -> None:
    """Nothing is spread over a model that nothing prunes; a uniform job is the one that it always was."""
    rows = planned(cli, "-m", *job, "method=dense,wanda", "allocation=uniform,owl")
    assert len({row["job_id"] for row in rows}) == 3
    (alone,) = planned(cli, *job, "method=wanda")
    assert alone["job_id"] in {row["job_id"] for row in rows}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("allocation=owll", "unknown allocation 'owll'"),
        ("allocation.width=0.1", "width"),
        ("allocation=owl allocation.width=9", "allocation.width=9 is not allowed"),
        (
            "allocation=besa allocation.smoothing=tanh",
            "allocation.smoothing=tanh is not allowed; allowed: none or sigmoid",
        ),
    ],
)
def test_mistakes_are_one_line(override: str, message: str, cli: Cli, job: tuple[str, ...]) -> None:
    """The line names the value and what is allowed; nothing was run."""
    outcome = cli("plan", *job, *override.split())
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
