"""`keep_mask` against a loop that anyone can check."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from harness.patterns import Pattern, SemiStructured, Unstructured
from harness.pruning.numerics.masks import ComparisonGroup, keep_mask

FEW_VALUES = st.sampled_from([-1.0, -0.0, 0.0, 0.5, 2.0])
ANY_VALUES = st.floats(-(2.0**99), 2.0**99, width=32)


def prune_smallest(scores: list[float], count: int) -> list[bool]:
    """Keep all but the `count` smallest; of equal ones the earlier goes first."""
    order = sorted(range(len(scores)), key=lambda place: (scores[place], place))
    keep = [True] * len(scores)
    for place in order[:count]:
        keep[place] = False
    return keep


def oracle(scores: Any, pattern: Pattern, group: ComparisonGroup) -> list[list[bool]]:
    """The keep mask as nested lists."""
    rows = [[float(score) for score in row] for row in scores]
    if isinstance(pattern, SemiStructured):
        masks = []
        for row in rows:
            mask = []
            for start in range(0, len(row), pattern.group):
                mask += prune_smallest(row[start : start + pattern.group], pattern.group - pattern.keep)
            masks.append(mask)
        return masks
    if group == "row":
        return [prune_smallest(row, int(len(row) * pattern.sparsity)) for row in rows]
    flat = prune_smallest([score for row in rows for score in row], int(len(rows) * len(rows[0]) * pattern.sparsity))
    return [flat[start : start + len(rows[0])] for start in range(0, len(flat), len(rows[0]))]


@given(
    scores=st.one_of(
        [
            arrays.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 9)), elements=values)
            for values in (FEW_VALUES, ANY_VALUES)
        ]
    ),
    sparsity=st.floats(0.01, 0.99),
    group=st.sampled_from(["row", "matrix"]),
)
def test_unstructured_masks(scores: Any, sparsity: float, group: ComparisonGroup) -> None:
    """Exactly `int(size * sparsity)` smallest go, of every row or of the matrix, ties from the left (then the top)."""
    pattern = Unstructured(sparsity)
    assert keep_mask(torch.from_numpy(scores), pattern, group).tolist() == oracle(scores, pattern, group)


@given(data=st.data(), rows=st.integers(1, 4), groups=st.integers(1, 3), size=st.integers(2, 8))
def test_n_of_m_masks(data: st.DataObject, rows: int, groups: int, size: int) -> None:
    """Exactly N of every M consecutive columns stay, the largest; ties go from the left."""
    pattern = SemiStructured(data.draw(st.integers(1, size - 1)), size)
    values = data.draw(st.sampled_from([FEW_VALUES, ANY_VALUES]))
    scores = data.draw(arrays.arrays(np.float32, (rows, groups * size), elements=values))
    for group in ("row", "matrix"):
        assert keep_mask(torch.from_numpy(scores), pattern, group).tolist() == oracle(scores, pattern, group)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("pattern", "group"),
    [(Unstructured(0.6), "row"), (Unstructured(0.6), "matrix"), (SemiStructured(4, 8), "row")],
)
def test_large_masks_in_every_type(dtype: torch.dtype, pattern: Pattern, group: ComparisonGroup) -> None:
    """In half precision thousands of scores tie; counts stay exact and the order is that of the oracle."""
    scores_OI = torch.randn(24, 256, generator=torch.Generator().manual_seed(0)).abs().to(dtype)
    assert keep_mask(scores_OI, pattern, group).tolist() == oracle(scores_OI.tolist(), pattern, group)


@pytest.mark.parametrize("pattern", [Unstructured(0.5), SemiStructured(2, 4)])
def test_masks_of_transposed_scores(pattern: Pattern) -> None:
    """Memory layout changes nothing: SparseGPT hands in transposed views."""
    scores_IO = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
    for group in ("row", "matrix"):
        assert keep_mask(scores_IO.T, pattern, group).tolist() == oracle(scores_IO.T.tolist(), pattern, group)


def test_too_few_weights_to_prune_keeps_all() -> None:
    """`int(size * sparsity)` may be 0."""
    assert keep_mask(torch.randn(2, 3), Unstructured(0.3), "row").all()
