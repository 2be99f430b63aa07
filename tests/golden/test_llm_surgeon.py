"""LLM Surgeon on one layer beside the authors' own functions (Qualcomm-AI-research/llm-surgeon@7267344).

Inputs are seeded random numbers, one layer with and without a bias.  Where we differ on purpose, the published choice
is made here by hand: their threshold is `cost <= t`, which removes one weight more than asked for, and biases count and
go (`prune_bias=true`).  Zeros are identical, numbers agree to 1e-4.

Not read are the outcomes of removing whole rows and columns (`rc30`, `obd_row_cost`, `obd_column_cost`): that is the
paper's structured form, whose result is a smaller layer; `method=llm_surgeon` removes single weights, unstructured and
N:M.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.patterns import SemiStructured, Unstructured
from harness.pruning.methods.llm_surgeon import LLMSurgeon
from harness.pruning.numerics.kfac import Curvature
from harness.pruning.numerics.ranking import remove_globally

Arrays = Mapping[str, Tensor]
CASES = ("nobias", "bias")
PUBLISHED = LLMSurgeon()
PUBLISHED_AT_ONCE = replace(PUBLISHED, max_correlate=10**9)
"""All removals are solved for together."""


@pytest.fixture(scope="module")
def arrays(golden_dir: Path) -> Arrays:
    """All inputs and outcomes by name."""
    with np.load(golden_dir / "layers" / "llm_surgeon" / "layer.npz") as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored.files}


def with_bias(arrays: Arrays, case: str, weight: str, bias: str) -> Tensor:
    """A weight, and in the case with a bias the bias as its last column."""
    if case == "nobias":
        return arrays[weight]
    return torch.cat([arrays[weight], arrays[bias][:, None]], dim=1)


def curvature(arrays: Arrays, case: str) -> Curvature:
    """Our factors of the stored inputs and gradients, one row a token."""
    x_TI, g_TO = arrays["X"], arrays["grad_out"]
    if case == "bias":
        x_TI = torch.cat([x_TI, torch.ones(len(x_TI), 1)], dim=1)
    return Curvature(g_TO.T @ g_TO / len(g_TO), x_TI.T @ x_TI / len(x_TI)).balanced()


def check_outcome(arrays: Arrays, case: str, key: str, new_OI: Tensor) -> None:
    """Zeros identical, weights to 1e-4 of their norm."""
    expected_OI = with_bias(arrays, case, f"{case}.{key}.W", f"{case}.{key}.b")
    assert torch.equal(new_OI == 0, expected_OI == 0)
    assert float((new_OI - expected_OI).norm() / expected_OI.norm()) < 1e-4


@pytest.mark.parametrize("case", CASES)
def test_factors_are_the_authors(arrays: Arrays, case: str) -> None:
    """Means over tokens, rescaled to equal norms with the product kept."""
    ours = curvature(arrays, case)
    torch.testing.assert_close(ours.gradient_OO, arrays[f"{case}.G"], rtol=1e-4, atol=1e-12)
    torch.testing.assert_close(ours.input_II, arrays[f"{case}.A"], rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_damage_costs_are_the_authors(arrays: Arrays, case: str) -> None:
    """Optimal brain damage: undamped factors, no inverse."""
    weight_OI = with_bias(arrays, case, "W", "bias")
    costs_OI = LLMSurgeon(criterion="damage").costs(weight_OI, curvature(arrays, case))
    torch.testing.assert_close(costs_OI, arrays[f"{case}.obd_element_cost"], rtol=1e-4, atol=0.0)


ELEMENTS = {"elem50": PUBLISHED_AT_ONCE, "elem50_corr30_add": replace(PUBLISHED, max_correlate=30, add_update=True)}


@pytest.mark.parametrize("key", ELEMENTS)
@pytest.mark.parametrize("case", CASES)
def test_elements_are_the_authors(arrays: Arrays, case: str, key: str) -> None:
    """Costs, threshold, zeros and the updated weight at 50 %, all correlated and in packs of 30 with added updates.

    Which weights go is chosen by our own ranking, asked for their count.
    """
    weight_OI, factors = with_bias(arrays, case, "W", "bias"), curvature(arrays, case)
    costs_OI = ELEMENTS[key].costs(weight_OI, factors)
    torch.testing.assert_close(costs_OI, arrays[f"{case}.{key}.cost"], rtol=1e-4, atol=0.0)
    size = costs_OI.numel()
    dense = {"layer": torch.zeros_like(costs_OI, dtype=torch.bool)}
    one_more = Unstructured.of_count(size // 2 + 1, size)
    removed_OI = remove_globally({"layer": costs_OI}, dense, one_more)["layer"]
    assert float(costs_OI[removed_OI].max()) == pytest.approx(float(arrays[f"{case}.{key}.threshold"]), rel=1e-4)
    check_outcome(arrays, case, key, ELEMENTS[key].updated(weight_OI, removed_OI, factors))
    removed_OI = remove_globally({"layer": costs_OI}, dense, Unstructured(0.5))["layer"]
    theirs_OI = with_bias(arrays, case, f"{case}.{key}.W", f"{case}.{key}.b") == 0
    assert int((removed_OI ^ theirs_OI).sum()) == 1, "half of the weights are theirs without the most costly one"


def test_two_of_four_is_the_authors(arrays: Arrays) -> None:
    """2:4 with a bias, which is updated and in no group: our own choice of weights is theirs.

    Their threshold at 50 % is the largest cost of a group, so that every group loses two.
    """
    weight_OI, factors = with_bias(arrays, "bias", "W", "bias"), curvature(arrays, "bias")
    costs_OI = PUBLISHED_AT_ONCE.costs(weight_OI, factors)
    torch.testing.assert_close(costs_OI, arrays["bias.nm2of4.cost"], rtol=1e-4, atol=0.0)
    dense = {"layer": torch.zeros_like(arrays["W"], dtype=torch.bool)}
    removed = remove_globally({"layer": costs_OI[:, :-1]}, dense, SemiStructured(2, 4))["layer"]
    group_costs_G = costs_OI[:, :-1][removed].view(-1, 2).sum(dim=1)
    assert float(group_costs_G.max()) == pytest.approx(float(arrays["bias.nm2of4.threshold"]), rel=1e-4)
    removed_OI = torch.nn.functional.pad(removed, (0, 1))
    check_outcome(arrays, "bias", "nm2of4", PUBLISHED_AT_ONCE.updated(weight_OI, removed_OI, factors))


def test_only_rows_and_columns_are_left_out(arrays: Arrays) -> None:
    """Nothing else lies in the golden folder that no test reads."""
    read = {"W", "bias", "X", "grad_out", *(f"bias.nm2of4.{part}" for part in ("cost", "threshold", "W", "b"))}
    for case in CASES:
        read |= {f"{case}.{name}" for name in ("G", "A", "obd_element_cost")}
        read |= {f"{case}.{key}.{part}" for key in ELEMENTS for part in ("cost", "threshold", "W")}
    read |= {f"bias.{key}.b" for key in ELEMENTS}
    left_out = set(arrays) - read
    assert read <= set(arrays)
    assert all(".rc30." in name or name.endswith(("obd_row_cost", "obd_column_cost")) for name in left_out)
