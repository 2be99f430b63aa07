"""Models of the hub through the command line: what a job is, and what it loads, is a commit."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from harness.models.folders import byte_tokenizer, random_model
from harness.models.loading import LoadedModel
from harness.models.saving import save_model
from tests.e2e.conftest import Outcome
from tests.hub import StandInHub, ask_anew

pytestmark = pytest.mark.e2e
Cli = Callable[..., Outcome]
MODEL = ("model=hub", "model.name=org/tiny")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of two models that differ in every weight."""
    root = tmp_path_factory.mktemp("checkpoints")
    for name, scale in (("old", 1.0), ("new", -2.0)):
        model = random_model("tiny-llama")
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(scale)
        save_model(LoadedModel(model, byte_tokenizer()), root / name)
    return root / "old", root / "new"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    """A hub that this process asks; what is made of its files lies in a cache of the test's own."""
    monkeypatch.setenv("PRUNEBENCH_CACHE", str(tmp_path / "made"))
    with StandInHub().serving() as hub, hub.within(tmp_path / "cache"):
        yield hub


@pytest.fixture
def job(tokens: Path, tmp_path: Path) -> tuple[str, ...]:
    """Overrides of a job on a model of the hub."""
    calibration = ("calibration=tokens", f"calibration.path={tokens}")
    evaluation = ("evaluation.corpora=[tokens]", f"data.tokens={tokens}", "evaluation.seq_len=16")
    return (*MODEL, *calibration, *evaluation, "sparsity=0.5", "dtype=float32", f"results_dir={tmp_path / 'results'}")


def planned(cli: Cli, *job: str) -> dict[str, Any]:
    """What `plan` says of one job."""
    outcome = cli("plan", *job, "--json")
    assert outcome.code == 0, outcome.err
    row: dict[str, Any] = json.loads(outcome.out)[0]
    return row


def record_of(folder: Path, job_id: str = "*__*") -> dict[str, Any]:
    """The record of a job, the only one where none is named."""
    (file,) = folder.rglob(f"{job_id}.json")
    record: dict[str, Any] = json.loads(file.read_text())
    return record


def test_a_branch_that_moved_is_another_job(
    cli: Cli, hub: StandInHub, checkpoints: tuple[Path, Path], job: tuple[str, ...], tmp_path: Path
) -> None:
    """The record names the commit; once the branch is elsewhere the job is new, and by the commit it is still done."""
    old = hub.commit("org/tiny", checkpoints[0])
    first = planned(cli, *job)
    assert cli("run", *job).code == 0
    assert planned(cli, *job)["state"] == "done"
    new = hub.commit("org/tiny", checkpoints[1])
    ask_anew()
    second = planned(cli, *job)
    assert (second["state"], second["job_id"] != first["job_id"]) == ("new", True)
    assert cli("run", *job).code == 0
    records = [record_of(tmp_path / "results", row["job_id"]) for row in (first, second)]
    assert [record["job"]["model"]["checkpoint"] for record in records] == [
        f"hub:org/tiny@{commit}" for commit in (old, new)
    ]
    assert len({record["weights_fingerprint"] for record in records}) == 2
    by_commit = planned(cli, *job, f"model.revision={old}")
    assert (by_commit["job_id"], by_commit["state"]) == (first["job_id"], "done")


def test_a_plan_reads_the_configuration_and_no_weight(
    cli: Cli, hub: StandInHub, checkpoints: tuple[Path, Path], job: tuple[str, ...]
) -> None:
    """Memory and time of a model that was never fetched are near those of the same with its files here."""
    hub.commit("org/tiny", checkpoints[0])
    told = planned(cli, *job, "method=wanda")
    assert {request.rpartition("/")[2] for request in hub.requests if "/resolve/" in request} == {"config.json"}
    assert told["estimated_peak_bytes"]["from_size"] is False
    assert told["estimated_seconds_from"].endswith("in a short trial")
    assert cli("run", *job, "method=magnitude").code == 0
    here = planned(cli, *job, "method=wanda")
    assert told["estimated_peak_bytes"] == pytest.approx(here["estimated_peak_bytes"], rel=0.01)
    assert here["estimated_seconds"] > 0
    assert here["estimated_seconds_from"].endswith("finished jobs here")


def test_a_sweep_asks_once_for_what_the_hub_has_not(cli: Cli, hub: StandInHub, job: tuple[str, ...]) -> None:
    """Its answer holds for all jobs of a process, also where it is that there is no such repository."""
    assert cli("plan", "-m", *job, "seed=0,1,2").code == 0
    assert len([request for request in hub.requests if "org/tiny" in request]) == 1


