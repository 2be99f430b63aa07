"""From the sparsities that an allocation wants for each layer to patterns that make up the requested total."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from harness.errors import UserError
from harness.patterns import Pattern, Unstructured
from harness.pruning.numerics.masks import decision_width, keeping, removable

Shapes = Mapping[str, tuple[int, int]]

TOLERANCE = 0.001
"""How far the total that N:M patterns make up may be from the request, as a fraction of all weights."""
BISECTIONS = 60
BLOCK_BOUNDS = (0.01, 0.99)
"""No block is left dense, as in the published code of OWL, and none empty."""


def meet_total(
    wanted: Mapping[str, float], shapes: Shapes, total: float, bounds: tuple[float, float] = (0.0, 1.0)
) -> dict[str, Unstructured]:
    """Patterns near the `wanted` sparsities that remove `total` of all weights of these layers, as nearly as rows let.

    All layers are shifted by the same amount (within `bounds`).  Then each gets a whole number of zeros a row, which
    any way of ranking its weights can make, the ones nearest to the next number first.  So the total is met but for
    half of one layer's rows; it matters in models of a few narrow layers only.
    """
    sizes = {name: shapes[name][0] * shapes[name][1] for name in wanted}
    shifted = shift_to_mean(wanted, sizes, total, bounds)
    exact = {name: shapes[name][1] * sparsity for name, sparsity in shifted.items()}
    rows = {name: shapes[name][0] for name in wanted}
    counts = whole_counts(exact, rows, total * sum(sizes.values()))
    return {name: Unstructured.of_count(counts[name], shapes[name][1]) for name in wanted}


def meet_n_of_m(wanted: Mapping[str, float], parts: Mapping[str, int], pattern: Pattern) -> dict[str, Pattern]:
    """N:M patterns of the parts of a model that keep near the `wanted` numbers of every M, with the mean of `pattern`.

    Args:
        parts: weights of every part.

    Raises:
        UserError: parts are of such different sizes that no whole numbers come within 0.1 % of the total.
    """
    group = decision_width(pattern, 0)
    keep = group - removable(pattern, 0)
    shifted = shift_to_mean(wanted, parts, keep, (1.0, group - 1.0))
    counts = whole_counts(shifted, parts, keep * sum(parts.values()))
    kept = sum(counts[name] * parts[name] for name in parts) / sum(parts.values())
    if abs(kept - keep) > TOLERANCE * group:
        raise UserError(
            f"parts of these sizes can be given {1.0 - kept / group:.4f} zeros, each a whole number of every {group}, "
            f"and {pattern.sparsity:g} were asked for ({pattern.label}); allowed: allocation=uniform"
        )
    return {name: keeping(count, pattern) for name, count in counts.items()}


def beyond_blocks(pattern: Pattern) -> str | None:
    """Why blocks that are neither dense nor empty cannot make up `pattern`, or None when they can."""
    least, most = BLOCK_BOUNDS
    if isinstance(pattern, Unstructured) and not least <= pattern.sparsity <= most:
        return f"it leaves every block {least:g} to {most:g} zeros, which {pattern.sparsity:g} is not between"
    return None


def spread_blocks(
    sparsities: Sequence[float],
    blocks: Sequence[Sequence[str]],
    shapes: Shapes,
    pattern: Pattern,
) -> dict[str, Pattern]:
    """Patterns of the kind of `pattern`, and with its total, for blocks that should have these sparsities."""
    if isinstance(pattern, Unstructured):
        wanted = {name: value for value, names in zip(sparsities, blocks, strict=True) for name in names}
        return dict(meet_total(wanted, shapes, pattern.sparsity, BLOCK_BOUNDS))
    group = decision_width(pattern, 0)
    keep = {str(index): (1.0 - value) * group for index, value in enumerate(sparsities)}
    sizes = {str(index): sum(math.prod(shapes[name]) for name in names) for index, names in enumerate(blocks)}
    found = meet_n_of_m(keep, sizes, pattern)
    return {name: found[str(index)] for index, names in enumerate(blocks) for name in names}


def shift_to_mean(
    wanted: Mapping[str, float], weights: Mapping[str, int], mean: float, bounds: tuple[float, float]
) -> dict[str, float]:
    """`wanted` shifted by one amount and cut to `bounds`, so that the weighted mean is `mean` (between the bounds)."""
    low, high = bounds
    assert low <= mean <= high, f"no values from {low} to {high} have the mean {mean}"

    def shifted(amount: float) -> dict[str, float]:
        return {name: min(max(value + amount, low), high) for name, value in wanted.items()}

    def excess(amount: float) -> float:
        values = shifted(amount)
        return sum(weights[name] * (values[name] - mean) for name in wanted)

    return shifted(_bisect(excess, low - max(wanted.values()), high - min(wanted.values())))


def whole_counts(exact: Mapping[str, float], rows: Mapping[str, int], total: float) -> dict[str, int]:
    """Whole numbers beside `exact` ones, of which `rows` are made each, that add up to `total` as nearly as rows let.

    The largest remainders are rounded up; of equal ones the first.
    """
    counts = {name: int(value + 1e-9) for name, value in exact.items()}  # 1e-9: what shifting loses to rounding
    missing = total - sum(counts[name] * rows[name] for name in counts)
    for name in sorted(counts, key=lambda name: counts[name] - exact[name]):
        if missing >= rows[name] / 2 and counts[name] < exact[name]:
            counts[name] += 1
            missing -= rows[name]
    return counts


def weighted_mean(values: Iterable[float], weights: Sequence[int]) -> float:
    """The mean of `values`, each counted `weights` times."""
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)


def _bisect(rising: Callable[[float], float], low: float, high: float) -> float:
    """Where a rising function crosses zero between `low` and `high`; 0 if it does so there."""
    if rising(0.0) == 0.0:
        return 0.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if rising(middle) < 0.0:
            low = middle
        else:
            high = middle
    return (low + high) / 2
