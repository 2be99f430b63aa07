"""How the sparsity of a model is spread over its layers."""

from collections.abc import Iterable

from harness.errors import unknown
from harness.job import Choice
from harness.patterns import Pattern

ALLOCATIONS = {"uniform": "the requested pattern in every layer"}
"""Known allocations with one line each."""


def allocate(choice: Choice, pattern: Pattern, layers: Iterable[str]) -> dict[str, Pattern]:
    """The pattern of every layer, by its path in the model.

    Raises:
        UserError: unknown allocation.
    """
    if choice.name not in ALLOCATIONS:
        raise unknown("allocation", choice.name, ALLOCATIONS)
    return dict.fromkeys(layers, pattern)