def test_what_a_hub_model_is_comes_from_its_configuration(cli: Cli, hub: StandInHub, job: tuple[str, ...]) -> None:
    """One that classifies images takes no text: said before anything is fetched."""
    hub.commit("org/tiny", {"config.json": b'{"model_type": "digits_cnn"}'})
    outcome = cli("plan", *job)
    assert outcome.code == 2
    assert "model tiny is an image classifier" in outcome.err


def test_a_configuration_that_cannot_be_had_is_said(cli: Cli, hub: StandInHub, job: tuple[str, ...]) -> None:
    """By the plan, with the reason; sizes are then those that the user gives."""
    hub.commit("org/tiny", {"README.md": b"no model"})
    row = planned(cli, *job, "model.size_b=0.001")
    assert "org/tiny cannot run yet: its config.json cannot be had" in row["warnings"][0]
    assert row["estimated_peak_bytes"]["from_size"] is True


@pytest.mark.parametrize("offload", ["none", "disk"])
def test_a_branch_that_moves_between_jobs_of_a_process_is_not_followed(
    cli: Cli, hub: StandInHub, checkpoints: tuple[Path, Path], job: tuple[str, ...], tmp_path: Path, offload: str
) -> None:
    """Every job of a process has the weights of one commit: those that planning found, all of them."""
    job = (*job, f"offload={offload}")
    old = hub.commit("org/tiny", checkpoints[0])
    assert cli("run", *job, "method=magnitude").code == 0
    hub.commit("org/tiny", checkpoints[1])
    assert cli("run", *job, "method=wanda").code == 0
    moved = record_of(tmp_path / "results", planned(cli, *job, "method=wanda")["job_id"])
    assert moved["job"]["model"]["checkpoint"] == f"hub:org/tiny@{old}"
    ask_anew()
    alone = cli("run", *job, "method=wanda", f"model.revision={old}", f"results_dir={tmp_path / 'alone'}")
    assert alone.code == 0
    expected = record_of(tmp_path / "alone")
    assert moved["weights_fingerprint"] == expected["weights_fingerprint"]
    assert [result["value"] for result in moved["results"]] == [result["value"] for result in expected["results"]]


def test_without_a_network_a_warm_cache_will_do(
    cli: Cli,
    hub: StandInHub,
    checkpoints: tuple[Path, Path],
    job: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A branch stays what it was when the hub was asked last, and its files are read from the cache."""
    hub.commit("org/tiny", checkpoints[0])
    assert cli("run", *job).code == 0
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    ask_anew()
    assert planned(cli, *job)["state"] == "done"
    assert cli("run", *job, "force=true").code == 0


def test_an_unknown_commit_is_planned_and_not_run(
    cli: Cli, hub: StandInHub, job: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without network and cache `plan` lists the job and says what it does not know; `run` refuses with one line."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    row = planned(cli, *job)
    assert row["state"] == "new"
    assert "the commit of org/tiny at its default branch cannot be resolved" in str(row["warnings"])
    outcome = cli("run", *job)
    assert outcome.code == 2
    assert outcome.err.count("the commit of org/tiny at its default branch cannot be resolved") == 1
    assert not list((tmp_path / "results").rglob("*.json"))


FAULTS = {
    "gated, not logged in": "accept its licence at https://huggingface.co/org/tiny and log in there (`hf auth login`",
    "gated, not accepted": "accept its licence at https://huggingface.co/org/tiny and log in there (`hf auth login`",
    "no such revision": "org/tiny at nope cannot be resolved: the hub has no such revision; look at its branches",
    "no such repository": "org/none at its default branch cannot be resolved: the hub has no such repository",
    "offline and cold": "HF_HUB_OFFLINE is set, and the cache lacks it; unset it, or download it first",
    "offline after planning": "HF_HUB_OFFLINE is set, and the cache lacks it; unset it, or download it first",
    "no network": "the hub cannot be reached, and the cache lacks it; check the network and run the same command again",
    "cut": "the download broke off; run the same command again",
}
"""What goes wrong, and what the one line about it says."""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_hub_is_one_line_with_what_to_do(
    fault: str,
    cli: Cli,
    hub: StandInHub,
    checkpoints: tuple[Path, Path],
    job: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is pruned; once the fault is gone the same command does the job."""
    hub.commit("org/tiny", checkpoints[0])
    command, weights = job, "model.safetensors"
    with pytest.MonkeyPatch.context() as wrong:
        wrong.setattr("time.sleep", lambda seconds: None)  # the client waits before it tries again
        match fault:
            case "gated, not logged in" | "gated, not accepted":
                hub.gate("org/tiny", 401 if fault.endswith("in") else 403)
            case "no such revision":
                command = (*job, "model.revision=nope")
            case "no such repository":
                command = (*job, "model.name=org/none")
            case "offline and cold":
                wrong.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
            case "offline after planning":
                assert planned(cli, *job)["state"] == "new"
                wrong.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
            case "no network":
                wrong.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
            case "cut":
                hub.cut = weights
        outcome = cli("run", *command)
    assert outcome.code == 2
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("prunebench: ")]  # beside the client's own
    assert "Traceback" not in outcome.err
    assert FAULTS[fault] in line
    assert not list((tmp_path / "results").rglob("*__*.json"))
    hub.cut = None
    monkeypatch.setenv("HF_TOKEN", hub.token)
    ask_anew()
    asked = len(hub.requests)
    again = cli("run", *job)
    assert again.code == 0, again.err
    if fault == "cut":
        assert {request.rpartition("/")[2] for request in hub.requests[asked:] if "/resolve/" in request} == {weights}


