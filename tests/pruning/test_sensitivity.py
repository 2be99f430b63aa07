"""The sensitivity scan and the way from what layers bear to what was asked for."""

import math
from collections.abc import Callable, Hashable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from harness.calibration.statistics import Statistics
from harness.patterns import SemiStructured, Unstructured
from harness.pruning.allocations.sensitivity import Sensitivity, scaled
from harness.pruning.methods.magnitude import Magnitude


@given(
    tolerated=st.lists(
        st.sampled_from([0.0, *(percent / 100 for percent in range(10, 100, 5))]), min_size=1, max_size=6
    ),
    rows=st.lists(st.integers(1, 50), min_size=6, max_size=6),
    total=st.floats(0.05, 0.95),
)
def test_scaling_meets_the_request(tolerated: list[float], rows: list[int], total: float) -> None:
    """The mean over all weights is the request; none leaves 0 to 1, and a layer that bears more gets no less."""
    wanted = {str(index): value for index, value in enumerate(tolerated)}
    shapes = {name: (rows[int(name)], 7) for name in wanted}
    found = scaled(wanted, shapes, total)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    assert sum(found[name] * sizes[name] for name in found) / sum(sizes.values()) == pytest.approx(total)
    assert all(-1e-12 <= value < 1 for value in found.values())
    for one in wanted:
        for other in wanted:
            assert wanted[one] < wanted[other] or found[one] >= found[other] - 1e-12


def an_analysis(weights: Mapping[str, Tensor], loss: Callable[[Mapping[str, Tensor]], float], sparsity: float) -> Any:
    """What the allocation looks at, with a made-up loss of trials."""
    block = SimpleNamespace(weights=weights, statistics=dict.fromkeys(weights, Statistics([])))
    return SimpleNamespace(
        method=Magnitude(),
        pattern=Unstructured(sparsity),
        shapes={name: tuple(weight_OI.shape) for name, weight_OI in weights.items()},
        observed_blocks=lambda needs: iter([block]),
        cached=lambda key, find: find(),
        trials=lambda num_sequences: loss,
    )


def test_every_layer_is_scanned_alone_from_the_top() -> None:
    """The first sparsity within the tolerance is taken, layer by layer, with the job's method; a layer that bears
    nothing is scanned to the end.
    """
    weights = {name: torch.randn(10, 100, generator=torch.Generator().manual_seed(7)) for name in ("a", "b", "c")}
    bears = {"a": 0.951, "b": 0.42, "c": 0.0}
    trials: list[tuple[str, float]] = []

    def loss(trial: Mapping[str, Tensor]) -> float:
        if not trial:
            return 2.0
        ((name, weight_OI),) = trial.items()
        sparsity = float((weight_OI == 0).sum()) / weight_OI.numel()
        trials.append((name, round(sparsity, 3)))
        return 2.0 if sparsity <= bears[name] else 2.5

    patterns = Sensitivity(tolerance=0.4).spread(an_analysis(weights, loss, 0.3))
    assert trials[0] == ("a", 0.95)
    assert [sparsity for name, sparsity in trials if name == "b"] == [round(0.95 - 0.05 * n, 2) for n in range(12)]
    assert len([name for name, _ in trials if name == "c"]) == 18
    values = [patterns[name].sparsity for name in "abc"]
    assert values == pytest.approx([0.95 * 0.9 / 1.35, 0.4 * 0.9 / 1.35, 0.0], abs=0.006)
    assert sum(values) / 3 == pytest.approx(0.3, abs=1e-3)


def test_a_tolerance_is_met_with_equality() -> None:
    """`<=`: zero tolerance keeps what costs nothing."""
    weights = {"a": torch.ones(4, 20), "b": torch.ones(4, 20)}
    patterns = Sensitivity(tolerance=0.0).spread(an_analysis(weights, lambda trial: 1.0 + ("b" in trial), 0.5))
    assert patterns["a"].sparsity > 0.9
    assert patterns["b"].sparsity < 0.1


def test_what_it_refuses() -> None:
    """N:M has no sparsity to spread."""
    assert "2:4" in str(Sensitivity().refuses(SemiStructured(2, 4)))


def test_bisecting_finds_what_the_scan_finds_in_fewer_trials() -> None:
    """Where a layer's loss rises with its sparsity, for every sparsity that may be found."""
    weights = {"a": torch.randn(10, 100, generator=torch.Generator().manual_seed(8))}

    def scan(search: str, most: float) -> tuple[float, int]:
        measured = 0

        def loss(trial: Mapping[str, Tensor]) -> float:
            nonlocal measured
            measured += bool(trial)
            return 1.0 + any(float((weight_OI == 0).float().mean()) > most + 1e-3 for weight_OI in trial.values())

        tolerated = Sensitivity(search=search)._tolerated(an_analysis(weights, loss, 0.5))  # type: ignore[arg-type]
        return tolerated["a"], measured

    for percent in (0, *range(10, 100, 5)):
        (scanned, _), (bisected, trials) = scan("scan", percent / 100), scan("bisect", percent / 100)
        assert bisected == scanned == percent / 100
        assert trials <= 5


def test_a_sweep_scans_once() -> None:
    """What layers bear is kept for jobs that differ in the sparsity; not for other methods or tolerances."""
    kept: dict[Hashable, Any] = {}
    weights = {name: torch.randn(10, 100, generator=torch.Generator().manual_seed(9)) for name in ("a", "b")}
    measured = 0

    def loss(trial: Mapping[str, Tensor]) -> float:
        nonlocal measured
        measured += 1
        return sum(float((weight_OI == 0).float().mean()) for weight_OI in trial.values())

    def keep(key: Hashable, find: Callable[[], Any]) -> Any:
        if key not in kept:
            kept[key] = find()
        return kept[key]

    def trials_of(allocation: Sensitivity, sparsity: float, method: Any) -> int:
        nonlocal measured
        measured = 0
        analysis = an_analysis(weights, loss, sparsity)
        analysis.method, analysis.cached = method, keep
        patterns = allocation.spread(analysis)
        assert sum(pattern.sparsity for pattern in patterns.values()) / 2 == pytest.approx(sparsity, abs=1e-3)
        return measured

    first = trials_of(Sensitivity(tolerance=0.3), 0.5, Magnitude())
    assert first > 20
    assert trials_of(Sensitivity(tolerance=0.3), 0.7, Magnitude()) == 0
    assert trials_of(Sensitivity(tolerance=0.3), 0.7, Magnitude(granularity="row")) == first
    assert trials_of(Sensitivity(tolerance=0.2), 0.7, Magnitude()) > 0
