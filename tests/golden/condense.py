"""What of the golden folder is small enough to lie in the project, as `condensed.npz`: layers with small inputs.

From three methods' own layers, and from the first key projection of the tiny LLaMA: inputs in full (of OBC and of
SparseGPT the Hessian, of LLM Surgeon the factors), and of the authors' outcomes the places of the zeros, packed, and
where weights are updated the sums of rows.  Of LLM-Pruner an attention with its gradients, and its heads' importances.
Whole models (1.3 and 0.9 MB, their outcomes 0.3 to 0.5 MB each) are not carried, nor what needs one: perplexities,
other layers, OWL.

`python -m tests.golden.condense FOLDER` writes it anew from a golden folder.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.models.checkpoint import Checkpoint
from harness.models.loading import load_model
from harness.patterns import Structured
from harness.pruning.gradients import gradient_moments
from tests.contexts import a_context
from tests.golden.test_structured import LLM_PRUNER, arrays_of, stock_llama
from tests.oracles.test_engine import inputs_of

Array = np.ndarray[Any, Any]

FILE = Path(__file__).with_name("condensed.npz")
LAYER = "model.layers.0.self_attn.k_proj"
OUTCOMES = {
    "layers/obc/layer": [
        "unstr50", "unstr70", "nm2of4", "dead_unstr50", "dead_nm2of4", "damp001_unstr50", "damp001_nm2of4",
        "fp32_unstr50", "fp32_unstr70", "fp32_nm2of4",
    ],
    "layers/llm_surgeon/layer": [
        f"{case}.{key}.W" for case in ("nobias", "bias") for key in ("elem50", "elem50_corr30_add")
    ] + ["bias.nm2of4.W", "bias.elem50.b", "bias.elem50_corr30_add.b", "bias.nm2of4.b"],
    **{
        f"tiny-llama/{method}.{pattern}": [f"{LAYER}.weight"]
        for method in ("magnitude", "wanda", "sparsegpt", "ria_row")
        for pattern in ("unstructured", "2of4", "4of8")
        if (method, pattern) != ("ria_row", "4of8")
    },
}  # fmt: skip
"""Weights after pruning, by the file they are in."""
UNCHANGED = tuple(f"tiny-llama/{method}" for method in ("magnitude", "wanda", "ria_row"))
"""Here weights that stay are as they were."""
INPUTS = {
    "layers/obc/layer": ["W", "H", "dead_columns"],
    "layers/llm_surgeon/layer": ["W", "bias", "nobias.G", "nobias.A", "bias.G", "bias.A"],
    "layers/besa/layer": ["W", "X", *(f"{case}.theta" for case in ("row", "layer", "row_nosmooth"))],
}
BESA_MASKS = [f"{case}.hard_mask" for case in ("row", "layer", "row_nosmooth")]


def condensed(golden: Path) -> dict[str, Array]:
    """All that is carried, by FILE.ARRAY and, of an outcome, `.zeros` or `.sums`."""
    found: dict[str, Array] = {}
    for file, names in INPUTS.items():
        with np.load(golden / f"{file}.npz") as stored:
            found |= {f"{file}.{name}": stored[name] for name in names}
    with np.load(golden / "layers" / "besa" / "layer.npz") as stored:
        found |= {f"layers/besa/layer.{name}.zeros": np.packbits(stored[name] == 0) for name in BESA_MASKS}
    for file, names in OUTCOMES.items():
        with np.load(golden / f"{file}.npz") as stored:
            for name in names:
                found[f"{file}.{name}.zeros"] = np.packbits(stored[name] == 0)
                if not file.startswith(UNCHANGED):
                    found[f"{file}.{name}.sums"] = stored[name].sum(axis=-1, dtype=np.float64)
    return found | _attention(golden) | _tiny_llama(golden)


PROJECTIONS = [f"model.layers.1.self_attn.{part}_proj" for part in "qkvo"]


def _attention(golden: Path) -> dict[str, Array]:
    """Of LLM-Pruner the weights of one attention, the moments of their gradients, and its heads' importances."""
    arrays = arrays_of(golden, "llm_pruner")
    moments = gradient_moments(a_context(stock_llama(arrays), arrays["tokens"], Structured(0.5)), PROJECTIONS, 2)
    found = {f"llm_pruner.{name}.W": arrays[f"w.{name}.weight"] for name in PROJECTIONS}
    for order, moment in enumerate(moments, 1):
        found |= {f"llm_pruner.{name}.moment{order}": moment[name] for name in PROJECTIONS}
    found |= {f"llm_pruner.{each}": arrays[f"{each}.attn.1.head_importance"] for each in LLM_PRUNER}
    return {name: tensor.numpy() for name, tensor in found.items()}


def _tiny_llama(golden: Path) -> dict[str, Array]:
    """The dense layer, and of its inputs the root of the mean over sequences of the sum of squares, and 2/n X^T X."""
    loaded = load_model(Checkpoint("local", "tiny-llama", str(golden / "tiny-llama"), None, False), torch.float32)
    tokens_BL = torch.from_numpy(np.load(golden / "calibration_tokens.npy"))
    inputs = [x_LI.double() for x_LI in inputs_of(loaded.model, [LAYER], tokens_BL)[LAYER]]
    hessian_II = sum(x_LI.T @ x_LI for x_LI in inputs) * (2 / len(inputs))
    assert isinstance(hessian_II, torch.Tensor)
    return {
        f"tiny-llama.{LAYER}.W": loaded.model.get_parameter(f"{LAYER}.weight").detach().numpy(),
        f"tiny-llama.{LAYER}.norm": (hessian_II.diagonal() / 2).sqrt().float().numpy(),
        f"tiny-llama.{LAYER}.upper": hessian_II[*torch.triu_indices(*hessian_II.shape)].float().numpy(),
    }


if __name__ == "__main__":
    np.savez_compressed(FILE, **condensed(Path(sys.argv[1])))  # type: ignore[arg-type]
