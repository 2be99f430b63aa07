"""Statistics of a linear layer's input, accumulated in float32 over calibration batches.

`x_TI` holds one row a token; statistics count tokens and sequences, because some methods average over the one and
some over the other.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, MutableMapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

if TYPE_CHECKING:  # methods import this module to name what they need; planning a job must not load torch
    import torch
    from torch import Tensor


class Statistic(ABC):
    """What a method may need to know of a layer's input; empty at first.

    Attributes:
        complexity: what it costs a method to use it in a layer of width d.
    """

    complexity: ClassVar[str] = "O(d²)"

    def __init__(self, in_features: int, device: torch.device) -> None:
        self.num_tokens = 0
        self.num_sequences = 0

    @abstractmethod
    def update(self, x_TI: Tensor, num_sequences: int) -> None:
        """Add a batch of T tokens that come from `num_sequences` sequences; `x_TI` is left as it is."""


def _zeros(device: torch.device, *shape: int) -> Tensor:
    import torch

    return torch.zeros(shape, dtype=torch.float32, device=device)


def _sequences(x_TI: Tensor, num_sequences: int) -> tuple[Tensor, ...]:
    """The tokens of every sequence; those of an expert of a mixture are no whole sequences, and stay together."""
    return x_TI.chunk(num_sequences if len(x_TI) % num_sequences == 0 else 1)


CACHED_ROWS = 256
"""Rows squared at a time on a CPU: so many fit its cache, also as float32 copies of bfloat16."""


PANELS_FROM, PANELS = 512, 3
"""A Hessian of so many features is made in so many panels of rows, each from its diagonal on: two thirds the work."""


class FeatureNorm(Statistic):
    """Squared L2 norm of every input feature, averaged over sequences (Wanda's `scaler_row`)."""

    def __init__(self, in_features: int, device: torch.device) -> None:
        super().__init__(in_features, device)
        self.sum_of_squares_I = _zeros(device, in_features)

    def update(self, x_TI: Tensor, num_sequences: int) -> None:
        for part_TI in x_TI.split(CACHED_ROWS if x_TI.device.type == "cpu" else len(x_TI)):
            self.sum_of_squares_I += part_TI.float().square().sum(dim=0)
        self.num_tokens += x_TI.shape[0]
        self.num_sequences += num_sequences

    @property
    def l2_I(self) -> Tensor:
        """sqrt(mean over sequences of the sum of squares over tokens)."""
        return (self.sum_of_squares_I / self.num_sequences).sqrt()


class FeatureActivity(Statistic):
    """How active every input feature is in a sequence: its mean magnitude there."""

    def __init__(self, in_features: int, device: torch.device) -> None:
        super().__init__(in_features, device)
        self.squared_means_I = _zeros(device, in_features)

    def update(self, x_TI: Tensor, num_sequences: int) -> None:
        for part_TI in _sequences(x_TI, num_sequences):
            self.squared_means_I += part_TI.float().abs().mean(dim=0).square()
        self.num_tokens += len(x_TI)
        self.num_sequences += num_sequences

    @property
    def l2_I(self) -> Tensor:
        """Root of the sum over sequences of the square of the mean over tokens of |x|."""
        return self.squared_means_I.sqrt()


class FeatureMoments(Statistic):
    """Sum and variance of every input feature within sequences (DSnoT: Zhang et al. 2023, arXiv 2310.08915).

    The variance is that of a sequence's tokens around the sequence's own mean, divided by their number, averaged over
    sequences with their tokens as weights; how the means of sequences differ is not in it.  It is summed from
    deviations, never as a difference of squares, so that features far from 0 keep their digits.
    """

    def __init__(self, in_features: int, device: torch.device) -> None:
        super().__init__(in_features, device)
        self.sum_I = _zeros(device, in_features)
        self.squared_deviations_I = _zeros(device, in_features)

    def update(self, x_TI: Tensor, num_sequences: int) -> None:
        for part_TI in _sequences(x_TI, num_sequences):
            part_TI = part_TI.float()
            mean_I = part_TI.mean(dim=0)
            self.sum_I += mean_I * len(part_TI)
            self.squared_deviations_I += (part_TI - mean_I).square().sum(dim=0)
        self.num_tokens += len(x_TI)
        self.num_sequences += num_sequences

    @property
    def mean_sum_I(self) -> Tensor:
        """Mean over sequences of the sum over their tokens."""
        return self.sum_I / self.num_sequences

    @property
    def variance_I(self) -> Tensor:
        """Token-weighted mean of the variances within sequences."""
        return self.squared_deviations_I / self.num_tokens


class FeatureFluctuation(Statistic):
    """Mean and variance of every input feature over all tokens, and FLAP's published estimate of the latter.

    The exact variance is merged from the deviations of each sequence.  The published code (An et al. 2024,
    `lib/layerwrapper.py`) has a recursion over sequences that forgets the first one: F_1 = 0 and
    F_n = F_(n-1) (n-2)/(n-1) + 1/n sum over tokens of (x - m_n)^2, with the mean m_n over the first n sequences.
    """

    def __init__(self, in_features: int, device: torch.device) -> None:
        super().__init__(in_features, device)
        self.mean_I = _zeros(device, in_features)
        self.squared_deviations_I = _zeros(device, in_features)
        self.published_I = _zeros(device, in_features)

    @property
    def variance_I(self) -> Tensor:
        """Over all tokens, divided by their number."""
        return self.squared_deviations_I / self.num_tokens

    def update(self, x_TI: Tensor, num_sequences: int) -> None:
        for part_TI in _sequences(x_TI, num_sequences):
            part_TI = part_TI.float()
            before, self.num_tokens = self.num_tokens, self.num_tokens + len(part_TI)
            self.num_sequences += 1
            mean_I = part_TI.mean(dim=0)
            shift_I = mean_I - self.mean_I
            self.squared_deviations_I += (part_TI - mean_I).square().sum(dim=0)
            self.squared_deviations_I += shift_I.square() * (before * len(part_TI) / self.num_tokens)
            self.mean_I += shift_I * (len(part_TI) / self.num_tokens)
            if (count := self.num_sequences) > 1:
                self.published_I.mul_((count - 2) / (count - 1))
                self.published_I += (part_TI - self.mean_I).square().sum(dim=0) / count


class FeatureCovariance(Statistic):
    """Mean of every input feature and covariance of every two, over all tokens; merged from batches' deviations."""

    complexity = "O(d³)"

    def __init__(self, in_features: int, device: torch.device) -> None:
        super().__init__(in_features, device)
        self.mean_I = _zeros(device, in_features)
        self.covariance_II = _zeros(device, in_features, in_features)

    def update(self, x_TI: Tensor, num_sequences: int) -> None:
        before, self.num_tokens = self.num_tokens, self.num_tokens + len(x_TI)
        self.num_sequences += num_sequences
        mean_I = x_TI.float().mean(dim=0)
        deviations_TI, shift_I = x_TI.float() - mean_I, mean_I - self.mean_I
        self.covariance_II.mul_(before / self.num_tokens)
        self.covariance_II.addmm_(deviations_TI.T, deviations_TI, alpha=1 / self.num_tokens)
        self.covariance_II.addr_(shift_I, shift_I, alpha=before * len(x_TI) / self.num_tokens**2)
        self.mean_I += shift_I * (len(x_TI) / self.num_tokens)


class InputHessian(Statistic):
    """H = 2/n X^T X, n = sequences: the Hessian of a layer's squared output error (Frantar & Alistarh 2023).

    Accumulated one sequence after the other as a running mean, in the order and with the rounding of the published
    code: where two scores tie within rounding, the order of the sums decides which weight goes.  H is symmetric, so
    of a large one only the blocks on and above the diagonal are computed.
    """

    complexity = "O(d³)"

    def __init__(self, in_features: int, device: torch.device) -> None:
        super().__init__(in_features, device)
        self._upper_II = _zeros(device, in_features, in_features)
        self._panel = in_features if in_features < PANELS_FROM else math.ceil(in_features / PANELS)

    @property
    def hessian_II(self) -> Tensor:
        """H as a new tensor."""
        if self._panel == len(self._upper_II):
            return self._upper_II.clone()
        return self._upper_II.triu() + self._upper_II.triu(1).T

    def update(self, x_TI: Tensor, num_sequences: int) -> None:
        parts = _sequences(x_TI, num_sequences)
        for part_TI in parts:
            before, self.num_sequences = self.num_sequences, self.num_sequences + num_sequences // len(parts)
            scaled_TI = part_TI.float() * math.sqrt(2.0 / self.num_sequences)
            self._upper_II.mul_(before / self.num_sequences)
            for start in range(0, len(self._upper_II), self._panel):
                stop = start + self._panel
                self._upper_II[start:stop, start:].addmm_(scaled_TI[:, start:stop].T, scaled_TI[:, start:])
        self.num_tokens += len(x_TI)


StatisticT = TypeVar("StatisticT", bound=Statistic)
FoundT = TypeVar("FoundT")


class Statistics:
    """The statistics of one layer input, looked up by their class: `stats[FeatureNorm].l2_I`.

    Attributes:
        cache: what was worked out from them at some cost, to be used again by whoever has equal ones (a later job of
            the process); None = it is dropped.
    """

    def __init__(self, statistics: Iterable[Statistic]) -> None:
        self._by_kind: dict[type[Statistic], Statistic] = {type(statistic): statistic for statistic in statistics}
        self.cache: MutableMapping[Hashable, Any] | None = None

    def __getitem__(self, kind: type[StatisticT]) -> StatisticT:
        assert kind in self._by_kind, f"{kind.__name__} was not collected; name it in the method's `needs`"
        return cast("StatisticT", self._by_kind[kind])

    @property
    def are_finite(self) -> bool:
        """Whether no input overflowed, nor anything that was summed up."""
        import torch

        values = [value for statistic in self._by_kind.values() for value in vars(statistic).values()]
        sums = [value.sum() for value in values if isinstance(value, torch.Tensor)]  # no copies, as large as a Hessian
        return not sums or bool(torch.stack(sums).isfinite().all())

    def cached(self, key: Hashable, work_out: Callable[[], FoundT]) -> FoundT:
        """What is cached under `key`, worked out now if nothing is."""
        if self.cache is None:
            return work_out()
        if key not in self.cache:
            self.cache[key] = work_out()
        return cast("FoundT", self.cache[key])

    def update(self, x_TI: Tensor, num_sequences: int) -> None:
        """Add a batch to every statistic."""
        for statistic in self._by_kind.values():
            statistic.update(x_TI, num_sequences)
