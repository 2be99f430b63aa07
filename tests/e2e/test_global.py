"""Methods that prune a whole model, through the command line."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from harness.models.folders import byte_tokenizer
from tests.e2e.conftest import Outcome

pytestmark = pytest.mark.e2e
Cli = Callable[..., Outcome]
SURGEON = ("method=llm_surgeon", "method.shots=2", "method.max_correlate=100")
LOTTERY = ("method=lottery", "method.rounds=2", "method.steps=3", "method.batch=4")


def records(root: Path) -> list[dict[str, Any]]:
    """Done records below a results folder."""
    found = [path for path in root.rglob("*__*.json") if not {"failed", "questions"} & set(path.parts)]
    return [json.loads(path.read_text()) for path in sorted(found)]


@pytest.mark.parametrize("method", [SURGEON, LOTTERY], ids=["llm_surgeon", "lottery"])
@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_a_job_leaves_a_record_and_a_model(
    cli: Cli, job: tuple[str, ...], tmp_path: Path, method: tuple[str, ...], pattern: str
) -> None:
    """Exact zeros, a report of every linear, times and memory; the saved model has the recorded zeros."""
    outcome = cli("run", *job, *method, f"pattern={pattern}", f"save_model={tmp_path / 'model'}")
    assert outcome.code == 0, outcome.err
    (record,) = records(tmp_path / "results")
    total = sum(math.prod(layer["shape"]) for layer in record["layers"])
    assert record["achieved_sparsity"] == pytest.approx(int(total * 0.5) / total, abs=1e-12)
    assert len(record["layers"]) == 14
    assert {layer["error_tokens"] for layer in record["layers"]} == {128}
    assert all(layer["relative_output_error"] > 0 for layer in record["layers"])
    assert record["timings_s"]["prune"] > 0
    assert record["timings_s"]["calibrate"] > 0
    assert record["peak_memory_bytes"]["cpu"] > 0
    assert record["results"][0]["value"] > 1
    assert any("ticket" in note for note in record["notes"]) == (method is LOTTERY)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    state = model.state_dict()
    zeros = sum(int((state[f"{layer['name']}.weight"] == 0).sum()) for layer in record["layers"])
    assert zeros == int(total * 0.5)
    again = cli("run", *job, *method, f"pattern={pattern}")
    assert "skipped" in again.err


def test_half_precision_is_pruned_in_float32(cli: Cli, job: tuple[str, ...], tmp_path: Path) -> None:
    """The record says so, and the job's own type is what is measured and saved."""
    assert cli("run", *job, *SURGEON, "dtype=bfloat16").code == 0
    (record,) = records(tmp_path / "results")
    assert record["provenance"]["dtype"] == "bfloat16"
    assert any("pruned in float32" in note for note in record["notes"])


@pytest.mark.parametrize("method", ["llm_surgeon", "lottery", "llm-pruner"])
@pytest.mark.parametrize("offload", ["cpu", "disk"])
def test_offloading_is_refused_when_planning(
    cli: Cli, job: tuple[str, ...], tmp_path: Path, method: str, offload: str
) -> None:
    """One line with the value and what is allowed; nothing is run."""
    for command in ("plan", "run"):
        pattern = ("pattern=structured",) if method == "llm-pruner" else ()
        outcome = cli(command, *job, f"method={method}", *pattern, f"offload={offload}")
        assert outcome.code == 2
        (line,) = outcome.err.strip().splitlines()
        assert f"offload={offload} cannot run method={method}; allowed: offload=none" in line
    assert not (tmp_path / "results").exists() or not records(tmp_path / "results")


@pytest.mark.parametrize("method", ["llm_surgeon", "lottery"])
def test_an_allocation_is_refused_with_the_reason(cli: Cli, job: tuple[str, ...], method: str) -> None:
    """The method decides every layer's sparsity by itself."""
    (row,) = json.loads(cli("plan", *job, f"method={method}", "allocation=owl", "--json").out)
    assert row["state"] == "refused"
    assert "decides the sparsity of every layer itself" in json.dumps(row)


def test_propagation_makes_no_other_job(cli: Cli, job: tuple[str, ...]) -> None:
    """A method that sees the whole model is one job, whatever the walk of other methods is told."""
    rows = json.loads(
        cli("plan", "-m", *job, "method=lottery", "calibration.propagation=auto,pruned,dense", "--json").out
    )
    assert len(rows) == 1


def test_the_next_job_of_a_sweep_gets_the_model_as_it_was(cli: Cli, job: tuple[str, ...], tmp_path: Path) -> None:
    """Training changes embeddings and norms, too: the dense job after it measures what it measures alone."""
    assert cli("run", *job, "method=dense").code == 0
    (alone,) = records(tmp_path / "results")
    assert cli("run", *job, *LOTTERY).code == 0
    assert cli("run", *job, "method=dense", "force=true").code == 0
    dense = next(record for record in records(tmp_path / "results") if record["job"]["method"]["name"] == "dense")
    assert dense["results"][0]["value"] == alone["results"][0]["value"]
    assert dense["weights_fingerprint"] == alone["weights_fingerprint"]


@pytest.mark.slow
def test_a_ticket_of_images_beats_a_random_mask(cli: Cli, tmp_path: Path) -> None:
    """The lottery ticket's claim on the network of digits: from the same random weights, trained as long, at 90 %."""
    job = ("model=digits-cnn", "calibration=digits", "evaluation=digits", "dtype=float32", "sparsity=0.9")
    method = ("method=lottery", "method.start=random", "method.rounds=3", "method.steps=88", "method.batch=64")
    results = f"results_dir={tmp_path}"
    assert cli("run", "-m", *job, *method, "method.control=none,random_mask", results).code == 0
    accuracy = {
        record["job"]["method"]["params"]["control"]: record["results"][0]["value"] for record in records(tmp_path)
    }
    assert accuracy["none"] > accuracy["random_mask"] + 0.1


@pytest.mark.slow
def test_a_ticket_of_a_language_model_beats_a_random_mask(cli: Cli, tmp_path: Path) -> None:
    """The same on real text: a tiny LLaMA of random weights that reads bytes, at 90 %."""
    text = (Path(__file__).parents[2] / "LICENSE").read_text()
    tokens = tmp_path / "bytes.npy"
    ids = np.array(byte_tokenizer()(text)["input_ids"])
    np.save(tokens, ids[: len(ids) // 64 * 64].reshape(-1, 64))
    job = (
        "model=tiny-llama",
        "calibration=tokens",
        f"calibration.path={tokens}",
        "evaluation.corpora=[tokens]",
        f"data.tokens={tokens}",
        "evaluation.seq_len=64",
        "dtype=float32",
        "sparsity=0.9",
        f"results_dir={tmp_path / 'results'}",
    )
    method = ("method=lottery", "method.rounds=2", "method.steps=60", "method.batch=16", "method.learning_rate=0.003")
    assert cli("run", "-m", *job, *method, "method.control=none,random_mask").code == 0
    perplexity = {
        record["job"]["method"]["params"]["control"]: record["results"][0]["value"]
        for record in records(tmp_path / "results")
    }
    assert perplexity["none"] < perplexity["random_mask"]
    assert perplexity["none"] < 100
