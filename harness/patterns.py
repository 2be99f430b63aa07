"""Sparsity patterns: where zeros may lie.  Illegal patterns cannot be written.

*Sparsity* is the fraction of weights that are zero.  *N:M* keeps N of every M consecutive weights along
in_features; the published codes' ``prune_n`` counts the removed ones, which is equal only at 50 %.  *Channels* and
*structured* patterns cut out whole units; there is nothing left that could be zero.
"""

import math
import re
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from harness.errors import UserError


class _AnyWidth:
    """What patterns have in common that fit layers of any width."""

    __slots__ = ()

    def check_width(self, in_features: int, name: str) -> None:
        """Raise `UserError` when a layer cannot have the pattern."""


@dataclass(frozen=True, slots=True)
class Unstructured(_AnyWidth):
    """Zeros anywhere.

    Args:
        sparsity: fraction of zeros, 0 to 1.  The ends are for single layers; what a job asks for lies between them.

    Raises:
        UserError: `sparsity` is outside its range.
    """

    choice: ClassVar[str] = "unstructured"
    sparsity: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.sparsity <= 1.0:
            raise UserError(f"sparsity={self.sparsity:g} is not a fraction of zeros; allowed: 0 <= sparsity <= 1")

    @classmethod
    def requested(cls, sparsity: float) -> Self:
        """The pattern that a job asks for.

        Raises:
            UserError: `sparsity` is not strictly between 0 and 1.
        """
        if not 0.0 < sparsity < 1.0:
            raise UserError(f"sparsity={sparsity:g} is not a fraction of zeros; allowed: 0 < sparsity < 1")
        return cls(sparsity)

    @classmethod
    def of_count(cls, count: int, size: int) -> Self:
        """The pattern that removes exactly `count` of `size` weights: `int(size * sparsity)` is `count`."""
        assert 0 <= count <= size, f"{count} of {size} weights"
        return cls(math.nextafter(count / size, 1.0) if count else 0.0)  # count / size may be rounded down

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

    choice: ClassVar[str] = "N:M"
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


@dataclass(frozen=True, slots=True)
class Channels(_AnyWidth):
    """Whole channels are cut out, so that layers shrink: a row of the layers that make one, a column of its reader.

    Args:
        ratio: fraction of the channels that go, strictly between 0 and 1.

    Raises:
        UserError: `ratio` is outside its range.
    """

    choice: ClassVar[str] = "channel"
    ratio: float

    def __post_init__(self) -> None:
        if not 0.0 < self.ratio < 1.0:
            raise UserError(
                f"sparsity={self.ratio:g} is not a fraction of channels to cut out; allowed: 0 < sparsity < 1"
            )

    @property
    def sparsity(self) -> float:
        """The fraction of channels; of the weights it is less, since not every weight belongs to a channel."""
        return self.ratio

    @property
    def label(self) -> str:
        return "channel"

    @property
    def slug(self) -> str:
        """The part of a job id that names the pattern."""
        return f"channel-{self.ratio:g}"


@dataclass(frozen=True, slots=True)
class Structured(_AnyWidth):
    """Whole channels, heads or blocks are cut out, whichever the method cuts, so that the model shrinks.

    Args:
        share: fraction of all parameters of the model that go, embeddings included, strictly between 0 and 1.

    Raises:
        UserError: `share` is outside its range.
    """

    choice: ClassVar[str] = "structured"
    share: float

    def __post_init__(self) -> None:
        if not 0.0 < self.share < 1.0:
            raise UserError(
                f"sparsity={self.share:g} is not a fraction of the parameters to cut out; allowed: 0 < sparsity < 1"
            )

    @property
    def sparsity(self) -> float:
        """The fraction of all parameters."""
        return self.share

    @property
    def label(self) -> str:
        return "structured"

    @property
    def slug(self) -> str:
        """The part of a job id that names the pattern."""
        return f"structured-{self.share:g}"


Pattern = Unstructured | SemiStructured | Channels | Structured

Unit = Literal["channel", "head"]
"""What can be cut out of a block; a head is a key/value head with all of its query heads."""

N_OF_M = re.compile(r"(\d+):(\d+)")


def parse_n_of_m(text: str) -> SemiStructured | None:
    """`"2:4"` -> `SemiStructured(2, 4)`; None when the text is not of the form N:M.

    Raises:
        UserError: the text is N:M with numbers that make no pattern.
    """
    match = N_OF_M.fullmatch(text.strip())
    return SemiStructured(int(match[1]), int(match[2])) if match else None
