"""What LoRAPrune estimates of the gradients of weights that only their adapters have, and its schedule."""

from torch import Tensor

WARM = 0.1
"""Part of the steps before the first cut, and after the last."""


def sensitivity(
    weight_OI: Tensor, adapter: tuple[Tensor, Tensor], gradients: tuple[Tensor, Tensor], scale: float
) -> Tensor:
    """S [O, I] of a linear.

    Args:
        adapter: A [R, I] and B [O, R]; gradients: of the two.
    """
    (a_RI, b_OR), (da_RI, db_OR) = adapter, gradients
    estimated_OI = db_OR @ a_RI + b_OR @ da_RI - db_OR @ da_RI
    return (estimated_OI * (weight_OI + scale * (b_OR @ a_RI))).abs()


def progress(step: int, steps: int) -> float:
    """Which part of what is to go has gone at a step: 0 at first, 1 at last, cubic in between."""
    at = min(max((step - WARM * steps) / ((1 - 2 * WARM) * steps), 0.0), 1.0)
    return 1.0 - (1.0 - at) ** 3
