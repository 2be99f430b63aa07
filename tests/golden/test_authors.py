"""Our outcome beside that of the authors' own code, on two tiny models in float32.

The folder that PRUNEBENCH_GOLDEN names holds the models, the calibration tokens (16 x 64), the pruned weights of every
linear and the perplexities that the published functions gave.  Where we differ on purpose (exact counts instead of
`<= threshold`), the tests say by how much.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from harness.evaluation.perplexity import perplexity
from harness.job import Choice
from harness.models.checkpoint import Checkpoint
from harness.models.layers import prunable_shapes
from harness.models.loading import load_model
from harness.patterns import Pattern, SemiStructured, Unstructured
from harness.progress import Silent
from harness.pruning.engine import Walk, prune_model
from harness.pruning.methods.base import LayerwiseMethod
from harness.pruning.registry import build_method
from harness.record import RunRecord
from harness.tracking.store import RecordStore

Weights = Mapping[str, np.ndarray[Any, np.dtype[np.float32]]]

MODELS = ("tiny-llama", "tiny-opt")
METHODS = ("magnitude", "wanda", "sparsegpt")
PATTERNS: dict[str, Pattern] = {
    "unstructured": Unstructured(0.5),
    "2of4": SemiStructured(2, 4),
    "4of8": SemiStructured(4, 8),
}
ONE_SEQUENCE = 64
"""Tokens in one forward pass: the authors run one sequence at a time."""

TIED_LAYER = "model.decoder.layers.1.fc2.weight"
MOST_TIED_ZEROS = 10
"""SparseGPT N:M on tiny-opt: two pairs of scores of this layer tie within the rounding of float32, and which weight
goes depends on the BLAS kernel: on the machines tried, ours are the authors' with two threads, and 2 (2:4) or 8 (4:8)
zeros differ with one.  After a swap the later columns of that row follow."""
MOST_DIFFERENCE = 1e-5
MOST_TIED_DIFFERENCE = 2e-5
"""Its Hessian is the worst conditioned one: its other rows are 0.95e-5 apart with two threads and 1.03e-5 with one."""


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def outcome(folder: Path, model: str, method: str, pattern: str) -> tuple[Weights, float]:
    """The pruned weights by parameter name, and the perplexity of the pruned model."""
    loaded = load_model(Checkpoint("local", model, str(folder / model), None, False), torch.float32)
    if method != "dense":
        built = build_method(Choice(method))
        assert isinstance(built, LayerwiseMethod)
        tokens_BL = torch.from_numpy(np.load(folder / "calibration_tokens.npy"))
        patterns = dict.fromkeys(prunable_shapes(loaded.model), PATTERNS[pattern])
        walk = Walk(patterns, "pruned", torch.device("cpu"), ONE_SEQUENCE)
        ties = model == "tiny-opt" and method == "sparsegpt"
        with threads(2 if ties else torch.get_num_threads()):  # see MOST_TIED_ZEROS
            prune_model(loaded.model, built, tokens_BL, walk, Silent())
    windows_NL = torch.from_numpy(np.load(folder / "evaluation_tokens.npy")).view(-1, 64)
    measured = perplexity(loaded.model, windows_NL, batch_tokens=256, device=torch.device("cpu"), reporter=Silent())
    assert measured.value is not None
    weights = {f"{name}.weight" for name in prunable_shapes(loaded.model)}
    state = loaded.model.state_dict()
    return {name: state[name].numpy() for name in sorted(weights)}, measured.value


def authors_weights(folder: Path, model: str, method: str, pattern: str) -> Weights:
    """What the published code left, by parameter name."""
    with np.load(folder / model / f"{method}.{pattern}.npz") as stored:
        return {name: stored[name] for name in sorted(stored.files)}


def authors_perplexity(folder: Path, model: str, method: str, pattern: str = "") -> float:
    """What the published function measured."""
    stored = json.loads((folder / model / "perplexity.json").read_text())["perplexity"][method]
    return float(stored[pattern] if pattern else stored)


def check_identical(ours: Weights, authors: Weights, *, may_tie: bool) -> bool:
    """Fail unless zeros are identical and weights agree to 1e-5; whether all zeros agree (a tie may go either way)."""
    assert list(ours) == list(authors)
    all_agree = True
    for name, expected in authors.items():
        tied = may_tie and name == TIED_LAYER
        apart = (ours[name] == 0) != (expected == 0)
        count = int(apart.sum())
        assert count <= (MOST_TIED_ZEROS if tied else 0), f"{name}: {count} zeros apart"
        all_agree = all_agree and count == 0
        same = ~apart.any(axis=1)
        difference = np.linalg.norm(ours[name][same] - expected[same]) / np.linalg.norm(expected[same])
        most = MOST_TIED_DIFFERENCE if tied else MOST_DIFFERENCE
        assert difference <= most, f"{name}: relative difference {difference:.2e}"
    return all_agree


def check_case(ours: Weights, measured: float, folder: Path, case: tuple[str, str, str]) -> None:
    """The bar of one (model, method, pattern): which zeros may differ, and the perplexity where none do."""
    model, method, pattern = case
    authors = authors_weights(folder, *case)
    if pattern == "unstructured" and method == "magnitude":
        check_one_weight_fewer(ours, authors)
        return
    if pattern == "unstructured" and method == "sparsegpt":
        check_nearly_all(ours, authors)
        return
    may_tie = model == "tiny-opt" and method == "sparsegpt"
    if check_identical(ours, authors, may_tie=may_tie):
        assert measured == pytest.approx(authors_perplexity(folder, *case), rel=1e-4)


def check_one_weight_fewer(ours: Weights, authors: Weights) -> None:
    """The authors' `<= threshold` prunes one weight more in every matrix; all else is identical."""
    assert list(ours) == list(authors)
    for name, expected in authors.items():
        more = (expected == 0) & (ours[name] != 0)
        assert int(more.sum()) == 1, name
        assert not ((ours[name] == 0) & (expected != 0)).any(), name
        np.testing.assert_array_equal(ours[name][~more], expected[~more])


