"""Our outcome beside that of the authors' own code, on two tiny models in float32.

The folder that PRUNEBENCH_GOLDEN names holds the models, the calibration tokens (16 x 64), the pruned weights of every
linear and the perplexities that the published functions gave.  Where we differ on purpose (exact counts instead of
`<= threshold`, which removes one weight more), the tests say by how much, and that nothing else differs once the
published threshold is put in by hand.

Bars: zeros identical and weights within 6e-6 of their norm are what an independent implementation of the published text
reached.  Where a bar is another one, these are the figures seen (with one and two threads, with AVX-512 and AVX2
kernels) and the reason:

* Two layers of tiny-opt: its last block has Hessians of condition 4,400 to 16,500 (tiny-llama: up to 830), whose
  factors are taken in float32, there as here.  See `CONDITIONED` and `MOST_TIED_ZEROS`.
* Unstructured SparseGPT.  Block 0 has the authors' inputs: a layer of up to 128 columns lacks their one weight more and
  no other zero, and rows with the same zeros have the same weights.  In what follows on another block of columns or
  another block 0, scores about the threshold change places: in all 0.033 % of the zeros are apart (tiny-llama) and
  0.074 or 0.076 % (tiny-opt; the independent implementation: 0.07 %); the bar is 0.08 %.  Weights of block 1 are fitted
  to those inputs: 0.2 % and 0.43 % of their norm apart; the bar is 0.5 %.
* Perplexity: up to 6e-7 apart where zeros are identical, 5e-6 allowed, some roundings of a mean loss of 6.7 in
  float32; 3.1e-5 after a tie, 1e-4 allowed; 5.8e-4 where the authors have one weight more in every matrix or block of
  columns (12 to 18 of 178,176 or 230,400 weights, and those that follow), 1e-3 allowed.  Pruning itself changes it by
  2e-3 to 2e-2.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor

from harness.blocks.layers import prunable_shapes
from harness.evaluation.perplexity import perplexity
from harness.job import Choice
from harness.models.checkpoint import Checkpoint
from harness.models.loading import load_model
from harness.patterns import Pattern, SemiStructured, Unstructured
from harness.progress import Silent
from harness.pruning.methods.base import METHODS, LayerwiseMethod
from harness.pruning.numerics.masks import ComparisonGroup
from harness.record import RunRecord
from harness.tracking.store import RecordStore
from tests.contexts import a_context

Weight = np.ndarray[Any, np.dtype[np.float32]]
Weights = Mapping[str, Weight]

MODELS = ("tiny-llama", "tiny-opt")
PRUNED_BY = ("magnitude", "wanda", "sparsegpt")
PATTERNS: dict[str, Pattern] = {
    "unstructured": Unstructured(0.5),
    "2of4": SemiStructured(2, 4),
    "4of8": SemiStructured(4, 8),
}
ONE_SEQUENCE = 64
"""Tokens in one forward pass: the authors run one sequence at a time."""

TIED_LAYER = "model.decoder.layers.1.fc2.weight"
MOST_TIED_ZEROS = 16
"""SparseGPT on tiny-opt: scores of this layer tie within the rounding of float32, and which weight goes depends on the
BLAS kernel: either ours are the authors', or 2 (2:4), 8 (4:8) or 14 (unstructured, published threshold) zeros differ.
After a swap the later columns of that row follow.  With one thread, on one CPU that was tried (Xeon with AMX), 10 zeros
of `layers.1.fc1` are apart, too; with two threads none is, there and elsewhere, so two are used."""
MOST_DIFFERENCE = 6e-6
CONDITIONED = {TIED_LAYER: 1.5e-5, "model.decoder.layers.1.self_attn.out_proj.weight": 1e-5}
"""Relative difference of their weights; seen: up to 1.1e-5 and 0.8e-5."""
MOST_APART = 0.0008
MOST_FITTED_DIFFERENCE = 5e-3
MOST_PERPLEXITY = 5e-6
MOST_TIED_PERPLEXITY = 1e-4
MOST_PERPLEXITY_OF_OTHER_COUNTS = 1e-3


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
        built = METHODS.build(Choice(method))
        assert isinstance(built, LayerwiseMethod)
        tokens_BL = torch.from_numpy(np.load(folder / "calibration_tokens.npy"))
        context = a_context(loaded.model, tokens_BL, PATTERNS[pattern], batch_tokens=ONE_SEQUENCE)
        ties = model == "tiny-opt" and method == "sparsegpt"
        with threads(2 if ties else torch.get_num_threads()):  # see MOST_TIED_ZEROS
            built.run(context)
    windows_NL = torch.from_numpy(np.load(folder / "evaluation_tokens.npy")).view(-1, 64)
    measured = perplexity(loaded.model, windows_NL, batch_tokens=256, device=torch.device("cpu"), reporter=Silent())
    assert measured.value is not None
    weights = {f"{name}.weight" for name in prunable_shapes(loaded.model)}
    state = loaded.model.state_dict()
    return {name: state[name].numpy() for name in sorted(weights)}, measured.value


our_outcome = cache(outcome)


def authors_outcome(folder: Path, model: str, method: str, pattern: str) -> tuple[Weights, float]:
    """What the published code left, by parameter name, and what the published function measured."""
    with np.load(folder / model / f"{method}.{pattern}.npz") as stored:
        weights = {name: stored[name] for name in sorted(stored.files)}
    return weights, authors_perplexity(folder, model, method, pattern)


def authors_perplexity(folder: Path, model: str, method: str, pattern: str = "") -> float:
    """What the published function measured."""
    stored = json.loads((folder / model / "perplexity.json").read_text())["perplexity"][method]
    return float(stored[pattern] if pattern else stored)


def may_tie(model: str, method: str) -> bool:
    """Whether `TIED_LAYER` is one of the layers."""
    return (model, method) == ("tiny-opt", "sparsegpt")


def difference(ours: Weight, authors: Weight) -> float:
    """Relative difference of the weights of those rows whose zeros agree; infinite where there is none."""
    same = ((ours == 0) == (authors == 0)).all(axis=1)
    if not same.any():
        return math.inf
    return float(np.linalg.norm(ours[same] - authors[same]) / np.linalg.norm(authors[same]))


def check_identical(ours: Weights, authors: Weights, *, may_tie: bool) -> bool:
    """Fail unless zeros are identical and weights agree; whether all zeros agree (a tie may go either way)."""
    assert list(ours) == list(authors)
    all_agree = True
    for name, expected in authors.items():
        count = int(((ours[name] == 0) != (expected == 0)).sum())
        assert count <= (MOST_TIED_ZEROS if may_tie and name == TIED_LAYER else 0), f"{name}: {count} zeros apart"
        all_agree = all_agree and count == 0
        apart = difference(ours[name], expected)
        assert apart <= CONDITIONED.get(name, MOST_DIFFERENCE), f"{name}: relative difference {apart:.2e}"
    return all_agree


def check_one_weight_fewer(ours: Weights, authors: Weights) -> None:
    """The authors' `<= threshold` prunes one weight more in every matrix; all else is identical."""
    assert list(ours) == list(authors)
    for name, expected in authors.items():
        more = (expected == 0) & (ours[name] != 0)
        assert int(more.sum()) == 1, name
        assert not ((ours[name] == 0) & (expected != 0)).any(), name
        np.testing.assert_array_equal(ours[name][~more], expected[~more], err_msg=name)


