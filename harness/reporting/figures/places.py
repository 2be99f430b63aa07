"""Where labels and markers go so that none lies on another: plane geometry in pixels, of no chart in particular."""

from collections.abc import Iterable, Sequence

from scipy.optimize import isotonic_regression

Pixel = tuple[float, float]
"""From the left and from below."""
Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""
ROUNDING = 1e-6


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The places nearest to those wanted, in their order, at least `gap` apart and inside `low` to `high`.

    Least squares under an order is isotonic regression, and its bounds are met by clipping.
    """
    order = sorted(range(len(wanted)), key=lambda number: wanted[number])
    if not order:
        return []
    moved = isotonic_regression([wanted[number] - gap * rank for rank, number in enumerate(order)]).x
    ends = moved.clip(low, max(high - gap * (len(order) - 1), low))
    found = {number: float(ends[rank]) + gap * rank for rank, number in enumerate(order)}
    return [found[number] for number in range(len(wanted))]


def side_by_side(points: Sequence[Pixel], size: float) -> list[float]:
    """How far each point moves to the right or left, by whole sizes, so that none covers one before it."""
    placed: list[Pixel] = []
    moves = []
    for x, y in points:
        near = [other for other, height in placed if abs(height - y) < size]
        steps = (sign * step * size for step in range(len(near) + 1) for sign in (1, -1))
        move = next(step for step in steps if all(abs(other - x - step) > size - ROUNDING for other in near))
        placed.append((x + move, y))
        moves.append(move)
    return moves


def crosses(box: Box, others: Iterable[Box]) -> bool:
    """Whether the box covers a part of any other."""
    return any(box[0] < one[2] and one[0] < box[2] and box[1] < one[3] and one[1] < box[3] for one in others)


def marker_boxes(centres: Iterable[Pixel], size: float) -> list[Box]:
    """The boxes of markers of this size."""
    return [(x - size / 2, y - size / 2, x + size / 2, y + size / 2) for x, y in centres]
