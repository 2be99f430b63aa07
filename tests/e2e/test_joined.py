"""Compositions of a sweep that are one job: all that any of them asks for is measured, and nothing is dropped."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.record import from_json
from tests.e2e.conftest import Outcome

pytestmark = pytest.mark.e2e
Cli = Callable[..., Outcome]

ROWS: dict[str, list[dict[str, Any]]] = {
    "piqa": [{"goal": f"goal {n}", "sol1": "yes", "sol2": f"no {n}", "label": n % 2} for n in range(12)],
    "boolq": [{"question": f"is it {n}", "passage": f"it is {n}", "label": n % 2} for n in range(12)],
}


@pytest.fixture
def text_job(tmp_path: Path) -> tuple[str, ...]:
    """A dense job on a model of random weights that reads bytes, with few questions of two tasks and a short text."""
    for task, rows in ROWS.items():
        (tmp_path / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for corpus in ("wikitext2", "ptb"):
        (tmp_path / f"{corpus}.txt").write_text(f"A text of {corpus}. " * 40)
    files = {**dict.fromkeys(ROWS, "jsonl"), "wikitext2": "txt", "ptb": "txt"}
    data = (f"data.{name}={tmp_path / f'{name}.{ending}'}" for name, ending in files.items())
    return ("model=tiny-llama", "method=dense", "evaluation=none", f"results_dir={tmp_path / 'results'}", *data)


SWEEPS = {
    "seq_len": ("evaluation.corpora=[wikitext2]", "evaluation.seq_len=16,32"),
    "max_windows": ("evaluation.corpora=[wikitext2]", "evaluation.seq_len=16", "evaluation.max_windows=1,2"),
    "corpora": ("evaluation.corpora=[wikitext2],[ptb]", "evaluation.seq_len=16"),
    "tasks": ("evaluation.tasks=[piqa],[boolq]",),
    "limit": ("evaluation.tasks=[piqa]", "evaluation.limit=5,10"),
}


@pytest.mark.parametrize("field", SWEEPS)
def test_a_sweep_over_an_evaluation_field_is_one_job_that_measures_all(
    cli: Cli, text_job: tuple[str, ...], tmp_path: Path, field: str
) -> None:
    """Plan and run agree on the protocols, each is in the record with what it gives alone, and a rerun is done."""
    sweep = ("-m", *text_job, *SWEEPS[field])
    (planned,) = json.loads(cli("plan", *sweep, "--json").out)
    assert (planned["named"], len(planned["missing"])) == (2, 2)
    outcome = cli("run", *sweep)
    assert outcome.code == 0, outcome.err
    (path,) = (tmp_path / "results").rglob("*__*.json")
    record = from_json(path.read_bytes(), str(path))
    assert list(dict.fromkeys(result.protocol for result in record.results)) == planned["missing"]
    assert set(SWEEPS[field]) <= set(record.provenance.command)
    (again,) = json.loads(cli("plan", *sweep, "--json").out)
    assert again["state"] == "done"
    assert "skipped" in cli("run", *sweep).err
    second = [text.partition("=")[0] + "=" + re.split("[,=]", text)[-1] for text in SWEEPS[field]]
    elsewhere = [text for text in text_job if not text.startswith("results_dir")]
    assert cli("run", *elsewhere, *second, f"results_dir={tmp_path / 'alone'}").code == 0
    (path,) = (tmp_path / "alone").rglob("*__*.json")
    values = {(result.protocol, result.metric): result.value for result in record.results}
    for result in from_json(path.read_bytes(), str(path)).results:
        assert values[result.protocol, result.metric] == pytest.approx(result.value, rel=1e-6)


def test_what_a_record_has_is_not_measured_again_by_a_sweep(cli: Cli, text_job: tuple[str, ...]) -> None:
    """A record with the first value of a sweep lacks the others."""
    field = ("evaluation.corpora=[wikitext2]", "evaluation.seq_len={}")
    assert cli("run", *text_job, field[0], field[1].format(16)).code == 0
    (planned,) = json.loads(cli("plan", "-m", *text_job, field[0], field[1].format("16,32"), "--json").out)
    assert planned["state"] == "missing evaluations"
    assert [":seq32:" in key for key in planned["missing"]] == [True]


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ("device=cpu,auto", "device=cpu and device=auto"),
        ("batch_tokens=64,128", "batch_tokens=64 and batch_tokens=128"),
        ("evaluation.token_budget=64,128", "evaluation.token_budget=64 and evaluation.token_budget=128"),
        ("offload=none,cpu", "offload=none and offload=cpu"),
        ("compile=false,true", "compile=False and compile=True"),
        ("force=false,true", "force=False and force=True"),
        ("save_model=null,there", "save_model=None and save_model=there"),
        ("results_dir=here,there", "results_dir=here and results_dir=there"),
        ("tracking=none,wandb", "tracking.name=none and tracking.name=wandb"),
        ("tracking.mode=offline,online", "tracking.mode=offline and tracking.mode=online"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "run"])
def test_runtime_fields_that_contradict_are_refused(
    cli: Cli, job: tuple[str, ...], command: str, sweep: str, said: str, tmp_path: Path
) -> None:
    """A job runs in one way: one line before anything runs, with both values."""
    given = [text for text in job if text.partition("=")[0] != sweep.partition("=")[0]]
    outcome = cli(command, "-m", *given, "method=magnitude", "sparsity=0.5", sweep)
    assert outcome.code == 2
    assert said in outcome.err
    assert "allowed: one value of" in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert not (tmp_path / "results").exists()


def test_two_copies_of_one_data_set_contradict(cli: Cli, job: tuple[str, ...], tokens: Path, tmp_path: Path) -> None:
    """The content decides the job; which of two files it is read from must be said."""
    copy = tmp_path / "copy.npy"
    np.save(copy, np.load(tokens))
    given = [text for text in job if not text.startswith("calibration.path")]
    outcome = cli("plan", "-m", *given, f"calibration.path={tokens},{copy}", "method=wanda")
    assert outcome.code == 2
    assert f"calibration.location={tokens} and calibration.location={copy}" in outcome.err
    assert json.loads(cli("plan", "-m", *given, f"calibration.path={tokens},{copy}", "method=dense", "--json").out)
