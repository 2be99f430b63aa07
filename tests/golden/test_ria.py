"""Our RIA beside that of its authors' code, on the tiny LLaMA: a = 0.5, compared within rows."""

from pathlib import Path

import numpy as np
import pytest
import torch

from harness.blocks.layers import prunable_shapes
from harness.job import Choice
from harness.models.checkpoint import Checkpoint
from harness.models.loading import load_model
from harness.patterns import Pattern, SemiStructured, Unstructured
from harness.pruning.methods.base import METHODS, LayerwiseMethod
from tests.contexts import a_context

PATTERNS: dict[str, Pattern] = {"unstructured": Unstructured(0.5), "2of4": SemiStructured(2, 4)}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_zeros_are_the_authors(golden_dir: Path, pattern: str) -> None:
    """Identical zeros, and weights that nobody changed, in every layer."""
    loaded = load_model(Checkpoint("local", "tiny-llama", str(golden_dir / "tiny-llama"), None, False), torch.float32)
    method = METHODS.build(Choice("ria", {"activation_power": 0.5, "comparison_group": "row"}))
    assert isinstance(method, LayerwiseMethod)
    tokens_BL = torch.from_numpy(np.load(golden_dir / "calibration_tokens.npy"))
    method.run(a_context(loaded.model, tokens_BL, PATTERNS[pattern], batch_tokens=64))
    state = loaded.model.state_dict()
    with np.load(golden_dir / "tiny-llama" / f"ria_row.{pattern}.npz") as authors:
        assert sorted(authors.files) == sorted(f"{name}.weight" for name in prunable_shapes(loaded.model))
        for name in authors.files:
            np.testing.assert_array_equal(state[name].numpy() == 0, authors[name] == 0, err_msg=name)
            np.testing.assert_array_equal(state[name].numpy(), authors[name], err_msg=name)


def test_the_zeros_are_not_those_of_wanda(golden_dir: Path) -> None:
    """The comparison can fail: a method close by leaves other zeros on the same model."""
    with np.load(golden_dir / "tiny-llama" / "ria_row.2of4.npz") as ria:
        zeros = {name: ria[name] == 0 for name in ria.files}
    with np.load(golden_dir / "tiny-llama" / "wanda.2of4.npz") as wanda:
        assert any((zeros[name] != (wanda[name] == 0)).any() for name in wanda.files)