def check_nearly_all(ours: Weights, authors: Weights) -> None:
    """One weight more in every block of 128 columns, and what follows from it."""
    assert list(ours) == list(authors)
    for name, expected in authors.items():
        blocks = -(-expected.shape[1] // 128)
        assert int((ours[name] == 0).sum()) == ours[name].size // 2, name
        assert int((expected == 0).sum()) == ours[name].size // 2 + blocks, f"{name}: the authors' k + 1"
        same_inputs = ".layers.0." in name
        if same_inputs and blocks == 1:
            assert int(((ours[name] == 0) != (expected == 0)).sum()) == 1, f"{name}: more zeros apart than k + 1 makes"
        apart = difference(ours[name], expected)
        most = MOST_DIFFERENCE if same_inputs else MOST_FITTED_DIFFERENCE
        assert apart <= most, f"{name}: relative difference {apart:.2e}"
    missing = sum(int(((expected == 0) & (ours[name] != 0)).sum()) for name, expected in authors.items())
    zeros = sum(int((expected == 0).sum()) for expected in authors.values())
    assert missing <= MOST_APART * zeros, f"{missing} of {zeros} zeros apart"


def check_case(ours: tuple[Weights, float], authors: tuple[Weights, float], case: tuple[str, str, str]) -> None:
    """The bar of one (model, method, pattern): zeros, weights, perplexity."""
    model, method, pattern = case
    most = MOST_PERPLEXITY_OF_OTHER_COUNTS
    if pattern == "unstructured" and method == "magnitude":
        check_one_weight_fewer(ours[0], authors[0])
    elif pattern == "unstructured" and method == "sparsegpt":
        check_nearly_all(ours[0], authors[0])
    else:
        all_agree = check_identical(ours[0], authors[0], may_tie=may_tie(model, method))
        most = MOST_PERPLEXITY if all_agree else MOST_TIED_PERPLEXITY
    assert ours[1] == pytest.approx(authors[1], rel=most), "the perplexity"


@pytest.mark.parametrize("model", MODELS)
def test_the_dense_model_measures_the_same(golden_dir: Path, model: str) -> None:
    """Before any pruning: the perplexity function is the published one."""
    _, measured = our_outcome(golden_dir, model, "dense", "")
    assert measured == pytest.approx(authors_perplexity(golden_dir, model, "dense"), rel=MOST_PERPLEXITY)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("method", PRUNED_BY)
@pytest.mark.parametrize("model", MODELS)
def test_the_outcome_is_the_authors(golden_dir: Path, model: str, method: str, pattern: str) -> None:
    """Zeros identical in every N:M case and in Wanda's unstructured one; weights and perplexity in all nine."""
    case = (model, method, pattern)
    check_case(our_outcome(golden_dir, *case), authors_outcome(golden_dir, *case), case)


def published_mask(scores_OI: Tensor, pattern: Pattern, comparison_group: ComparisonGroup) -> Tensor:
    """Keeps what is above the k-th of the sorted scores, counted from 0, and so prunes k + 1."""
    assert isinstance(pattern, Unstructured)
    assert comparison_group == "matrix"
    return scores_OI > scores_OI.flatten().sort().values[int(scores_OI.numel() * pattern.sparsity)]


@pytest.mark.parametrize("method", ["magnitude", "sparsegpt"])
@pytest.mark.parametrize("model", MODELS)
def test_the_threshold_is_all_that_differs(
    golden_dir: Path, model: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unstructured with the published threshold, and all else ours: zeros, weights and perplexity as in the N:M cases.

    This is what says that the zeros apart and the bars of `check_nearly_all` come from the count alone.
    """
    for module in ("base", "sparsegpt"):
        monkeypatch.setattr(f"harness.pruning.methods.{module}.keep_mask", published_mask)
    ours, measured = outcome(golden_dir, model, method, "unstructured")
    authors, expected = authors_outcome(golden_dir, model, method, "unstructured")
    all_agree = check_identical(ours, authors, may_tie=may_tie(model, method))
    assert measured == pytest.approx(expected, rel=MOST_PERPLEXITY if all_agree else MOST_TIED_PERPLEXITY)


def spoilt(weight: Weight, authors: Weight) -> dict[str, Weight]:
    """A weight of ours with one zero more, with another mask of the same count, with one weight changed."""
    rows = ((weight == 0) == (authors == 0)).all(axis=1)
    place = tuple(np.argwhere(np.abs(weight) == np.abs(weight[rows]).max())[0])
    zero, changed = weight.copy(), weight.copy()
    zero[place] = 0.0
    changed[place] *= 2.0  # alone in its row, which is compared, 3 % of the norm of the smallest layer
    return {"zero": zero, "shifted": np.roll(weight, 1, axis=1), "changed": changed}


@pytest.mark.parametrize("pattern", ["unstructured", "2of4"])
@pytest.mark.parametrize("method", PRUNED_BY)
@pytest.mark.parametrize("model", MODELS)
def test_a_wrong_outcome_is_found(golden_dir: Path, model: str, method: str, pattern: str) -> None:
    """Every comparison can fail, in every layer: of an outcome that passes, each spoilt layer is found alone, and so is
    a perplexity beyond the bar.
    """
    case = (model, method, pattern)
    (ours, measured), authors = our_outcome(golden_dir, *case), authors_outcome(golden_dir, *case)
    check_case((ours, measured), authors, case)
    for name, weight in ours.items():
        for how, spoilt_weight in spoilt(weight, authors[0][name]).items():
            if may_tie(model, method) and name == TIED_LAYER and how == "zero" and pattern != "unstructured":
                spoilt_weight[: MOST_TIED_ZEROS + 1] = 0.0
            with pytest.raises(AssertionError, match=f"{name}|zeros apart$"):
                check_case(({**ours, name: spoilt_weight}, measured), authors, case)
    other_counts = pattern == "unstructured" and method != "wanda"
    most = MOST_PERPLEXITY_OF_OTHER_COUNTS if other_counts else MOST_TIED_PERPLEXITY
    for factor in (1 - 3 * most, 1 + 3 * most):
        with pytest.raises(AssertionError, match="the perplexity"):
            check_case((ours, measured * factor), authors, case)


def test_weights_as_far_off_as_float16_are_found(golden_dir: Path) -> None:
    """The bar on weights is far below the rounding of a smaller type, in every layer and also where zeros are apart."""
    for pattern in ("unstructured", "2of4"):
        case = ("tiny-llama", "sparsegpt", pattern)
        (ours, measured), authors = our_outcome(golden_dir, *case), authors_outcome(golden_dir, *case)
        for name in ours if pattern == "2of4" else [name for name in ours if ".layers.0." in name]:
            rounded = {**ours, name: ours[name].astype(np.float16).astype(np.float32)}
            with pytest.raises(AssertionError, match=f"{name}: relative difference"):
                check_case((rounded, measured), authors, case)


def prunebench(folder: Path, model: str, out: Path, *arguments: str) -> None:
    """Run the command line in a process of its own; records go to `out`/results, pruned models to `out`/models."""
    setting = [
        "model=local",
        f"model.path={folder / model}",
        "calibration=tokens",
        f"calibration.path={folder / 'calibration_tokens.npy'}",
        "evaluation=perplexity",
        "evaluation.corpora=[tokens]",
        f"data.tokens={folder / 'evaluation_tokens.npy'}",
        "evaluation.seq_len=64",
        f"batch_tokens={ONE_SEQUENCE}",
        "dtype=float32",
        "device=cpu",
        f"results_dir={out / 'results'}",
        f"save_model={out / 'models'}",
    ]
    command = [sys.executable, "-m", "harness", "run", *arguments, *setting]
    threads = {"OMP_NUM_THREADS": "2"}  # see MOST_TIED_ZEROS
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | threads)
    assert done.returncode == 0, done.stderr


def check_record(record: RunRecord, saved: Path, folder: Path, model: str) -> None:
    """The saved weights and the recorded perplexity are the authors'."""
    _, method, slug, _ = record.job_id.split("__")
    pattern = {"unstructured-0.5": "unstructured", "nm-2-4": "2of4", "nm-4-8": "4of8"}[slug]
    case = (model, method, pattern)
    authors = authors_outcome(folder, *case)
    state = load_file(saved / "model.safetensors")
    ours = {name: state[name] for name in authors[0]}
    (result,) = record.results
    assert (result.metric, result.num_samples, result.subset) == ("perplexity", 24, None)
    assert result.value is not None
    check_case((ours, result.value), authors, case)
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
    prunebench(golden_dir, "tiny-opt", tmp_path, "-m", f"method={','.join(PRUNED_BY)}", "pattern=unstructured,2:4,4:8")
    records = RecordStore(tmp_path / "results").all()
    assert len(records) == len(PRUNED_BY) * len(PATTERNS)
    for record in records:
        check_record(record, tmp_path / "models" / record.job_id, golden_dir, "tiny-opt")