@pytest.mark.slow
def test_a_sweep_asks_the_hub_once_for_a_model(
    checkpoints: tuple[Path, Path], job: tuple[str, ...], tmp_path: Path
) -> None:
    """In a process of its own, told of the hub by its environment: one question for the commit, whatever runs."""
    with StandInHub().serving() as hub:
        hub.commit("org/tiny", checkpoints[0])
        environment = os.environ | hub.environment(tmp_path / "cache")
        sweep = ("-m", *job, "model.revision=main", "method=dense,magnitude", "sparsity=0.5,0.6")
        command = [sys.executable, "-m", "harness", "run", *sweep]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        assert hub.requests.count("GET /api/models/org/tiny/revision/main") == 1
        assert not [request for request in hub.requests if "/resolve/main/" in request]
    assert len(list((tmp_path / "results").rglob("*__*.json"))) == 3


def test_pickles_are_converted_only_when_asked_for(
    cli: Cli, hub: StandInHub, checkpoints: tuple[Path, Path], job: tuple[str, ...], tmp_path: Path
) -> None:
    """Without `model.convert=true` one line names the file and the option; with it the numbers are the safetensors'."""
    pickled = tmp_path / "pickled"
    shutil.copytree(checkpoints[0], pickled)
    (weights,) = pickled.glob("*.safetensors")
    torch.save(load_file(weights), pickled / "pytorch_model.bin")
    weights.unlink()
    hub.commit("org/tiny", pickled)
    refused = cli("run", *job)
    assert refused.code == 2
    (line,) = [line for line in refused.err.splitlines() if "model.convert=true" in line]
    assert "pytorch_model.bin" in line
    assert not list((tmp_path / "results").rglob("*__*.json"))
    assert cli("run", *job, "model.convert=true").code == 0
    record = record_of(tmp_path / "results")
    assert hashlib.sha256((pickled / "pytorch_model.bin").read_bytes()).hexdigest() in str(record["notes"])
    again = cli("run", *job, "force=true")
    assert again.code == 2, "that it was converted before is no permission"
    hub.commit("org/tiny", checkpoints[0])
    ask_anew()
    assert cli("run", *job, f"results_dir={tmp_path / 'twin'}").code == 0
    twin = record_of(tmp_path / "twin")
    assert [each["value"] for each in record["results"]] == [each["value"] for each in twin["results"]]


def test_a_pickle_that_holds_more_than_tensors_is_not_run(
    cli: Cli, hub: StandInHub, checkpoints: tuple[Path, Path], job: tuple[str, ...], tmp_path: Path
) -> None:
    """What a pickle would call when it is read is never called."""
    pickled, touched = tmp_path / "pickled", tmp_path / "touched"
    shutil.copytree(checkpoints[0], pickled)
    for weights in pickled.glob("*.safetensors"):
        weights.unlink()

    class Calls:
        def __reduce__(self) -> tuple[object, tuple[str, ...]]:
            return os.mkdir, (str(touched),)

    torch.save({"model.embed_tokens.weight": Calls()}, pickled / "pytorch_model.bin")
    hub.commit("org/tiny", pickled)
    outcome = cli("run", *job, "model.convert=true")
    assert outcome.code == 2
    assert "pytorch_model.bin holds more than tensors" in outcome.err
    assert not touched.exists()
