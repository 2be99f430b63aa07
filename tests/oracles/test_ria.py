"""RIA's score and its channel permutation against loops over single weights."""

import itertools

import pytest
import torch
from torch import Tensor

from harness.calibration.statistics import FeatureNorm, Statistics
from harness.patterns import SemiStructured, Unstructured
from harness.pruning.methods.ria import RIA
from harness.pruning.numerics.masks import keep_mask
from harness.pruning.numerics.permutation import Permutation, best_permutation, keep_mask_permuted

CPU = torch.device("cpu")
TWO_OF_FOUR = SemiStructured(2, 4)


def a_weight(rows: int = 5, columns: int = 16, *, seed: int = 0) -> Tensor:
    """Without zeros and without ties."""
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def norms(columns: int = 16) -> Statistics:
    """Of inputs of uneven scale."""
    statistics = Statistics([FeatureNorm(columns, CPU)])
    x_TI = torch.randn(30, columns, generator=torch.Generator().manual_seed(9)) * torch.linspace(0.1, 4.0, columns)
    statistics.update(x_TI, 3)
    return statistics


def retained(score_OI: Tensor, order: list[int], pattern: SemiStructured) -> float:
    """What an order keeps, group by group and row by row."""
    total = 0.0
    for start in range(0, len(order), pattern.group):
        columns = order[start : start + pattern.group]
        for row in score_OI.tolist():
            total += sum(sorted((row[column] for column in columns), reverse=True)[: pattern.keep])
    return total


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_the_score_is_the_formula(power: float) -> None:
    """(|W_ij| / sum of its column + |W_ij| / sum of its row) * norm_j ** a, one weight at a time."""
    weight_OI, statistics = a_weight(), norms()
    ours_OI = RIA(activation_power=power).score(weight_OI, statistics)
    w = weight_OI.abs().double()
    for i, j in itertools.product(range(w.shape[0]), range(w.shape[1])):
        column, row = sum(float(w[k, j]) for k in range(w.shape[0])), sum(float(w[i, k]) for k in range(w.shape[1]))
        norm = float(statistics[FeatureNorm].l2_I[j])
        expected = (float(w[i, j]) / column + float(w[i, j]) / row) * norm**power
        assert float(ours_OI[i, j]) == pytest.approx(expected, rel=1e-5)


def test_a_dead_row_or_column_scores_nothing() -> None:
    """Zeros have no share of a sum of zeros; their scores are 0 and not NaN."""
    weight_OI = a_weight()
    weight_OI[2], weight_OI[:, 3] = 0.0, 0.0
    score_OI = RIA().score(weight_OI, norms())
    assert score_OI.isfinite().all()
    assert not score_OI[2].any()
    assert not score_OI[:, 3].any()


def test_the_score_is_float32_in_any_type() -> None:
    """Half-precision weights are scored as the float32 numbers that they are."""
    weight_OI = a_weight().half()
    assert torch.equal(RIA().score(weight_OI, norms()), RIA().score(weight_OI.float(), norms()))


def test_one_threshold_a_matrix_is_not_one_a_row() -> None:
    """The comparison group decides: counts of a row vary under the published default."""
    weight_OI = a_weight()
    by_matrix = RIA().prune(weight_OI, norms(), Unstructured(0.5)).weight_OI == 0
    by_row = RIA(comparison_group="row").prune(weight_OI, norms(), Unstructured(0.5)).weight_OI == 0
    assert int(by_matrix.sum()) == int(by_row.sum()) == 40
    assert by_row.sum(dim=1).unique().tolist() == [8]
    assert len(by_matrix.sum(dim=1).unique()) > 1


