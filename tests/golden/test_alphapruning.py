"""AlphaPruning against its authors' code on the tiny golden LLaMA.

The exponents were printed by `net_esd_estimator` of haiquanlu/AlphaPruning@5f0e984 for the linears of both blocks, in
model order, with `fix_fingers="xmin_peak"` and `"xmin_mid"`.
"""

from pathlib import Path
from typing import Literal

import pytest
import torch

from harness.blocks.layers import decoder_blocks, prunable_linears, weight_view
from harness.config.request import Checkpoint
from harness.models.loading import load_model
from harness.pruning.allocations.alphapruning import AlphaPruning

PEAK = [1.7313, 1.9534, 2.721, 1.7091, 1.9141, 2.1721, 2.0217, 2.205, 2.1398, 1.9434, 1.8012, 2.4506, 1.9991, 2.898]
MEDIAN = [1.9068, 1.8845, 1.9138, 1.8779, 2.1328, 2.2434, 2.3681, 1.9747, 1.8859, 1.8433, 1.876, 2.3256, 2.1677, 2.4142]


@pytest.mark.parametrize(("tail", "authors"), [("peak", PEAK), ("median", MEDIAN)])
def test_the_exponents_are_the_authors(golden_dir: Path, tail: Literal["peak", "median"], authors: list[float]) -> None:
    """To the four digits that were kept."""
    loaded = load_model(Checkpoint("local", "tiny-llama", str(golden_dir / "tiny-llama"), None, False), torch.float32)
    linears = [linear for block in decoder_blocks(loaded.model)[1] for linear in prunable_linears(block).values()]
    found = [AlphaPruning(tail=tail).alpha(weight_view(linear)) for linear in linears]
    assert found == pytest.approx(authors, abs=1e-4)
