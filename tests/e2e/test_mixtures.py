"""A job on a mixture of experts: what its record says is what its saved weights are."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from harness.blocks.layers import decoder_blocks
from tests.e2e.conftest import Outcome
from tests.families import plain_model

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("offload", ["none", "disk"])
def test_the_record_counts_all_matrices_of_the_blocks(
    offload: str, cli: Callable[..., Outcome], job: tuple[str, ...], tmp_path: Path
) -> None:
    """Experts are layers of their own; the routers are not reached, and count among the weights that stay."""
    plain_model("mixtral").save_pretrained(tmp_path / "mixtral")
    paths = (f"model.path={tmp_path / 'mixtral'}", f"save_model={tmp_path / 'pruned'}")
    assert cli("run", *job, *paths, "method=wanda", "sparsity=0.5", f"offload={offload}").code == 0
    (file,) = (tmp_path / "results").rglob("*__wanda*.json")
    record = json.loads(file.read_text())
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "pruned")
    matrices = [weight for weight in decoder_blocks(saved)[1].parameters() if weight.dim() >= 2]
    total = sum(weight.numel() for weight in matrices)
    assert record["achieved_sparsity"] == pytest.approx(sum(int((weight == 0).sum()) for weight in matrices) / total)
    assert 0.45 < record["achieved_sparsity"] < 0.5
    assert record["unreached_weights"] == total - sum(math.prod(layer["shape"]) for layer in record["layers"])
    assert record["unreached_weights"] == 2 * 4 * 32
    assert "model.layers.1.mlp.experts.3.down_proj" in {layer["name"] for layer in record["layers"]}
    assert any("model.layers.0.mlp.gate.weight" in note for note in record["notes"])
