"""The authors' outcomes on small layers, which every clone carries: see condense.py.

Here as in the tests of the whole folder: zeros identical, and where the published count is one weight more (or rounded
up), we are asked for that count.
"""

import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.calibration.statistics import FeatureNorm, Statistics
from harness.job import Choice
from harness.patterns import Pattern, SemiStructured, Unstructured
from harness.pruning.cutting import Candidates
from harness.pruning.methods.base import METHODS, LayerwiseMethod
from harness.pruning.methods.llm_pruner import LlmPruner
from harness.pruning.methods.llm_surgeon import LLMSurgeon
from harness.pruning.methods.obc import OBC
from harness.pruning.methods.wanda import Wanda
from harness.pruning.numerics.kfac import Curvature
from harness.pruning.numerics.learned_rates import RatedWeight
from harness.pruning.numerics.ranking import remove_globally
from tests.contexts import hessian_of
from tests.golden.condense import BESA_MASKS, FILE, LAYER, OUTCOMES, PROJECTIONS, Array, condensed
from tests.golden.test_structured import LLM_PRUNER

MOST_BYTES = 200_000
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def stored() -> dict[str, Array]:
    """All that is carried."""
    with np.load(FILE) as arrays:
        return {name: arrays[name] for name in arrays.files}


def zeros(stored: dict[str, Array], name: str, shape: tuple[int, ...]) -> Array:
    """Where the authors left zeros."""
    return np.unpackbits(stored[f"{name}.zeros"], count=math.prod(shape)).reshape(shape).astype(bool)


def check(stored: dict[str, Array], name: str, ours: Tensor, *, most: float) -> None:
    """Zeros identical, sums of rows to a fraction `most` of the weights' norm."""
    np.testing.assert_array_equal(ours.numpy() == 0, zeros(stored, name, tuple(ours.shape)))
    sums = ours.sum(dim=-1, dtype=torch.float64).numpy()
    np.testing.assert_allclose(sums, stored[f"{name}.sums"], rtol=0, atol=most * float(ours.norm()))


def test_the_file_is_small() -> None:
    """It is in every clone."""
    assert FILE.stat().st_size < MOST_BYTES


def test_the_file_is_what_the_golden_folder_holds(golden_dir: Path, stored: dict[str, Array]) -> None:
    """Bit by bit; what is computed from the tokens (statistics of one layer's inputs) to rounding."""
    fresh = condensed(golden_dir)
    assert list(fresh) == list(stored)
    for name, array in fresh.items():
        if name.startswith(f"tiny-llama.{LAYER}.") or ".moment" in name:
            np.testing.assert_allclose(stored[name], array, rtol=0, atol=1e-6 * np.abs(array).max(), err_msg=name)
        else:
            np.testing.assert_array_equal(stored[name], array, err_msg=name)


@pytest.mark.parametrize("name", OUTCOMES["layers/obc/layer"])
def test_obc(stored: dict[str, Array], name: str) -> None:
    """From the Hessian; of inputs that are always 0 its rows and columns are."""
    file = "layers/obc/layer"
    weight_OI, hessian_II = (torch.from_numpy(stored[f"{file}.{key}"]).clone() for key in "WH")
    if name.startswith("dead_"):
        dead = stored[f"{file}.dead_columns"]
        hessian_II[dead], hessian_II[:, dead] = 0.0, 0.0
    pattern: Pattern = SemiStructured(2, 4)
    if "unstr" in name:
        count = math.ceil(weight_OI.numel() * int(name[-2:]) / 100)
        pattern = Unstructured.of_count(count, weight_OI.numel())
    method = OBC(rel_damp=0.01 if name.startswith("damp001_") else 0.0)
    ours_OI = method.prune(weight_OI, Statistics([hessian_of(hessian_II)]), pattern).weight_OI
    check(stored, f"{file}.{name}", ours_OI, most=1e-5 if name.startswith("fp32_") else 1e-9)


