"""Sparsity patterns: where zeros may lie.  Illegal patterns cannot be written.

*Sparsity* is the fraction of weights that are zero.  *N:M* keeps N of every M consecutive weights along
in_features; the published codes' ``prune_n`` counts the removed ones, which is equal only at 50 %.
"""

import re
from dataclasses import dataclass

from harness.errors import UserError


@dataclass(frozen=True, slots=True)
class Unstructured:
    """Zeros anywhere.

    Args:
        sparsity: fraction of zeros, strictly between 0 and 1.

    Raises:
        UserError: `sparsity` is outside its range.
    """

    sparsity: float

    def __post_init__(self) -> None:
        if not 0.0 < self.sparsity < 1.0:
            raise UserError(f"sparsity={self.sparsity:g} is not a fraction of zeros; allowed: 0 < sparsity < 1")

    @property
    def label(self) -> str:
        return "unstructured"

    @property
    def slug(self) -> str:
        """The part of a job id that names the pattern."""
        return f"unstructured-{self.sparsity:g}"


@dataclass(frozen=True, slots=True)
class SemiStructured:
    """N:M sparsity: `keep` of every `group` consecutive weights along in_features survive.

    Raises:
        UserError: not 1 <= keep < group.
    """

    keep: int
    group: int

    def __post_init__(self) -> None:
        if not 1 <= self.keep < self.group:
            raise UserError(f"pattern={self.keep}:{self.group} is not N:M (N kept of every M); allowed: 1 <= N < M")

    @property
    def sparsity(self) -> float:
        return 1.0 - self.keep / self.group

    @property
    def label(self) -> str:
        return f"{self.keep}:{self.group}"

    @property
    def slug(self) -> str:
        """The part of a job id that names the pattern."""
        return f"nm-{self.keep}-{self.group}"

    def check_width(self, in_features: int, name: str) -> None:
        """Raise `UserError` when a layer's rows cannot be cut into whole groups."""
        if in_features % self.group:
            raise UserError(
                f"pattern={self.label} needs in_features divisible by {self.group}; "
                f"{name} has {in_features} (choose a group that divides it)"
            )


Pattern = Unstructured | SemiStructured

N_OF_M = re.compile(r"(\d+):(\d+)")


def parse_n_of_m(text: str) -> SemiStructured | None:
    """`"2:4"` -> `SemiStructured(2, 4)`; None when the text is not of the form N:M.

    Raises:
        UserError: the text is N:M with numbers that make no pattern.
    """
    match = N_OF_M.fullmatch(text.strip())
    return SemiStructured(int(match[1]), int(match[2])) if match else None
