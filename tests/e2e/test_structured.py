"""Jobs that cut a share of all parameters, from the command line to the record and the saved model."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from harness.record import RunRecord
from tests.e2e.test_shapes import Cli, perplexity_of, record_of, tiny

WIDER = {"intermediate_size": 512}
HEADS_AND_CHANNELS = ("method=wanda-sp", "pattern=structured", "sparsity=0.3")
BLOCK = ("method=shortgpt", "pattern=structured", "sparsity=0.3")


def share_left(record: RunRecord) -> float:
    """What the record's note on parameters says is left."""
    (note,) = [note for note in record.notes if note.endswith("are left")]
    before, after = (int(word.replace(",", "")) for word in note.split() if word[0].isdigit())
    return after / before


@pytest.mark.parametrize("offload", ["none", "disk"])
def test_a_share_of_all_parameters_is_gone_and_the_folder_is_what_was_measured(
    offload: str, cli: Cli, job: tuple[str, ...], tokens: Path, tmp_path: Path
) -> None:
    """Heads and channels; with blocks in memory and on disk."""
    model, saved = tmp_path / "model", tmp_path / "saved"
    tiny("llama-gqa", **WIDER).save_pretrained(model, max_shard_size="50KB")
    outcome = cli(
        "run", *job, f"model.path={model}", *HEADS_AND_CHANNELS, f"offload={offload}", f"save_model={saved}",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    record = record_of(tmp_path / "results")
    loaded, dense = (AutoModelForCausalLM.from_pretrained(each) for each in (saved, model))
    sizes = [sum(each.numel() for each in which.parameters()) for which in (loaded, dense)]
    assert record.achieved_sparsity == pytest.approx(1 - sizes[0] / sizes[1], abs=1e-12)
    assert record.achieved_sparsity == pytest.approx(0.3, abs=0.01)
    assert share_left(record) == pytest.approx(sizes[0] / sizes[1], abs=1e-12)
    assert record.job["pattern"] == "structured"
    assert record.job_id.split("__")[2] == "structured-0.3"
    (result,) = record.results
    assert result.value == pytest.approx(perplexity_of(loaded, tokens), rel=1e-6)


def test_without_a_block_the_model_is_distilled_saved_and_the_next_job_has_all(
    cli: Cli, job: tuple[str, ...], tokens: Path, tmp_path: Path
) -> None:
    """The dense model teaches it; reports count by the dense model's layers; what follows starts from all blocks."""
    model, saved = tmp_path / "model", tmp_path / "saved"
    tiny("llama-gqa", num_hidden_layers=4).save_pretrained(model)
    recovery = ("recovery=distill", "recovery.steps=3", "recovery.batch=4")
    outcome = cli("run", *job, f"model.path={model}", *BLOCK, *recovery, f"save_model={saved}")
    assert outcome.code == 0, outcome.err
    record = record_of(tmp_path / "results")
    assert any("distilled from the dense model" in note for note in record.notes)
    assert len(record.layers) == 4 * 7
    gone = {report.name for report in record.layers if report.achieved_sparsity == 1.0}
    assert len(gone) == 7
    loaded = AutoModelForCausalLM.from_pretrained(saved)
    assert loaded.config.num_hidden_layers == 3
    (result,) = record.results
    assert result.value == pytest.approx(perplexity_of(loaded, tokens), rel=1e-6)
    for results in ("after", "alone"):
        code = cli("run", *job, f"model.path={model}", "method=magnitude", f"results_dir={tmp_path / results}").code
        assert code == 0
    after, alone = (record_of(tmp_path / results) for results in ("after", "alone"))
    assert after.weights_fingerprint == alone.weights_fingerprint
    assert len(after.layers) == 4 * 7
    dense = AutoModelForCausalLM.from_pretrained(model).state_dict()
    left = [index for index in range(4) if not any(f".{index}." in name for name in gone)]
    kept = loaded.state_dict()
    for place, index in enumerate(left):
        name = "layers.{}.input_layernorm.weight"
        assert torch.equal(kept[f"model.{name.format(place)}"], dense[f"model.{name.format(index)}"])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("method=flap", "pattern=structured", "offload=disk"), "allowed: offload=none"),
        (("method=shortgpt", "pattern=channel"), "it takes structured, not channel"),
        (("method=flap", "pattern=structured", "allocation=owl"), "it spreads"),
    ],
)
def test_what_cannot_be_is_said_at_planning(
    overrides: tuple[str, ...], words: str, cli: Cli, job: tuple[str, ...]
) -> None:
    """In one line, before anything is loaded."""
    outcome = cli("plan", *job, *overrides)
    assert words in outcome.out + outcome.err
    assert "Traceback" not in outcome.err


def test_sizes_of_their_own_are_declared_and_the_folder_is_a_model_to_run(
    cli: Cli, job: tuple[str, ...], tmp_path: Path
) -> None:
    """FLAP's model runs, its folder gives the same number, also from the disk; the report prints its row."""
    model, saved = tmp_path / "model", tmp_path / "saved"
    tiny("llama-gqa", **WIDER).save_pretrained(model)
    flap = ("method=flap", "pattern=structured", "sparsity=0.3", f"save_model={saved}")
    outcome = cli("run", *job, f"model.path={model}", *flap)
    assert outcome.code == 0, outcome.err
    record = record_of(tmp_path / "results")
    assert record.achieved_sparsity == pytest.approx(0.3, abs=0.01)
    assert any("declared" in note for note in record.notes)
    for offload in ("none", "disk"):
        results = tmp_path / offload
        again = ("method=dense", f"results_dir={results}", f"offload={offload}")
        outcome = cli("run", *job, f"model.path={saved}", *again)
        assert outcome.code == 0, outcome.err
        assert record_of(results).results[0].value == pytest.approx(record.results[0].value, rel=1e-6)
    outcome = cli("report", "--results-dir", str(tmp_path / "results"), "--format", "json")
    assert outcome.code == 0, outcome.err
    assert "structured" in json.dumps(json.loads(outcome.out))
