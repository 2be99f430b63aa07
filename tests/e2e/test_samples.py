"""Calibration on a sample of a corpus is said by the plan and in the record; papers' experiments ask for the whole."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.config.choices import experiments
from harness.config.hydra import compose
from harness.config.request import JobRequest
from harness.record import from_json
from tests.e2e.conftest import Outcome

pytestmark = pytest.mark.e2e
SAID = "calibration on c4 is on a sample of it (exllamav2=="


def test_the_embedded_sample_is_said(cli: Callable[..., Outcome], speaking_model: Path, tmp_path: Path) -> None:
    """It names the sample, what papers have, and the field that takes that; a text that is whole is not spoken of."""
    job = (
        *("model=local", f"model.path={speaking_model}", "dtype=float32", f"results_dir={tmp_path / 'results'}"),
        *("calibration.source=embedded", "calibration.num_sequences=2", "calibration.seq_len=16"),
        *("method=magnitude", "evaluation=none"),
    )
    planned = cli("plan", *job)
    assert planned.out.count(SAID) == 1
    assert "calibration.source=hub" in planned.out
    ran = cli("run", *job)
    assert ran.code == 0, ran.err
    assert SAID in ran.err
    (path,) = (tmp_path / "results").rglob("*__*.json")
    assert [note for note in from_json(path.read_bytes(), str(path)).notes if note.startswith(SAID)]
    (row,) = json.loads(cli("plan", *job, "calibration.source=hub", "--json").out)
    assert row["warnings"] == []


@pytest.mark.parametrize("name", ["sparsegpt_table1", "wanda_llama"])
def test_the_papers_experiments_ask_for_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No job of theirs is on a sample, whatever this machine has."""
    assert name in experiments()
    model = ("model=tiny-llama", "evaluation=none")
    jobs = compose([f"+experiment={name}", *model, "method=wanda"], multirun=True).jobs
    assert jobs
    for job in jobs:
        assert isinstance(job, JobRequest)
        assert job.calibration is not None
        assert job.calibration.source == "hub"
