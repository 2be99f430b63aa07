"""One magnitude threshold over a model, against sorting all of its weights."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import load_file
from torch import Tensor

from harness.cli.main import main
from harness.patterns import SemiStructured, Unstructured
from harness.pruning.methods.magnitude import Magnitude
from harness.pruning.numerics.ranking import smallest_by_layer
from tests.families import tiny_model

VALUES = st.one_of(
    st.sampled_from([-1.0, -0.0, 0.0, 0.5, 2.0, 2.0**-140]),  # ties, both zeros, a number below the normal ones
    st.floats(-(2.0**99), 2.0**99, width=32),
)
LAYERS = st.lists(
    arrays.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=VALUES), min_size=1, max_size=4
)


def oracle(layers: list[Any], sparsity: float) -> list[int]:
    """How many weights go in every layer: all of them sorted, earlier ones first among equals."""
    flat = sorted((abs(float(value)), layer) for layer, weights in enumerate(layers) for value in weights.reshape(-1))
    gone = [layer for _, layer in flat[: int(len(flat) * sparsity)]]
    return [gone.count(layer) for layer in range(len(layers))]


@given(LAYERS, st.floats(0.0, 1.0))
def test_the_counts_are_those_of_a_sort(layers: list[Any], sparsity: float) -> None:
    """Exact for any float32 numbers, ties and zeros; earlier layers go first among equals."""
    weights = [(str(place), torch.from_numpy(weights)) for place, weights in enumerate(layers)]
    found = smallest_by_layer(lambda: weights, sparsity)
    assert list(found) == [name for name, _ in weights]
    assert [count for count, _ in found.values()] == oracle(layers, sparsity)
    assert [size for _, size in found.values()] == [weights.size for weights in layers]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_ranked_as_it_is(dtype: torch.dtype) -> None:
    """Numbers of few bits, with thousands of ties."""
    stream = torch.Generator().manual_seed(0)
    weights = [
        (str(place), (torch.randn(60, 50, generator=stream) * scale).to(dtype)) for place, scale in enumerate((1, 2, 4))
    ]
    found = smallest_by_layer(lambda: weights, 0.37)
    assert [count for count, _ in found.values()] == oracle(
        [weight_OI.float().numpy() for _, weight_OI in weights], 0.37
    )


@given(st.integers(1, 10**12), st.data())
def test_a_layers_pattern_holds_its_count(size: int, data: st.DataObject) -> None:
    """`int(size * sparsity)` is the count again, whatever the rounding of count / size."""
    count = data.draw(st.one_of(st.integers(0, size), st.sampled_from([0, 1, size - 1, size])))
    assert int(size * Unstructured.of_count(count, size).sparsity) == count


def test_the_other_granularities_leave_layers_to_the_allocation() -> None:
    """Only `global` compares layers, and it takes no N:M, whose groups are all that is ranked."""
    analysis: Any = SimpleNamespace(
        weights=lambda: [("a", torch.ones(2, 4))], shapes={"a": (2, 4)}, pattern=Unstructured(0.5)
    )
    for granularity in ("tensor", "row"):
        method = Magnitude(granularity)  # type: ignore[arg-type]
        assert method.spread(analysis) == {"a": Unstructured(0.5)}
        assert not method.decides_layer_sparsities
        assert method.refuses(SemiStructured(2, 4)) is None
    method = Magnitude("global")
    assert method.spread(analysis) == {"a": Unstructured.of_count(4, 8)}
    assert method.decides_layer_sparsities
    assert "2:4" in str(method.refuses(SemiStructured(2, 4)))


def run(folder: Path, tokens: Path, out: Path, *arguments: str) -> dict[str, Tensor]:
    """Prune the model in `folder` by the command line; the weights that it saved."""
    setting = [
        "model=local", f"model.path={folder}", "calibration=tokens", f"calibration.path={tokens}", "evaluation=none",
        "dtype=float32", "device=cpu", f"results_dir={out / 'results'}", f"save_model={out / 'model'}",
    ]  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        main(["run", "method=magnitude", "method.granularity=global", *arguments, *setting])
    assert ended.value.code == 0
    saved: dict[str, Tensor] = {}
    for file in (out / "model").glob("*.safetensors"):
        saved |= load_file(file)
    return saved


def test_a_job_has_exactly_the_models_smallest_weights_removed(tmp_path: Path) -> None:
    """The whole way, with the blocks in memory and on disk: the zeros are the int(total * s) smallest of all blocks."""
    folder, tokens = tmp_path / "tiny", tmp_path / "tokens.npy"
    model = tiny_model("llama-gqa")
    model.save_pretrained(folder)
    np.save(tokens, np.random.default_rng(0).integers(3, 64, (4, 16)))
    names = [name for name in model.state_dict() if ".layers." in name and model.state_dict()[name].dim() == 2]
    dense = np.concatenate([model.state_dict()[name].abs().numpy().reshape(-1) for name in names])
    wanted = np.zeros(dense.size, dtype=bool)
    wanted[np.argsort(dense, kind="stable")[: int(dense.size * 0.3)]] = True
    for offload in ("none", "disk"):
        saved = run(folder, tokens, tmp_path / offload, "sparsity=0.3", f"offload={offload}")
        zeros = np.concatenate([(saved[name] == 0).numpy().reshape(-1) for name in names])
        np.testing.assert_array_equal(zeros, wanted)
        (record,) = (tmp_path / offload).rglob("*magnitude*.json")
        layers = json.loads(record.read_text())["layers"]
        assert len({round(layer["achieved_sparsity"], 3) for layer in layers}) > 1
        for layer in layers:
            assert layer["achieved_sparsity"] == pytest.approx(layer["requested_sparsity"], abs=1e-12)


@pytest.mark.parametrize("override", ["pattern=2:4", "allocation=owl"])
def test_what_global_cannot_do_is_refused_when_it_is_planned(
    override: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """N:M and an allocation of its own are refused with the reason, before anything runs."""
    np.save(tmp_path / "tokens.npy", np.ones((2, 8), dtype=int))
    tokens = f"calibration.path={tmp_path / 'tokens.npy'}"
    with pytest.raises(SystemExit):
        main(["plan", "--json", "method=magnitude", "method.granularity=global", override, "calibration=tokens", tokens,
              "evaluation=none", f"results_dir={tmp_path}"])  # fmt: skip
    (row,) = json.loads(capsys.readouterr().out)
    assert row["state"] == "refused"
    assert "magnitude" in row["reason"]
