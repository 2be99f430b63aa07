"""The knee of a sweep."""

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UserError
from harness.patterns import SemiStructured, Unstructured
from harness.reporting.knee import UNREACHED, knee, knees
from harness.reporting.layout import Table

SWEEP = [0.1, 0.2, 0.3, 0.4]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.80, 0.80, 0.79, 0.60], 0.2),  # 0.79 is 1.25 % below 0.80
        ([0.800, 0.795, 0.790, 0.785], 0.4),  # no step loses 1 %, though all three together do
        ([0.80, 0.70, 0.80, 0.80], 0.1),  # what comes after the fall does not count
        ([0.70, 0.80, 0.80, 0.50], 0.3),  # getting better is no fall
        ([0.80, math.nan, 0.80, 0.80], 0.1),
        ([math.nan, 0.80, 0.80, 0.80], None),
        ([0.0, 0.0, 0.0, 0.0], 0.4),
    ],
)
def test_the_last_sparsity_before_the_fall(scores: list[float], expected: float | None) -> None:
    """Accuracy: each step is compared with the one before it, in per cent of that one."""
    assert knee(SWEEP, scores, higher_is_better=True) == expected


def test_perplexity_falls_upwards() -> None:
    """A smaller number is better there; an infinite one is the worst."""
    assert knee(SWEEP, [20.0, 20.1, 21.0, 90.0], higher_is_better=False) == 0.2
    assert knee(SWEEP, [20.0, 19.0, math.inf, 19.0], higher_is_better=False) == 0.2
    assert knee(SWEEP, [20.0, 20.1, 21.0, 90.0], higher_is_better=False, delta=0.1) == 0.3


def test_exactly_delta_is_no_fall() -> None:
    """More than delta, not delta itself."""
    assert knee([0.0, 0.5], [1.0, 0.75], higher_is_better=True, delta=0.25) == 0.5
    assert knee([0.0, 0.5], [1.0, 0.74], higher_is_better=True, delta=0.25) == 0.0


SCORES = st.dictionaries(st.floats(0, 0.99), st.floats(0.01, 100), min_size=1, max_size=8)


@given(SCORES, st.randoms(use_true_random=False), st.floats(0, 1))
def test_order_and_scale_make_no_difference(scores: dict[float, float], random: Random, delta: float) -> None:
    """Rows may come in any order; a factor on all scores (here a power of two, so exactly) changes nothing."""
    expected = knee(list(scores), list(scores.values()), higher_is_better=True, delta=delta)
    rows = list(scores.items())
    random.shuffle(rows)
    shuffled = knee([s for s, _ in rows], [4 * v for _, v in rows], higher_is_better=True, delta=delta)
    assert shuffled == expected
    assert expected in scores


@pytest.mark.parametrize(
    ("sparsities", "scores", "delta", "match"),
    [
        ([], [], 0.01, "0 sparsities"),
        ([0.1], [1.0, 2.0], 0.01, r"1 sparsities .* 2 scores"),
        ([0.1, 0.1], [1.0, 2.0], 0.01, "1 distinct"),
        ([0.1], [1.0], -0.1, "delta=-0.1"),
        ([0.1], [1.0], math.nan, "delta=nan"),
    ],
)
def test_what_makes_no_knee_is_refused(sparsities: list[float], scores: list[float], delta: float, match: str) -> None:
    """The line holds what was given and what is allowed."""
    with pytest.raises(UserError, match=match):
        knee(sparsities, scores, higher_is_better=True, delta=delta)


# ----------------------------------------------------------------------------------------------------- of the records


def rows_of(table: Table) -> list[tuple[str, ...]]:
    """What people read, row by row."""
    return [tuple(cell.written(table.order) for cell in row) for row in table.rows]


def test_every_sweep_has_its_knee(record, perplexity, accuracy) -> None:
    """The dense model is the first step; settings are apart; N:M and a sweep of too few sparsities are left out."""
    jobs = [record("dense", results=(perplexity(10.0), accuracy(0.6)))]
    for sparsity, good, bad, acc in ((0.1, 10.05, 10.2, 0.6), (0.2, 10.1, 11.0, 0.6), (0.3, 12.0, 12.0, 0.6)):
        pattern = Unstructured(sparsity)
        jobs.append(record("wanda", pattern, (perplexity(good), accuracy(acc)), params={"x": 1, "y": "row"}))
        jobs.append(record("wanda", pattern, (perplexity(bad),), params={"x": 1, "y": "tensor"}))
    jobs.append(record("wanda", SemiStructured(2, 4), (perplexity(99.0),), params={"x": 1, "y": "row"}))
    jobs += [record("magnitude", Unstructured(sparsity), (perplexity(99.0),)) for sparsity in (0.1, 0.2)]
    table = knees(jobs)
    assert [each.header for each in table.columns][:3] == ["model", "method", "params"]
    assert rows_of(table) == [
        ("opt-125m", "wanda", "y=row", "20.00", "30.00" + UNREACHED[0]),
        ("opt-125m", "wanda", "y=tensor", "0.00", "–"),
    ]
    assert " ".join(UNREACHED) in table.footnotes


def test_too_few_sparsities_are_refused(record, perplexity) -> None:
    """A single job has no knee, and the line says how many there must be."""
    with pytest.raises(UserError, match=r"1 sparsities .* at least 4"):
        knees([record("wanda", results=(perplexity(9.0),))])
