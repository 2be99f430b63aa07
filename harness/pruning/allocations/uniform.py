"""Uniform: the requested pattern in every layer."""

from dataclasses import dataclass

from harness.patterns import SemiStructured, Structured, Unstructured
from harness.pruning.allocations.base import UNIFORM, Allocation
from harness.pruning.registry import register_allocation


@register_allocation(UNIFORM)
@dataclass(frozen=True, slots=True)
class Uniform(Allocation):
    """Every layer alike; looks at no data."""

    patterns = (Unstructured, SemiStructured, Structured)
