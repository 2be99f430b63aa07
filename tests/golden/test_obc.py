"""OBC: the outcome is that of the authors' own code on one layer (see golden/layers/obc)."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.calibration.statistics import InputHessian, Statistics
from harness.patterns import Pattern, SemiStructured, Unstructured
from harness.pruning.methods.obc import OBC
from tests.contexts import hessian_of

CASES: dict[str, tuple[float | None, float]] = {
    "unstr50": (0.5, 0.0), "unstr70": (0.7, 0.0), "nm2of4": (None, 0.0),
    "dead_unstr50": (0.5, 0.0), "dead_nm2of4": (None, 0.0),
    "damp001_unstr50": (0.5, 0.01), "damp001_nm2of4": (None, 0.01),
    "fp32_unstr50": (0.5, 0.0), "fp32_unstr70": (0.7, 0.0), "fp32_nm2of4": (None, 0.0),
}  # fmt: skip
"""Sparsity (None = 2:4) and damping by the array's name."""


@pytest.fixture(scope="session")
def layer(golden_dir: Path) -> dict[str, Any]:
    """The stored arrays."""
    with np.load(golden_dir / "layers" / "obc" / "layer.npz") as stored:
        return {name: stored[name] for name in stored.files}


def statistics(layer: dict[str, Any], name: str) -> Statistics:
    """The inputs' Hessian in float64: the authors' count of samples is that of the tokens here."""
    x_TI = torch.from_numpy(layer["X"]).clone()
    if name.startswith("dead_"):
        x_TI[:, layer["dead_columns"]] = 0.0
    return Statistics([hessian_of(2.0 / len(x_TI) * x_TI.T @ x_TI)])


def production_statistics(layer: dict[str, Any], name: str) -> Statistics:
    """What our statistic, float32, sums up from the inputs, one token after the other, as the authors count them."""
    x_TI = torch.from_numpy(layer["X"]).float()
    if name.startswith("dead_"):
        x_TI[:, layer["dead_columns"]] = 0.0
    found = InputHessian(x_TI.shape[1], torch.device("cpu"))
    found.update(x_TI, len(x_TI))
    return Statistics([found])


def theirs(name: str, size: int) -> Pattern:
    """They remove ceil(size * sparsity) weights of a layer, we int(...): here we are asked for theirs."""
    sparsity, _ = CASES[name]
    return SemiStructured(2, 4) if sparsity is None else Unstructured.of_count(math.ceil(size * sparsity), size)


@pytest.mark.parametrize("name", CASES)
def test_the_outcome_is_the_authors(layer: dict[str, Any], name: str) -> None:
    """Zeros identical; weights to 1e-9 of their float64 solver, 1e-4 relative of their float32 one."""
    weight_OI, damping = torch.from_numpy(layer["W"]), CASES[name][1]
    outcome = OBC(rel_damp=damping).prune(weight_OI, statistics(layer, name), theirs(name, weight_OI.numel()))
    ours, authors = outcome.weight_OI.numpy(), layer[name]
    np.testing.assert_array_equal(ours == 0, authors == 0)
    if name.startswith("fp32_"):
        assert np.linalg.norm(ours - authors) <= 1e-4 * np.linalg.norm(authors)
    else:
        np.testing.assert_allclose(ours, authors, rtol=0, atol=1e-9)
    assert outcome.details == {"rel_damp": damping, "dead_features": 2 if name.startswith("dead_") else 0}


def test_the_statistic_is_their_hessian(layer: dict[str, Any]) -> None:
    """2/n X^T X to 1e-6 of its largest element (seen: 5e-8) although it is summed in float32; theirs is float64."""
    ours = production_statistics(layer, "unstr50")[InputHessian].hessian_II
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours.double().numpy(), layer["H"], rtol=0, atol=1e-6 * np.abs(layer["H"]).max())


@pytest.mark.parametrize("name", CASES)
def test_a_job_has_the_authors_outcome(layer: dict[str, Any], name: str) -> None:
    """From float32 weights and the statistic that a job collects: zeros identical, weights to 1e-4 (seen: 1e-6)."""
    weight_OI = torch.from_numpy(layer["W"]).float()
    method, pattern = OBC(rel_damp=CASES[name][1]), theirs(name, weight_OI.numel())
    ours = method.prune(weight_OI, production_statistics(layer, name), pattern).weight_OI.numpy()
    np.testing.assert_array_equal(ours == 0, layer[name] == 0)
    assert np.linalg.norm(ours - layer[name]) <= 1e-4 * np.linalg.norm(layer[name])


def test_the_losses_of_all_removals_are_the_authors(layer: dict[str, Any]) -> None:
    """Column k of theirs is the loss of the k-th removal; ours are float32."""
    trace = OBC().trace(torch.from_numpy(layer["W"]), statistics(layer, "unstr50"), Unstructured(0.5))
    np.testing.assert_allclose(trace.increments_OS.numpy(), layer["loss_increments"][:, 1:], rtol=1e-6)
