"""The KL divergence from the dense model as a job measures it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Outcome

pytestmark = pytest.mark.e2e
Cli = Callable[..., Outcome]


def results_of(folder: Path) -> dict[str, dict[str, Any]]:
    """The results of the one record below a folder, by metric."""
    (path,) = folder.rglob("*__*.json")
    return {result["metric"]: result for result in json.loads(path.read_text())["results"]}


def test_a_finished_job_is_told_its_divergence(cli: Cli, job: tuple[str, ...], tmp_path: Path) -> None:
    """The pruning is done again, the divergence alone is measured; offloaded blocks have the same one."""
    pruned = (*job, "method=magnitude", "pattern=2:4", "evaluation.max_windows=3")
    asked = ("evaluation.kl=[tokens]",)
    assert cli("run", *pruned).code == 0
    first = results_of(tmp_path / "results")
    assert set(first) == {"perplexity"}
    completed = cli("run", *pruned, *asked)
    assert completed.code == 0, completed.err
    found = results_of(tmp_path / "results")
    assert found["perplexity"] == first["perplexity"]
    assert found["kl"]["protocol"].startswith("kl:tokens:seq16:first3:v1:data-")
    assert found["kl"]["value"] > 0
    assert found["kl"]["higher_is_better"] is False
    assert 0 <= found["agreement"]["value"] < 1
    changed = 1 - found["agreement"]["value"]
    assert found["kl"]["details"]["right_to_wrong"] + found["kl"]["details"]["wrong_to_right"] <= changed
    for offload in ("cpu", "disk"):
        elsewhere = tmp_path / offload
        assert cli("run", *pruned, *asked, f"offload={offload}", f"results_dir={elsewhere}").code == 0
        assert results_of(elsewhere)["kl"]["value"] == pytest.approx(found["kl"]["value"], abs=1e-9)
    dense = tmp_path / "dense"
    assert cli("run", *job, *asked, "method=dense", f"results_dir={dense}").code == 0
    assert [results_of(dense)[metric]["value"] for metric in ("kl", "agreement")] == [0.0, 1.0]
