"""Uniform: the requested pattern in every layer."""

from dataclasses import dataclass

from harness.patterns import Channels, SemiStructured, Structured, Unstructured
from harness.pruning.allocations.base import ALLOCATIONS, UNIFORM, Allocation


@ALLOCATIONS.register(UNIFORM)
@dataclass(frozen=True, slots=True)
class Uniform(Allocation):
    """Every layer alike; looks at no data.

    As in the published codes a method that ranks within rows removes `int(in_features * sparsity)` weights of each row,
    which is up to one weight a row less than was asked for; the other allocations make up for it, this one does not.
    """

    patterns = (Unstructured, SemiStructured, Channels, Structured)