@pytest.mark.parametrize(
    ("case", "key"),
    [*product(["nobias", "bias"], ["elem50", "elem50_corr30_add"]), ("bias", "nm2of4")],
)
def test_llm_surgeon(stored: dict[str, Array], case: str, key: str) -> None:
    """From the factors; with a bias, it is the last column and in no group."""
    file = "layers/llm_surgeon/layer"
    weight_OI = torch.from_numpy(stored[f"{file}.W"])
    if case == "bias":
        weight_OI = torch.cat([weight_OI, torch.from_numpy(stored[f"{file}.bias"])[:, None]], dim=1)
    factors = Curvature(*(torch.from_numpy(stored[f"{file}.{case}.{factor}"]) for factor in "GA"))
    packs = key == "elem50_corr30_add"
    method = LLMSurgeon(max_correlate=30 if packs else 10**9, add_update=packs)
    costs_OI = method.costs(weight_OI, factors)
    pattern: Pattern = Unstructured.of_count(weight_OI.numel() // 2 + 1, weight_OI.numel())
    if key == "nm2of4":
        costs_OI, pattern = costs_OI[:, :-1], SemiStructured(2, 4)
    dense = {"layer": torch.zeros_like(costs_OI, dtype=torch.bool)}
    removed_OI = remove_globally({"layer": costs_OI}, dense, pattern)["layer"]
    removed_OI = torch.nn.functional.pad(removed_OI, (0, weight_OI.shape[1] - removed_OI.shape[1]))
    ours_OI = method.updated(weight_OI, removed_OI, factors)
    if case == "bias":
        check(stored, f"{file}.bias.{key}.b", ours_OI[:, -1], most=1e-5)
        ours_OI = ours_OI[:, :-1]
    check(stored, f"{file}.{case}.{key}.W", ours_OI, most=1e-5)


@pytest.mark.parametrize("name", BESA_MASKS)
def test_besa(stored: dict[str, Array], name: str) -> None:
    """Hard masks of learned logits, ranked by Wanda's score of the layer and its inputs."""
    file, case = "layers/besa/layer", name.split(".")[0]
    weight_OI, x_BTI, logits = (torch.from_numpy(stored[f"{file}.{key}"]) for key in ("W", "X", f"{case}.theta"))
    norm = FeatureNorm(x_BTI.shape[2], CPU)
    norm.update(x_BTI.flatten(0, 1), len(x_BTI))
    weight = RatedWeight(weight_OI, Wanda().score(weight_OI, Statistics([norm])), logits.numel() // 101)
    weight.logits_RD = logits.reshape(weight.logits_RD.shape)
    beta_RD = weight.candidate_weights("none" if case == "row_nosmooth" else "sigmoid")
    keep_OI = weight.hard_mask(weight.rates(beta_RD))
    np.testing.assert_array_equal(~keep_OI.numpy(), zeros(stored, f"{file}.{name}", tuple(keep_OI.shape)))


@pytest.mark.parametrize("criterion", LLM_PRUNER)
def test_llm_pruner(stored: dict[str, Array], criterion: Any) -> None:
    """Importances of the four heads of one attention, from the moments of its gradients."""
    slices, *moments = (
        [torch.from_numpy(stored[f"llm_pruner.{name}.{key}"]) for name in PROJECTIONS]
        for key in ("W", "moment1", "moment2")
    )
    of_heads = [
        (*(rows_OI.unflatten(0, (4, -1)) for rows_OI in matrices[:3]), matrices[3].T.unflatten(0, (4, -1)))
        for matrices in (slices, *moments)
    ]
    method = LlmPruner(criterion, "mean" if criterion in ("l1", "l2") else "sum")
    columns_CK = torch.arange(32).view(4, 8)
    candidates = Candidates("head", of_heads[0], columns_CK, gradients=tuple(of_heads[1 : 1 + method.gradient_moments]))
    importance_C = method.importance(candidates, Statistics([])).numpy()
    np.testing.assert_allclose(importance_C, stored[f"llm_pruner.{criterion}"], rtol=1e-4)


@pytest.mark.parametrize("file", [file for file in OUTCOMES if file.startswith("tiny-llama/")])
def test_a_layer_of_the_tiny_llama(stored: dict[str, Array], file: str) -> None:
    """Magnitude, Wanda, SparseGPT and RIA; of unstructured magnitude and SparseGPT one weight more, as published."""
    method_name, pattern_name = file.removeprefix("tiny-llama/").split(".")
    choice = Choice("ria", {"comparison_group": "row"}) if method_name == "ria_row" else Choice(method_name)
    method = METHODS.build(choice)
    assert isinstance(method, LayerwiseMethod)
    weight_OI, norm_I, upper = (torch.from_numpy(stored[f"tiny-llama.{LAYER}.{key}"]) for key in ("W", "norm", "upper"))
    hessian_II = torch.zeros(len(norm_I), len(norm_I))
    hessian_II[*torch.triu_indices(*hessian_II.shape)] = upper
    norm = FeatureNorm(len(norm_I), norm_I.device)
    norm.sum_of_squares_I = norm_I.square()
    norm.num_sequences = 1
    inputs = Statistics([norm, hessian_of(hessian_II + hessian_II.triu(1).T)])
    pattern: Pattern = {"unstructured": Unstructured(0.5), "2of4": SemiStructured(2, 4), "4of8": SemiStructured(4, 8)}[
        pattern_name
    ]
    if pattern_name == "unstructured" and method_name in ("magnitude", "sparsegpt"):
        pattern = Unstructured.of_count(weight_OI.numel() // 2 + 1, weight_OI.numel())
    ours_OI = method.prune(weight_OI, inputs, pattern).weight_OI
    name = f"{file}.{LAYER}.weight"
    if method_name == "sparsegpt":
        check(stored, name, ours_OI, most=6e-6)
    else:
        gone = torch.from_numpy(zeros(stored, name, tuple(weight_OI.shape)))
        assert torch.equal(ours_OI, weight_OI.masked_fill(gone, 0.0))
