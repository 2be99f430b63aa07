"""Methods that cut heads and channels, beside the authors' own functions on one attention and one feed-forward layer.

SlimLLM is guojialong1/Slimllm@1342d89, LoRAP lihuang258/LoRAP@4e34b7f, LoRAPrune
aim-uofa/LoRAPrune@4da5272.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from harness.calibration.statistics import FeatureCovariance, FeatureNorm, Statistics
from harness.patterns import Unit
from harness.pruning.adapters import group_importance
from harness.pruning.cutting import Candidates
from harness.pruning.methods.lorap_ffn import LorapFfn
from harness.pruning.methods.slimllm import HeadOutputs, SlimLlm
from harness.pruning.numerics.lora_gradients import progress, sensitivity
from harness.surgery.dependencies import DependencyGroup

CPU = torch.device("cpu")


def arrays_of(golden_dir: Path, name: str) -> Mapping[str, Tensor]:
    """All inputs and outcomes by name."""
    with np.load(golden_dir / "layers" / name / "block.npz") as stored:
        return {key: torch.from_numpy(stored[key]) for key in stored.files}


def statistics_of(x_BTI: Tensor) -> Statistics:
    """Of an input, in its own precision."""
    rows_TI = x_BTI.flatten(0, 1)
    covariance, norm = (kind(rows_TI.shape[1], CPU) for kind in (FeatureCovariance, FeatureNorm))
    covariance.mean_I, covariance.covariance_II = rows_TI.mean(dim=0), torch.cov(rows_TI.T, correction=0)
    norm.sum_of_squares_I = rows_TI.square().sum(dim=0)
    norm.num_sequences = len(x_BTI)
    return Statistics([covariance, norm])


def candidates_of(
    unit: Unit, count: int, weights: Sequence[Tensor], made_from: Statistics, weight_OI: Tensor
) -> Candidates:
    """Channels or heads whose rows lie one after the other in the layers that make them."""
    slices = tuple(weight.unflatten(0, (count, -1)) for weight in (*weights, weight_OI.T))
    columns_CK = torch.arange(weight_OI.shape[1]).view(count, -1)
    return Candidates(unit, slices, columns_CK, made_from=(made_from,) * len(weights))


def test_slimllm_keeps_the_heads_and_channels_that_its_authors_keep(golden_dir: Path) -> None:
    """Scores, orders and what the greedy search exchanges; the weights and biases that are fitted: 1e-9 of each."""
    arrays, method = arrays_of(golden_dir, "slimllm"), SlimLlm()
    heads, of_attention = int(arrays["heads"]), statistics_of(arrays["o_proj_input"])
    candidates = candidates_of("head", heads, (), of_attention, arrays["W_o"])
    similarity_C = HeadOutputs.of(candidates, of_attention).similarity_without()
    torch.testing.assert_close(similarity_C, arrays["head_similarity"], rtol=1e-9, atol=0.0)
    order = (-similarity_C).sort(stable=True).indices
    assert order.tolist() == arrays["initial_order_desc"].tolist()
    expected = arrays["heads_kept_in_weight_order"]
    kept_C = method.kept(candidates, of_attention, len(expected))
    assert kept_C.tolist() == sorted(expected.tolist())
    assert set(kept_C.tolist()) != set(order[heads - len(expected) :].tolist())  # the search exchanged some
    check_fit(
        method, arrays["W_o"], candidates.columns_CK, expected, of_attention, arrays["o_weight"], arrays["o_bias"]
    )

    x_BTI, weights = arrays["ffn_input"], (arrays["W_gate"], arrays["W_up"])
    hidden_BTI = silu(x_BTI @ weights[0].T) * (x_BTI @ weights[1].T)
    of_hidden = statistics_of(hidden_BTI)
    candidates = candidates_of("channel", len(weights[0]), weights, statistics_of(x_BTI), arrays["W_down"])
    torch.testing.assert_close(method.importance(candidates, of_hidden), arrays["ffn_scores"], rtol=1e-9, atol=0.0)
    expected = arrays["ffn_kept_in_weight_order"]
    assert method.kept(candidates, of_hidden, len(expected)).tolist() == sorted(expected.tolist())
    check_fit(
        method, arrays["W_down"], candidates.columns_CK, expected, of_hidden, arrays["down_weight"], arrays["down_bias"]
    )


def test_lorap_keeps_the_channels_that_its_authors_keep(golden_dir: Path) -> None:
    """Scores to 1e-5, and the same channels at 20 % and 50 %, some of the least important among them."""
    arrays, method = arrays_of(golden_dir, "lorap"), LorapFfn()
    x_BTI, weights = arrays["X"], (arrays["W_gate"], arrays["W_up"])
    of_x, of_hidden = statistics_of(x_BTI), statistics_of(silu(x_BTI @ weights[0].T) * (x_BTI @ weights[1].T))
    candidates = candidates_of("channel", len(weights[0]), weights, of_x, arrays["W_down"])
    importance_C = method.importance(candidates, of_hidden)
    torch.testing.assert_close(importance_C, arrays["ffn_scores"], rtol=1e-5, atol=0.0)
    for percent in (20, 50):
        expected = arrays[f"ffn_kept_s{percent}"].tolist()
        assert method.kept(candidates, of_hidden, len(expected)).tolist() == expected
        assert int(importance_C.argmin()) in expected


def test_loraprune_counts_what_its_authors_count(golden_dir: Path) -> None:
    """Heads and channels to 1e-5 of their estimated gradients; the schedule of what has gone, at every tenth step."""
    arrays = arrays_of(golden_dir, "loraprune")
    scale, heads = float(arrays["scaling"]), int(arrays["heads"])
    for unit, names, expected in (
        ("head", ("q_proj", "k_proj", "v_proj", "o_proj"), "attn_group_sensitivity"),
        ("channel", ("gate_proj", "up_proj", "down_proj"), "mlp_group_sensitivity"),
    ):
        found = {
            name: sensitivity(
                arrays[f"{name}.W"],
                (arrays[f"{name}.A"], arrays[f"{name}.B"]),
                (arrays[f"{name}.gradA"], arrays[f"{name}.gradB"]),
                scale,
            )
            for name in names
        }
        *producers, consumer = names
        columns_CK = torch.arange(found[consumer].shape[1]).view(
            heads if unit == "head" else -1, 8 if unit == "head" else 1
        )
        rows = dict.fromkeys(producers, columns_CK)
        group = DependencyGroup("head" if unit == "head" else "channel", consumer, columns_CK, rows, {}, {})
        torch.testing.assert_close(group_importance(group, found), arrays[expected], rtol=1e-5, atol=0.0)
    ratios = [0.5 * progress(step, 1000) for step in arrays["schedule_steps"].tolist()]
    assert ratios == pytest.approx(arrays["schedule_ratio_0.5_warm0.1_cool0.1"].tolist(), rel=1e-12)


def check_fit(
    method: SlimLlm,
    weight_OI: Tensor,
    columns_CK: Tensor,
    kept_C: Tensor,
    stats: Statistics,
    expected_OK: Tensor,
    expected_O: Tensor,
) -> None:
    """The authors' weight has its columns in the order in which heads or channels were kept."""
    order_K = columns_CK[kept_C].flatten()
    found = method.compensation(weight_OI, order_K.sort().values, stats)
    assert found.weight_OK is not None
    torch.testing.assert_close(found.weight_OK[:, order_K.argsort().argsort()], expected_OK, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.bias_O, expected_O, rtol=1e-9, atol=1e-12)
