"""Permuted and smaller models through the command line: saved, loaded by plain transformers, measured the same."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from harness.evaluation.perplexity import perplexity
from harness.job import Choice
from harness.patterns import Channels, Pattern, SemiStructured, Structured, Unstructured
from harness.progress import Silent
from harness.pruning.methods.base import METHODS
from harness.record import RunRecord, from_json
from tests.contracts.test_methods import choices_of, label
from tests.e2e.conftest import Outcome
from tests.families import tiny_model as tiny
from tests.permutations import layers_that_are_not

pytestmark = pytest.mark.e2e
Cli = Callable[..., Outcome]
PERMUTED = ("method=ria", "method.permutation=assignment", "pattern=2:4")
SMALLER = ("method=channel-magnitude", "pattern=channel", "sparsity=0.25")


def record_of(results: Path) -> RunRecord:
    """The one record below a results folder."""
    (path,) = results.rglob("*__*.json")
    return from_json(path.read_bytes(), str(path))


def perplexity_of(model: Any, tokens: Path) -> float:
    """As the job measures it."""
    windows_NL = torch.from_numpy(np.load(tokens)).view(-1, 16)
    measured = perplexity(model, windows_NL, batch_tokens=4096, device=torch.device("cpu"), reporter=Silent())
    assert measured.value is not None
    return measured.value


@pytest.mark.parametrize("name", ["llama-gqa", "opt", "gpt2"])
@pytest.mark.parametrize("how", [PERMUTED, SMALLER], ids=["permuted", "smaller"])
def test_the_saved_model_is_the_one_that_was_measured(
    name: str, how: tuple[str, ...], cli: Cli, job: tuple[str, ...], tokens: Path, tmp_path: Path
) -> None:
    """With every offload: equal records and tensors; the folder's perplexity is the record's, and N:M verifies."""
    model = tmp_path / "model"
    tiny(name).save_pretrained(model, max_shard_size="20KB")
    records, states = [], []
    for offload in ("none", "disk"):
        results, saved = tmp_path / offload / "results", tmp_path / offload / "saved"
        outcome = cli(
            "run", *job, f"model.path={model}", *how, f"offload={offload}", f"results_dir={results}",
            f"save_model={saved}",
        )  # fmt: skip
        assert outcome.code == 0, outcome.err
        record, loaded = record_of(results), AutoModelForCausalLM.from_pretrained(saved).eval()
        (result,) = record.results
        assert result.value == pytest.approx(perplexity_of(loaded, tokens), rel=1e-6)
        if how is PERMUTED:
            assert layers_that_are_not(SemiStructured(2, 4), record.layers, loaded) == []
            assert {"absorbed", "virtual"} <= {report.details.get("permuted") for report in record.layers}
        else:
            dense = AutoModelForCausalLM.from_pretrained(model)
            sizes = [sum(each.numel() for each in which.parameters()) for which in (loaded, dense)]
            assert sizes[0] < sizes[1]
            assert record.achieved_sparsity is not None
            assert 0.05 < record.achieved_sparsity < 0.25
            assert record.job["pattern"] == "channel"
            assert record.job_id.split("__")[2] == "channel-0.25"
        records.append(record)
        states.append(loaded.state_dict())
    for part in ("job_id", "layers", "weights_fingerprint", "achieved_sparsity"):
        assert getattr(records[0], part) == getattr(records[1], part), part
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_sweep_starts_every_job_from_the_dense_model(cli: Cli, job: tuple[str, ...], tmp_path: Path) -> None:
    """After a smaller and after a permuted model the next job of the process has the whole one, biases and all."""
    model = tmp_path / "model"
    tiny("opt").save_pretrained(model)
    place = (*job, f"model.path={model}")
    assert cli("run", *place, "method=magnitude", "pattern=2:4", f"results_dir={tmp_path / 'alone'}").code == 0
    for how in (PERMUTED, SMALLER):
        results = tmp_path / how[0].removeprefix("method=")
        assert cli("run", *place, *how, f"results_dir={results}").code == 0
        assert cli("run", *place, "method=magnitude", "pattern=2:4", f"results_dir={results}").code == 0
        (after,) = results.rglob("*__magnitude__nm*.json")
        (alone,) = (tmp_path / "alone").rglob("*__*.json")
        ours, expected = (json.loads(path.read_text()) for path in (after, alone))
        assert ours["weights_fingerprint"] == expected["weights_fingerprint"]
        assert ours["results"][0]["value"] == expected["results"][0]["value"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("method=ria", "method.permutation=heuristic"), "permutation=heuristic orders the groups of N:M"),
        (("method=wanda", "pattern=channel"), "it takes unstructured, N:M, not channel"),
        (("method=ria", "method.permutation=heuristic", "pattern=channel"), "it takes unstructured, N:M, not channel"),
        (("method=channel-magnitude", "pattern=2:4"), "it takes channel, structured, not 2:4"),
        (("method=channel-magnitude", "pattern=channel", "sparsity=1.0"), "allowed: 0 < sparsity < 1"),
        (("method=channel-magnitude", "pattern=channel", "allocation=owl"), "it spreads"),
    ],
)
def test_what_does_not_go_together_is_refused_at_planning(
    overrides: tuple[str, ...], words: str, cli: Cli, job: tuple[str, ...]
) -> None:
    """In one line."""
    outcome = cli("plan", *job, *overrides)
    assert words in outcome.out + outcome.err
    assert "Traceback" not in outcome.err


PATTERNS: dict[str, Pattern] = {
    "unstructured": Unstructured(0.5),
    "2:4": SemiStructured(2, 4),
    "channel": Channels(0.5),
    "structured": Structured(0.2),
}


def refusal(choice: Choice, pattern: str) -> str | None:
    """What the method says; the dense model takes no pattern, so that it is one job whatever the pattern."""
    method = METHODS.build(choice)
    return method.refuses(PATTERNS[pattern]) if method.patterns else None


def particular() -> list[Choice]:
    """Every choice of a method that refuses, or says, something else than the method with its defaults."""
    return [
        choice
        for name in METHODS.all()
        for choice in choices_of(name)
        if any(refusal(choice, pattern) != refusal(Choice(name), pattern) for pattern in PATTERNS)
    ]


ALL_DEFAULTS = [Choice(name) for name in METHODS.all()]


@pytest.mark.parametrize(
    "choices",
    [ALL_DEFAULTS, *([choice] for choice in particular())],
    ids=lambda choices: "defaults" if choices == ALL_DEFAULTS else label(choices[0]),
)
def test_every_method_is_refused_at_planning_where_it_says_so(
    choices: list[Choice], cli: Cli, job: tuple[str, ...]
) -> None:
    """Over the registry and all kinds of patterns: the state is `refused` there and nowhere else, for a reason that
    names the method and the pattern and is the method's own.
    """
    parameters = [f"method.{name}={value}" for choice in choices for name, value in choice.params.items()]
    methods = ",".join(choice.name for choice in choices)
    outcome = cli("plan", "-m", *job, f"method={methods}", *parameters, f"pattern={','.join(PATTERNS)}", "--json")
    assert outcome.code == 0
    rows = {}
    for row in json.loads(outcome.out):
        given = dict(text.replace("\\:", ":").split("=", 1) for text in row.get("overrides", []))
        rows[row.get("method", given.get("method")), row.get("pattern", given.get("pattern"))] = row
    expected = set()
    for choice in choices:
        for pattern in PATTERNS:
            reason = refusal(choice, pattern)
            key = choice.name, pattern if METHODS.build(choice).patterns else "dense"
            expected.add(key)
            assert rows[key]["state"] == ("new" if reason is None else "refused"), key
            if reason is not None:
                assert rows[key]["reason"] == f"method {choice.name} with pattern {pattern}: {reason}"
                assert rows[key]["job_id"] is None
    assert set(rows) == expected


def test_the_pattern_is_listed(cli: Cli) -> None:
    """With one line of what it is."""
    outcome = cli("list", "patterns")
    assert outcome.code == 0
    assert "channel" in outcome.out
