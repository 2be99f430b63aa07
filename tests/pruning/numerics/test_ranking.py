"""The smallest weights of a whole model, step by step."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from harness.patterns import SemiStructured, Unstructured
from harness.pruning.numerics.ranking import none_removed, remove_globally, smallest


def layers(values: list[list[float]]) -> dict[str, Tensor]:
    """Scores of layers of one row each."""
    return {f"layer{number}": torch.tensor([row]) for number, row in enumerate(values)}


@given(
    st.lists(
        st.lists(st.sampled_from([0.0, 1e-30, 0.5, 0.5, 2.0, 7.0]), min_size=1, max_size=9), min_size=1, max_size=4
    ),
    st.floats(0.0, 1.0),
    st.floats(0.0, 1.0),
)
def test_the_smallest_of_all_layers_go_in_exact_numbers(values: list[list[float]], part: float, more: float) -> None:
    """Beside a stable sort of all scores in one list; what was taken before stays taken and is counted."""
    scores = layers(values)
    flat = [score for row in values for score in row]
    order = sorted(range(len(flat)), key=lambda place: flat[place])  # Python sorts stably
    first = int(len(flat) * part)
    found = smallest(scores, none_removed(scores), first)
    expected = torch.zeros(len(flat), dtype=torch.bool)
    expected[order[:first]] = True
    assert torch.equal(torch.cat([mask.flatten() for mask in found.values()]), expected)
    second = first + int((len(flat) - first) * more)
    shuffled = {name: score.flip(1) for name, score in scores.items()}
    after = smallest(shuffled, found, second)
    assert all(bool(after[name][found[name]].all()) for name in found)
    assert sum(int(mask.sum()) for mask in after.values()) == second


def test_progress_is_a_part_of_the_way() -> None:
    """Half of the way to 50 % is a quarter of all weights, wherever they lie."""
    scores = layers([[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]])
    half = remove_globally(scores, none_removed(scores), Unstructured(0.5), 0.5)
    assert half["layer0"].tolist() == [[True, True, False, False]]
    whole = remove_globally(scores, half, Unstructured(0.5))
    assert whole["layer0"].all()
    assert not whole["layer1"].any()


@pytest.mark.parametrize("pattern", [SemiStructured(2, 4), SemiStructured(1, 4), SemiStructured(3, 8)])
def test_groups_go_whole_and_cheapest_first(pattern: SemiStructured) -> None:
    """After a third of the way a third of the groups are N:M and the others are dense; in the end all are N:M."""
    stream = torch.Generator().manual_seed(0)
    scores = {name: torch.rand(6, 24, generator=stream) for name in ("a", "b")}
    third = remove_globally(scores, none_removed(scores), pattern, 1 / 3)
    counts = torch.cat([mask.reshape(-1, pattern.group).sum(dim=1) for mask in third.values()])
    away = pattern.group - pattern.keep
    assert sorted(counts.unique().tolist()) == [0, away]
    assert int((counts == away).sum()) == len(counts) // 3
    costs = torch.cat(
        [score.reshape(-1, pattern.group).sort(dim=1).values[:, :away].sum(dim=1) for score in scores.values()]
    )
    assert float(costs[counts == away].max()) <= float(costs[counts == 0].min())
    whole = remove_globally({name: score.flip(1) for name, score in scores.items()}, third, pattern)
    for name, mask_OI in whole.items():
        assert mask_OI.reshape(-1, pattern.group).sum(dim=1).unique().tolist() == [away]
        assert bool(mask_OI[third[name]].all())


def test_scores_that_are_no_numbers_fail_loudly() -> None:
    """NaN has no rank, and infinity is an overflow."""
    for bad in (torch.nan, torch.inf):
        scores = layers([[1.0, bad]])
        with pytest.raises(ArithmeticError, match="layer0"):
            remove_globally(scores, none_removed(scores), Unstructured(0.5))