def dealt(score_OI: Tensor, group: int) -> list[int]:
    """Columns dealt by their sums, forwards and backwards in turn, written down group by group."""
    best_first = sorted(range(score_OI.shape[1]), key=lambda column: -float(score_OI[:, column].sum()))
    hands: list[list[int]] = [[] for _ in range(len(best_first) // group)]
    for deal in range(group):
        players = hands if deal % 2 == 0 else hands[::-1]
        for hand, column in zip(players, best_first[deal * len(hands) : (deal + 1) * len(hands)], strict=True):
            hand.append(column)
    return [column for hand in hands for column in hand]


def best_for_one_place(score_OI: Tensor, order: list[int], place: int, pattern: SemiStructured) -> float:
    """What is retained when the columns of one place go to the groups in the best of all ways, by trying all."""
    places = range(place, len(order), pattern.group)
    best = 0.0
    for columns in itertools.permutations([order[here] for here in places]):
        tried = list(order)
        for here, column in zip(places, columns, strict=True):
            tried[here] = column
        best = max(best, retained(score_OI, tried, pattern))
    return best


@pytest.mark.parametrize("pattern", [TWO_OF_FOUR, SemiStructured(1, 4), SemiStructured(3, 4)], ids=lambda p: p.label)
def test_heuristic_deals_and_assignment_improves(pattern: SemiStructured) -> None:
    """Columns that lie badly: dealing gains, assignment loses none of it, and is the best for its last place."""
    score_OI = a_weight().abs() * torch.tensor([4.0] * 8 + [0.5] * 8)
    plain = retained(score_OI, list(range(16)), pattern)
    found = {}
    kinds: tuple[Permutation, ...] = ("heuristic", "assignment")
    for kind in kinds:
        order_I, gain = best_permutation([(score_OI, pattern)], kind)
        assert order_I is not None
        found[kind] = order_I.tolist()
        assert gain == pytest.approx(retained(score_OI, found[kind], pattern) / plain - 1, rel=1e-4)
    assert found["heuristic"] == dealt(score_OI, 4)
    values = {kind: retained(score_OI, found[kind], pattern) for kind in kinds}
    assert plain < values["heuristic"] <= values["assignment"]
    assert values["assignment"] == pytest.approx(best_for_one_place(score_OI, found["assignment"], 3, pattern))


def assigned_by_trying(scored: list[tuple[Tensor, SemiStructured]]) -> list[int]:
    """Columns dealt by what they score in all linears; then, place after place of the groups, the columns of that place
    in the best of all ways, which must be one way only.
    """
    group = scored[0][1].group
    order = dealt(torch.cat([score_OI for score_OI, _ in scored]), group)
    for place in range(group):
        tried = []
        for columns in itertools.permutations(order[place::group]):
            other = list(order)
            other[place::group] = columns
            tried.append((sum(retained(score_OI, other, pattern) for score_OI, pattern in scored), other))
        tried.sort(reverse=True)
        assert tried[0][0] > tried[1][0] * (1 + 1e-9), "a tie: choose another seed"
        order = tried[0][1]
    return order


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "linears",
    [
        [(30, TWO_OF_FOUR)],
        [(30, SemiStructured(1, 4))],
        [(30, SemiStructured(4, 8))],
        [(30, TWO_OF_FOUR), (20, TWO_OF_FOUR)],
        [(30, TWO_OF_FOUR), (20, SemiStructured(1, 4))],
    ],
    ids=str,
)
def test_the_assignment_is_the_best_of_all_place_by_place(linears: list[tuple[int, SemiStructured]], seed: int) -> None:
    """All 4! ways for each place of four groups, of one linear and of two that share an input, found to the column.

    The order is not the dealt one, nor that of the other linear alone.
    """
    columns = 4 * linears[0][1].group
    scored = [
        (a_weight(rows, columns, seed=10 * seed + at).abs(), pattern) for at, (rows, pattern) in enumerate(linears)
    ]
    expected = assigned_by_trying(scored)
    order_I, _ = best_permutation(scored, "assignment")
    assert order_I is not None
    assert order_I.tolist() == expected
    assert expected != dealt(torch.cat([score_OI for score_OI, _ in scored]), linears[0][1].group)
    if len(scored) > 1:
        assert all(expected != assigned_by_trying([alone]) for alone in scored)


def test_linears_of_one_input_are_pruned_in_the_order_that_is_best_for_both() -> None:
    """Each keeps the largest of its own scores in the groups of the common order; what that gains is reported."""
    weights, statistics = [a_weight(30, seed=1), a_weight(20, seed=2)], norms()
    patterns = [TWO_OF_FOUR, SemiStructured(1, 4)]
    scored = [(RIA().score(weight, statistics), pattern) for weight, pattern in zip(weights, patterns, strict=True)]
    order = assigned_by_trying(scored)
    kept, plain = (
        sum(retained(score_OI, tried, pattern) for score_OI, pattern in scored) for tried in (order, list(range(16)))
    )
    pruned = RIA(permutation="assignment").prune_group(weights, statistics, patterns)
    for outcome, weight_OI, (score_OI, pattern) in zip(pruned, weights, scored, strict=True):
        assert outcome.permutation_I is not None
        assert outcome.permutation_I.tolist() == order
        assert outcome.details["retained_score_gain"] == pytest.approx(kept / plain - 1, rel=1e-4)
        for row, (scores, weights_I) in enumerate(zip(score_OI.tolist(), weight_OI, strict=True)):
            for start in range(0, 16, 4):
                group = order[start : start + 4]
                best = sorted(group, key=lambda column, scores=scores: -scores[column])[: pattern.keep]
                for column in group:
                    assert float(outcome.weight_OI[row, column]) == (float(weights_I[column]) if column in best else 0)


@pytest.mark.parametrize("kind", ["heuristic", "assignment"])
@pytest.mark.parametrize("seed", range(5))
def test_no_order_retains_less_than_none(kind: Permutation, seed: int) -> None:
    """Over several linears of one input together; where nothing gains, columns stay as they lie."""
    scored = [(a_weight(7, seed=seed).abs(), TWO_OF_FOUR), (a_weight(3, seed=seed + 50).abs(), SemiStructured(1, 4))]
    order_I, gain = best_permutation(scored, kind)
    order = list(range(16)) if order_I is None else order_I.tolist()
    before = sum(retained(score_OI, list(range(16)), pattern) for score_OI, pattern in scored)
    after = sum(retained(score_OI, order, pattern) for score_OI, pattern in scored)
    assert sorted(order) == list(range(16))
    assert after >= before
    assert (gain > 0) == (order_I is not None)


def test_columns_that_lie_best_stay() -> None:
    """One strong column a group is what 1:4 wants; no other order is taken for it."""
    score_OI = torch.ones(4, 16) * torch.tensor([5.0, 1.0, 1.0, 1.0] * 4)
    assert best_permutation([(score_OI, SemiStructured(1, 4))], "assignment") == (None, 0.0)


def test_the_permuted_mask_is_n_of_m_in_its_order() -> None:
    """Put into the order, the mask is that of the ordered scores; `none` gives the plain mask."""
    score_OI = a_weight().abs()
    order_I = torch.randperm(16, generator=torch.Generator().manual_seed(3))
    mask_OI = keep_mask_permuted(score_OI, TWO_OF_FOUR, order_I)
    assert torch.equal(mask_OI[:, order_I], keep_mask(score_OI[:, order_I], TWO_OF_FOUR, "row"))
    plain = RIA().prune(a_weight(), norms(), TWO_OF_FOUR)
    assert plain.permutation_I is None
    score_OI = RIA().score(a_weight(), norms())
    assert torch.equal(plain.weight_OI != 0, keep_mask(score_OI, TWO_OF_FOUR, "row"))


@pytest.mark.parametrize("kind", ["heuristic", "assignment"])
def test_an_unstructured_pattern_has_no_groups_to_order(kind: Permutation) -> None:
    """Refused with the reason and what is allowed."""
    refusal = RIA(permutation=kind).refuses(Unstructured(0.5))
    assert refusal is not None
    assert f"permutation={kind}" in refusal
    assert "allowed: permutation=none" in refusal
    assert RIA(permutation=kind).refuses(TWO_OF_FOUR) is None
    assert RIA().refuses(Unstructured(0.5)) is None