def check_nearly_all(ours: Weights, authors: Weights) -> None:
    """One weight more in every block of 128 columns, and what follows from it: at most 0.1 % of the zeros."""
    assert list(ours) == list(authors)
    missing = sum(int(((expected == 0) & (ours[name] != 0)).sum()) for name, expected in authors.items())
    zeros = sum(int((expected == 0).sum()) for expected in authors.values())
    assert missing <= 0.001 * zeros, f"{missing} of {zeros} zeros apart"
    for name, expected in authors.items():
        assert int((ours[name] == 0).sum()) == ours[name].size // 2, name
        blocks = -(-expected.shape[1] // 128)
        assert int((expected == 0).sum()) == ours[name].size // 2 + blocks, "the authors' k + 1"


@pytest.mark.parametrize("model", MODELS)
def test_the_dense_model_measures_the_same(golden_dir: Path, model: str) -> None:
    """Before any pruning: the perplexity function is the published one."""
    _, measured = outcome(golden_dir, model, "dense", "")
    assert measured == pytest.approx(authors_perplexity(golden_dir, model, "dense"), rel=1e-5)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", MODELS)
def test_the_outcome_is_the_authors(golden_dir: Path, model: str, method: str, pattern: str) -> None:
    """Zeros identical in every N:M case and in Wanda's unstructured one, weights to 1e-5, perplexity to 1e-4."""
    ours, measured = outcome(golden_dir, model, method, pattern)
    check_case(ours, measured, golden_dir, (model, method, pattern))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_a_wrong_outcome_is_found(golden_dir: Path, model: str, method: str) -> None:
    """The comparison can fail: one zero moved to another layer's place, or one weight changed, is found."""
    authors = authors_weights(golden_dir, model, method, "2of4")
    for name in authors:
        for spoil in (0.0, 1.01):
            ours = {key: value.copy() for key, value in authors.items()}
            place = tuple(np.argwhere(np.abs(ours[name]) == np.abs(ours[name]).max())[0])
            ours[name][place] *= spoil
            if name == TIED_LAYER and spoil == 0.0 and method == "sparsegpt":
                ours[name][: MOST_TIED_ZEROS + 1] = 0.0
            with pytest.raises(AssertionError, match=name):
                check_identical(ours, authors, may_tie=method == "sparsegpt")


def prunebench(folder: Path, model: str, out: Path, *arguments: str) -> None:
    """Run the command line in a process of its own; records go to `out`/results, pruned models to `out`/models."""
    setting = [
        "model=local",
        f"model.path={folder / model}",
        "calibration=tokens",
        f"calibration.path={folder / 'calibration_tokens.npy'}",
        "evaluation=perplexity",
        "evaluation.corpora=[tokens]",
        f"evaluation.tokens_path={folder / 'evaluation_tokens.npy'}",
        "evaluation.seq_len=64",
        f"batch_tokens={ONE_SEQUENCE}",
        "dtype=float32",
        "device=cpu",
        f"results_dir={out / 'results'}",
        f"save_model={out / 'models'}",
    ]
    command = [sys.executable, "-m", "harness", "run", *arguments, *setting]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def check_record(record: RunRecord, saved: Path, folder: Path, model: str) -> None:
    """The saved weights and the recorded perplexity are the authors'."""
    _, method, slug, _ = record.job_id.split("__")
    pattern = {"unstructured-0.5": "unstructured", "nm-2-4": "2of4", "nm-4-8": "4of8"}[slug]
    state = load_file(saved / "model.safetensors")
    ours = {name: state[name] for name in authors_weights(folder, model, method, pattern)}
    (result,) = record.results
    assert (result.metric, result.num_samples, result.subset) == ("perplexity", 24, None)
    assert result.value is not None
    check_case(ours, result.value, folder, (model, method, pattern))
    assert record.achieved_sparsity == pytest.approx(0.5, abs=1e-12)


@pytest.mark.e2e
def test_one_job_of_the_command_line(golden_dir: Path, tmp_path: Path) -> None:
    """SparseGPT 2:4 in one run: the saved model and the recorded perplexity are the authors'."""
    prunebench(golden_dir, "tiny-llama", tmp_path, "method=sparsegpt", "pattern=2:4")
    (record,) = RecordStore(tmp_path / "results").all()
    check_record(record, tmp_path / "models", golden_dir, "tiny-llama")


@pytest.mark.e2e
@pytest.mark.slow
def test_a_sweep_of_the_command_line(golden_dir: Path, tmp_path: Path) -> None:
    """All methods and patterns in one multirun; every job saves its model below the folder that was given."""
    prunebench(golden_dir, "tiny-opt", tmp_path, "-m", f"method={','.join(METHODS)}", "pattern=unstructured,2:4,4:8")
    records = RecordStore(tmp_path / "results").all()
    assert len(records) == len(METHODS) * len(PATTERNS)
    for record in records:
        check_record(record, tmp_path / "models" / record.job_id, golden_dir, "tiny-opt")
